package io.dstl.flink;

import com.google.protobuf.ByteString;
import io.dstl.flink.HandleCodec.Part;
import io.dstl.proto.v1.BackendId;
import io.dstl.proto.v1.ClaimMode;
import io.dstl.proto.v1.InnerBackend;
import io.dstl.proto.v1.KeyGroupAssignment;
import io.dstl.proto.v1.KeyGroupRange;
import io.dstl.proto.v1.OpenRequest;
import io.dstl.proto.v1.Restore;
import io.dstl.proto.v1.Retention;
import java.nio.ByteBuffer;
import java.util.List;

/**
 * What a starting subtask asks of its daemon. Pure: task and handles in, request out.
 *
 * <ul>
 *   <li>No handles: it begins empty, under its own name, a new run.
 *   <li>Handles of its own run (their {@code origin} is its own): a fail-over or a rescale. It claims them, and goes on with their run,
 *       under the name that they have.
 *   <li>Handles that somebody chose to start from, CLAIM: it goes on with their chain under their name (it adopts them), in a new run.
 *   <li>The same, NO_CLAIM: it copies them and begins a new run under its own name; nothing of theirs is let go.
 *   <li>Handles under several names (some subtasks had adopted, others had none to adopt): copied as by NO_CLAIM.
 * </ul>
 *
 * @param job the name that it opens under
 * @param operator the name that it opens under
 * @param run which retention its checkpoints belong to
 * @param adopts whether it claims checkpoints of a run before: Flink must not ask for one that is independent of them
 * @param request what to ask
 */
record OpenPlan(String job, String operator, ByteString run, boolean adopts, OpenRequest request) {
    /**
     * The task.
     *
     * @param job name of the job
     * @param operator name of the operator
     * @param subtask from 0
     * @param parallelism how many there are
     * @param first its first key group
     * @param last its last key group, inclusive
     * @param keyGroups how many the operator has
     * @param graph id of the execution graph, 16 bytes
     * @param attempt the engine's number of the attempt within that graph
     * @param origin hash of the checkpoint that somebody started the job from
     * @param claim whether that one is claimed
     */
    record Task(String job, String operator, int subtask, int parallelism, int first, int last, int keyGroups,
            ByteString graph, int attempt, long origin, boolean claim) {}

    /**
     * What the configuration says.
     *
     * @param inner where state is kept
     * @param retained how many checkpoints of a run
     * @param lingerMs how long the backend stays open without session
     */
    record Settings(InnerBackend inner, int retained, long lingerMs) {}

    static OpenPlan of(Task task, List<Part> parts, Settings settings) {
        OpenRequest.Builder request = OpenRequest.newBuilder()
                .setParallelism(task.parallelism)
                .setMaxParallelism(task.keyGroups)
                .setKeyGroups(KeyGroupRange.newBuilder().setFirst(task.first).setLast(task.last))
                .setKeyGroupAssignment(KeyGroupAssignment.KEY_GROUP_ASSIGNMENT_GIVEN)
                .setInner(settings.inner)
                .setRetention(Retention.newBuilder().setCount(settings.retained))
                .setAttemptToken(task.graph.concat(
                        ByteString.copyFrom(ByteBuffer.allocate(Integer.BYTES).putInt(task.attempt).flip())))
                .setPeerGroup(task.graph)
                .setFresh(true)
                .setLingerMs(settings.lingerMs);
        Part first = parts.isEmpty() ? null : parts.get(0);
        boolean oneName = first != null
                && parts.stream().allMatch(part -> part.job().equals(first.job()) && part.operator().equals(first.operator()));
        boolean ownRun = oneName && parts.stream().allMatch(part -> part.origin() == task.origin);
        boolean claims = oneName && (ownRun || task.claim);
        String job = claims ? first.job() : task.job;
        String operator = claims ? first.operator() : task.operator;
        ByteString run = ownRun ? run(parts) : task.graph;
        if (first == null) {
            request.setRestore(Restore.newBuilder().setEmpty(Restore.Empty.getDefaultInstance()));
        } else {
            Restore.Handles.Builder handles = Restore.Handles.newBuilder().setVouched(true);
            parts.forEach(part -> handles.addHandles(part.handle()));
            request.setRestore(Restore.newBuilder().setHandles(handles));
            request.setClaimMode(claims ? ClaimMode.CLAIM_MODE_CLAIM : ClaimMode.CLAIM_MODE_NO_CLAIM);
        }
        request.setRun(run);
        request.setBackend(BackendId.newBuilder().setJob(job).setOperator(operator).setSubtask(task.subtask));
        return new OpenPlan(job, operator, run, claims && !ownRun, request.build());
    }

    /** Subtasks that began empty have runs of their own: of several, the same one for everybody. */
    private static ByteString run(List<Part> parts) {
        return parts.stream().map(Part::run).min(ByteString.unsignedLexicographicalComparator()).orElseThrow();
    }
}
