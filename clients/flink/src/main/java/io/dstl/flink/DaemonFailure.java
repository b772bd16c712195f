package io.dstl.flink;

import org.apache.flink.util.FlinkRuntimeException;

/** The daemon, or the way to it, failed: the task must fail and be restored. */
final class DaemonFailure extends FlinkRuntimeException {
    private static final long serialVersionUID = 1;

    DaemonFailure(String message, Throwable cause) {
        super(message, cause);
    }

    DaemonFailure(String message) {
        super(message);
    }
}
