package io.dstl.client;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeoutException;
import java.util.function.BiConsumer;

/**
 * What a call will answer. Any number of threads may wait for it. Giving it up takes nothing back: what was asked is
 * carried
 * out.
 *
 * @param <T> the answer
 */
public interface Pending<T> {
    /**
     * Waits for the answer: it spins as long as {@link SessionOptions#spin()} says, then parks.
     *
     * @return the answer
     * @throws DstlException what the call met
     * @throws InterruptedException if the waiting thread was interrupted; the call goes on
     */
    T await() throws InterruptedException;

    /**
     * Waits for the answer, at most so long.
     *
     * @param atMost how long
     * @return the answer
     * @throws DstlException what the call met
     * @throws TimeoutException if there is no answer yet; the call goes on
     * @throws InterruptedException if the waiting thread was interrupted; the call goes on
     */
    T await(Duration atMost) throws InterruptedException, TimeoutException;

    /**
     * Whether there is an answer, or an error.
     *
     * @return true once {@link #await()} would not wait
     */
    boolean isDone();

    /**
     * Calls back once, with the answer or the error (the other one is null), on the executor of the session or
     * connection;
     * at once on this thread where there is an answer already.
     *
     * @param callback what to call; what it throws goes to the thread's uncaught-exception handler
     */
    void whenDone(BiConsumer<? super T, ? super DstlException> callback);

    /**
     * A future of the same answer, completed as by {@link #whenDone}, so that its dependents run on that executor.
     *
     * @return a new future; cancelling it takes nothing back
     */
    default CompletableFuture<T> future() {
        CompletableFuture<T> future = new CompletableFuture<>();
        whenDone((answer, error) -> {
            if (error == null) {
                future.complete(answer);
            } else {
                future.completeExceptionally(error);
            }
        });
        return future;
    }
}
