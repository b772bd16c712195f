package io.dstl.client;

import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;

/** What waits for credit in a session, in bytes, and callers who wait until it is less. Thread-safe. */
final class Room implements Book.Watcher {
    private final long most;
    private final AtomicLong unsentBytes = new AtomicLong();
    private final AtomicLong unsentCost = new AtomicLong();
    /** Written by the lane's thread alone. */
    private volatile long freeCredit;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    /** Callers that wait; read without the lock. */
    private volatile int waiting;

    Room(long most) {
        this.most = most;
    }

    boolean isThere() {
        return unsentBytes.get() < most;
    }

    /** Waits until there is room, or {@code over}. */
    void await(BooleanSupplier over) throws InterruptedException {
        if (isThere()) {
            return;
        }
        lock.lockInterruptibly();
        try {
            waiting++;
            // Order: first the waiter counts itself, then it looks; whoever makes room does it first, then looks for
            // waiters.
            while (!isThere() && !over.getAsBoolean()) {
                changed.await();
            }
        } finally {
            waiting--;
            lock.unlock();
        }
    }

    /** A batch was handed in. */
    void take(Outgoing outgoing) {
        unsentCost.addAndGet(outgoing.mostCost());
        unsentBytes.addAndGet(outgoing.batch().encodedLength());
    }

    @Override
    public void putBack(Outgoing outgoing) {
        take(outgoing);
    }

    @Override
    public void sent(Outgoing outgoing, long cost) {
        // Credit goes first, so that it is never told too high.
        freeCredit -= cost;
        unsentCost.addAndGet(-outgoing.mostCost());
        unsentBytes.addAndGet(-outgoing.batch().encodedLength());
        if (waiting > 0) {
            open();
        }
    }

    /** Wakes callers, who look again. */
    void open() {
        lock.lock();
        try {
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /** What the book knows of the stream's credit. */
    void setFreeCredit(long credit) {
        freeCredit = credit;
    }

    long credit() {
        return freeCredit - unsentCost.get();
    }

    long unsentBytes() {
        return unsentBytes.get();
    }
}
