package io.dstl.client;

import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** Where code of callers runs. */
final class Callbacks {
    /** How long the thread waits for another callback before it ends. */
    private static final long IDLE_SECONDS = 10;

    private Callbacks() {}

    /** One daemon thread, in order, that is there only while it is needed. */
    static ThreadPoolExecutor own(String name) {
        ThreadPoolExecutor executor = new ThreadPoolExecutor(
                1, 1, IDLE_SECONDS, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), task -> Threads.plain(task, name));
        executor.allowCoreThreadTimeOut(true);
        return executor;
    }

    /** Runs a callback there; where that executor is shut down, here: it must not be lost. */
    static void run(Executor executor, Runnable callback) {
        try {
            executor.execute(callback);
        } catch (RejectedExecutionException shutDown) {
            callback.run();
        }
    }
}
