package io.dstl.flink;

import io.dstl.client.DstlException;
import java.util.function.Consumer;
import org.apache.flink.runtime.execution.Environment;

/**
 * Hears first when a session is over: the backend is marked as failed, then the task fails, and only then do requests fail that wait. So
 * no checkpoint is handed to Flink, nor any write lost in silence, however many failed checkpoints the job tolerates.
 */
final class Failures implements Consumer<DstlException> {
    private final Environment environment;
    private WriteBehind out;
    private DstlException early;

    Failures(Environment environment) {
        this.environment = environment;
    }

    synchronized void tells(WriteBehind to) {
        out = to;
        if (early != null) {
            accept(early);
        }
    }

    @Override
    public synchronized void accept(DstlException error) {
        if (out == null) {
            early = error;
            return;
        }
        out.fail(error);
        environment.failExternally(new DaemonFailure(Messages.of(error), error));
    }
}
