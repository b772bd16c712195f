package io.dstl.client;

import io.grpc.netty.shaded.io.netty.util.concurrent.FastThreadLocalThread;
import java.util.concurrent.atomic.AtomicReference;

/** Makes daemon threads that take nothing over from whoever makes them: no class loader, no inherited values. */
final class Threads {
    private Threads() {}

    static Thread plain(Runnable task, String name) {
        return tuned(new Thread(null, task, name, 0, false));
    }

    /** One of Netty's own kind, which its buffers are faster on. That kind inherits, so a clean thread makes it. */
    static Thread forNetty(Runnable task, String name) {
        AtomicReference<Thread> made = new AtomicReference<>();
        Thread maker = plain(() -> made.set(new FastThreadLocalThread(task, name)), name + "-maker");
        maker.start();
        boolean interrupted = false;
        while (true) {
            try {
                maker.join();
                break;
            } catch (InterruptedException interrupt) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        return tuned(made.get());
    }

    private static Thread tuned(Thread thread) {
        thread.setDaemon(true);
        thread.setContextClassLoader(Threads.class.getClassLoader());
        return thread;
    }
}
