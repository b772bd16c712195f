package io.dstl.flink;

import io.dstl.client.DstlException;

/** What Flink's log says of an error of the daemon: its own words, and which setting to change. */
final class Messages {
    private Messages() {}

    static String of(DstlException error) {
        String hint = hint(error);
        return "dstl: " + error.getMessage() + (hint.isEmpty() ? "" : ". " + hint);
    }

    private static String hint(DstlException error) {
        return switch (error.reason()) {
            case REASON_STATE_MEMORY -> "The daemon's memory for state is full: raise `memory.state` of the daemon, let it keep state"
                    + " on disk (`state.backend.dstl.inner: rocksdb`), or spread the job over more TaskManagers";
            case REASON_CHANGE_MEMORY -> "The daemon cannot hold the changes of one more backend: raise"
                    + " `state.changelog.dstl.dfs.upload.max-in-flight` of the daemon, or lower `taskmanager.numberOfTaskSlots`";
            case REASON_MESSAGE_TOO_LARGE -> "Raise `rpc.max-message-size` of the daemon";
            case REASON_LIMIT_EXCEEDED -> "Raise `rpc.max-value-size` (and `rpc.max-message-size` above it) of the daemon";
            case REASON_CHECKPOINT_NOT_FOUND -> "The store of this daemon does not have it. Either the daemon is on another store than"
                    + " the one that the checkpoint was written to (its `--store`; every TaskManager's daemon needs the same), or the"
                    + " checkpoint, or the whole store, was deleted: then start from another checkpoint"
                    + " (`execution.state-recovery.path`)";
            case REASON_CORRUPT_OBJECT, REASON_MISSING_OBJECT -> "The store lost a part of the checkpoint: start from another one"
                    + " (`execution.state-recovery.path`)";
            case REASON_TOO_MANY_CHECKPOINTS -> "Lower `execution.checkpointing.num-retained` or"
                    + " `execution.checkpointing.max-concurrent-checkpoints`";
            case REASON_STORE_UNAVAILABLE -> "The daemon's store does not answer";
            case REASON_FENCED -> "Another start of this task took over";
            case REASON_DRAINING -> "The daemon is stopping; the task restarts elsewhere or once the next daemon listens";
            default -> "";
        };
    }
}
