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
