package io.dstl.client;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.BackendId;
import io.dstl.proto.v1.ChangelogMode;
import io.dstl.proto.v1.ClaimMode;
import io.dstl.proto.v1.InnerBackend;
import io.dstl.proto.v1.KeyGroupAssignment;
import io.dstl.proto.v1.KeyGroupRange;
import io.dstl.proto.v1.OpenRequest;
import io.dstl.proto.v1.Restore;
import io.dstl.proto.v1.Retention;
import java.time.Duration;
import java.util.List;

/**
 * Builds an {@code OpenRequest}. What is not set is the daemon's default; {@link #request()} gives access to every
 * field.
 */
public final class OpenOptions {
    private final OpenRequest.Builder request;

    private OpenOptions(OpenRequest.Builder request) {
        this.request = request;
    }

    /**
     * The only subtask of an operator, attempt 0, restoring the latest checkpoint or starting empty.
     *
     * @param job its name
     * @param operator its name
     * @return the options
     */
    public static OpenOptions of(String job, String operator) {
        OpenRequest.Builder request = OpenRequest.newBuilder()
                .setBackend(BackendId.newBuilder().setJob(job).setOperator(operator))
                .setParallelism(1);
        return new OpenOptions(request).latest(true);
    }

    /**
     * One subtask of several.
     *
     * @param subtask from 0
     * @param parallelism how many there are
     * @return this
     */
    public OpenOptions subtask(int subtask, int parallelism) {
        request.getBackendBuilder().setSubtask(subtask);
        request.setParallelism(parallelism);
        return this;
    }

    /**
     * The number of key groups; fixed for the life of the state.
     *
     * @param keyGroups 1 to 32768
     * @return this
     */
    public OpenOptions maxParallelism(int keyGroups) {
        request.setMaxParallelism(keyGroups);
        return this;
    }

    /**
     * The subtask's key groups, instead of those that Flink would give it.
     *
     * @param first inclusive
     * @param last inclusive
     * @return this
     */
    public OpenOptions keyGroups(int first, int last) {
        request.setKeyGroups(KeyGroupRange.newBuilder().setFirst(first).setLast(last));
        return this;
    }

    /**
     * Who computes key groups; fixed for the life of the state.
     *
     * @param assignment daemon or client
     * @return this
     */
    public OpenOptions assignment(KeyGroupAssignment assignment) {
        request.setKeyGroupAssignment(assignment);
        return this;
    }

    /**
     * Where the state lives in the daemon.
     *
     * @param inner memory or RocksDB
     * @return this
     */
    public OpenOptions inner(InnerBackend inner) {
        request.setInner(inner);
        return this;
    }

    /**
     * Whether changes are logged.
     *
     * @param mode with or without changelog
     * @return this
     */
    public OpenOptions changelog(ChangelogMode mode) {
        request.setChangelog(mode);
        return this;
    }

    /**
     * Orders the owners of one backend: each new start of the task takes a higher one.
     *
     * @param attempt from 0
     * @return this
     */
    public OpenOptions attempt(long attempt) {
        request.setAttempt(attempt);
        return this;
    }

    /**
     * Names this start by a token instead of an attempt, for engines whose numbers begin anew: the daemon takes the
     * job's next attempt
     * for it. Needs the feature {@code open.attempt-token}.
     *
     * @param token 1 to 64 bytes, the same for all subtasks of the start, never given again
     * @return this
     */
    public OpenOptions attemptToken(byte[] token) {
        request.setAttempt(0).setAttemptToken(ByteString.copyFrom(token));
        return this;
    }

    /**
     * Restores also where an owner of this very attempt is open on the daemon, rather than to find it again. Needs
     * the feature
     * {@code open.attempt-token}.
     *
     * @return this
     */
    public OpenOptions fresh() {
        request.setFresh(true);
        return this;
    }

    /**
     * Owners with the same group are parts of one start and neither fence nor outdate each other where they only
     * read. Needs the
     * feature {@code open.peer-group}.
     *
     * @param group up to 64 bytes
     * @return this
     */
    public OpenOptions peerGroup(byte[] group) {
        request.setPeerGroup(ByteString.copyFrom(group));
        return this;
    }

