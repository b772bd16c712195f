package io.dstl.client;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.time.Duration;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BiConsumer;
import java.util.function.Consumer;

/**
 * A {@link Pending} and the end of it that completes it. Completing wakes threads itself and hands callbacks to an
 * executor.
 */
class Completion<T> implements Pending<T> {
    private static final VarHandle STATE;

    static {
        try {
            STATE = MethodHandles.lookup().findVarHandle(Completion.class, "state", Object.class);
        } catch (ReflectiveOperationException impossible) {
            throw new ExceptionInInitializerError(impossible);
        }
    }

    private final Executor executor;
    private final long spinNanos;
    /** Null, a {@link Waiter} that others follow, or {@link Done}: the last one. */
    private volatile Object state;

    Completion(Executor executor, Duration spin) {
        this.executor = executor;
        this.spinNanos = spin.toNanos();
    }

    Completion(Executor executor) {
        this(executor, Duration.ZERO);
    }

    private record Done(Object answer, DstlException error) {}

    /** A thread that parks, or a callback. */
    private record Waiter(Thread thread, Consumer<Done> callback, Object next) {}

    /** Answers; false if it was answered before. */
    boolean complete(T answer) {
        return settle(new Done(answer, null));
    }

    /** Fails; false if it was answered before. */
    boolean fail(DstlException error) {
        return settle(new Done(null, error));
    }

    private boolean settle(Done done) {
        while (true) {
            Object before = state;
            if (before instanceof Done) {
                return false;
            }
            if (STATE.compareAndSet(this, before, done)) {
                wake((Waiter) before, done);
                return true;
            }
        }
    }

    private void wake(Waiter last, Done done) {
        Waiter first = null;
        for (Waiter at = last; at != null; at = (Waiter) at.next) {
            first = new Waiter(at.thread, at.callback, first);
        }
        for (Waiter at = first; at != null; at = (Waiter) at.next) {
            if (at.thread != null) {
                LockSupport.unpark(at.thread);
            } else {
                at.callback.accept(done);
            }
        }
    }

    @Override
    public T await() throws InterruptedException {
        Done done = spin();
        if (done == null) {
            done = park(Long.MAX_VALUE);
        }
        return answer(done);
    }

    @Override
    public T await(Duration atMost) throws InterruptedException, TimeoutException {
        long deadline = System.nanoTime() + atMost.toNanos();
        Done done = spin();
        if (done == null) {
            done = park(Math.max(1, deadline - System.nanoTime()));
        }
        if (done == null) {
            throw new TimeoutException("no answer within " + atMost);
        }
        return answer(done);
    }

    private Done spin() {
        if (spinNanos > 0) {
            long begin = System.nanoTime();
            while (!(state instanceof Done) && System.nanoTime() - begin < spinNanos) {
                Thread.onSpinWait();
            }
        }
        return state instanceof Done done ? done : null;
    }

    private Done park(long nanos) throws InterruptedException {
        long deadline = nanos == Long.MAX_VALUE ? 0 : System.nanoTime() + nanos;
        if (add(new Waiter(Thread.currentThread(), null, state)) instanceof Done done) {
            return done;
        }
        while (true) {
            if (state instanceof Done done) {
                return done;
            }
            if (Thread.interrupted()) {
                throw new InterruptedException("interrupted while the daemon's answer was awaited");
            }
            if (nanos == Long.MAX_VALUE) {
                LockSupport.park(this);
            } else {
                long left = deadline - System.nanoTime();
                if (left <= 0) {
                    return null;
                }
                LockSupport.parkNanos(this, left);
            }
        }
    }

    /** Adds a waiter, unless there is an answer, which it returns. */
    private Object add(Waiter waiter) {
        while (true) {
            Object before = state;
            if (before instanceof Done) {
                return before;
            }
            if (STATE.compareAndSet(this, before, new Waiter(waiter.thread, waiter.callback, before))) {
                return null;
            }
        }
    }

    @SuppressWarnings("unchecked")
    private T answer(Done done) {
        if (done.error != null) {
            throw done.error;
        }
        return (T) done.answer;
    }

    @Override
    public boolean isDone() {
        return state instanceof Done;
    }

    /** Calls back on the thread that completes it: for the client's own code, which does not wait. */
    void whenDoneHere(BiConsumer<? super T, ? super DstlException> callback) {
        callBack(Runnable::run, callback);
    }

    @Override
    public void whenDone(BiConsumer<? super T, ? super DstlException> callback) {
        callBack(executor, callback);
    }

    @SuppressWarnings("unchecked")
    private void callBack(Executor on, BiConsumer<? super T, ? super DstlException> callback) {
        Consumer<Done> told = done -> callback.accept((T) done.answer, done.error);
        if (add(new Waiter(null, done -> Callbacks.run(on, () -> told.accept(done)), null)) instanceof Done done) {
            told.accept(done);
        }
    }
}