    /**
     * The run of the job within which retention by count counts. Needs the feature {@code open.run}.
     *
     * @param run up to 64 bytes; that of the restored checkpoint to go on with its retention
     * @return this
     */
    public OpenOptions run(byte[] run) {
        request.setRun(ByteString.copyFrom(run));
        return this;
    }

    /**
     * How long the backend stays open without a session. Needs the feature {@code open.linger}.
     *
     * @param time zero: the daemon's own setting
     * @return this
     */
    public OpenOptions linger(Duration time) {
        request.setLingerMs(time.toMillis());
        return this;
    }

    /**
     * Begins with nothing.
     *
     * @return this
     */
    public OpenOptions empty() {
        request.setRestore(Restore.newBuilder().setEmpty(Restore.Empty.getDefaultInstance()));
        return this;
    }

    /**
     * Restores the newest checkpoint that every subtask of the job can restore.
     *
     * @param orEmpty begin with nothing where there is none, instead of being refused
     * @return this
     */
    public OpenOptions latest(boolean orEmpty) {
        request.setRestore(Restore.newBuilder().setLatest(Restore.Latest.newBuilder().setOrEmpty(orEmpty)));
        return this;
    }

    /**
     * Restores the newest checkpoint with this id.
     *
     * @param id at least 1
     * @return this
     */
    public OpenOptions checkpoint(long id) {
        request.setRestore(Restore.newBuilder().setId(id));
        return this;
    }

    /**
     * Restores what handles name.
     *
     * @param handles as {@code CheckpointCompleted} gave them
     * @return this
     */
    public OpenOptions handles(List<ByteString> handles) {
        request.setRestore(Restore.newBuilder().setHandles(Restore.Handles.newBuilder().addAllHandles(handles)));
        return this;
    }

    /**
     * Restores what handles name, of whatever attempts, jobs and operators: the engine says that they belong
     * together. Key groups
     * in none of them begin empty. Needs the feature {@code handles.vouched}.
     *
     * @param handles as {@code CheckpointCompleted} gave them
     * @return this
     */
    public OpenOptions vouchedHandles(List<ByteString> handles) {
        request.setRestore(Restore.newBuilder()
                .setHandles(Restore.Handles.newBuilder().addAllHandles(handles).setVouched(true)));
        return this;
    }

    /**
     * Restores a savepoint.
     *
     * @param url where it lies in the store
     * @return this
     */
    public OpenOptions savepoint(String url) {
        request.setRestore(Restore.newBuilder().setSavepoint(url));
        return this;
    }

    /**
     * Where the checkpoint to restore (by id, or the latest) is damaged, begin with the newest one before it that is
     * not. Call
     * it after {@link #latest} or {@link #checkpoint}.
     *
     * @return this
     */
    public OpenOptions fallback() {
        request.getRestoreBuilder().setFallback(true);
        return this;
    }

    /**
     * Who owns what is restored from then on.
     *
     * @param mode the new owner, or nobody
     * @return this
     */
    public OpenOptions claim(ClaimMode mode) {
        request.setClaimMode(mode);
        return this;
    }

    /**
     * Keeps the newest completed checkpoints.
     *
     * @param count at least 1
     * @return this
     */
    public OpenOptions retain(int count) {
        request.setRetention(Retention.newBuilder().setCount(count));
        return this;
    }

    /**
     * Keeps completed checkpoints until a notice lets them go.
     *
     * @return this
     */
    public OpenOptions retainExplicitly() {
        request.setRetention(Retention.newBuilder().setExplicit(Retention.Explicit.getDefaultInstance()));
        return this;
    }

    /**
     * The request so far, to be changed.
     *
     * @return the builder itself
     */
    public OpenRequest.Builder request() {
        return request;
    }

    /**
     * The request.
     *
     * @return what {@link DstlClient#open(OpenRequest)} takes
     */
    public OpenRequest build() {
        return request.build();
    }
}
