package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.DstlException;
import io.dstl.client.Pending;
import io.dstl.client.Results;
import io.dstl.client.Session;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/**
 * Hands batches to the session of one backend and waits for answers. Whoever calls holds the lock of the data path, so there is one
 * order.
 *
 * <p><b>Credit.</b> Writes are handed over only where credit covers them and one flush more ({@link #RESERVE}): so the flush of a
 * snapshot never waits, and no read is ever stuck behind writes that wait. Where credit is short the task waits here, before
 * anything is handed over; that is the daemon's back-pressure.
 *
 * <p><b>Interrupts.</b> An interrupt does not end a wait, unless the task is being cancelled (the backend's registry was closed): a
 * request that was handed over is carried out, and nobody could tell what came of it.
 */
final class WriteBehind {
    /** A batch has no more bytes, unless it is one operation. */
    private static final int MOST_BATCH_BYTES = 256 << 10;
    /** What a snapshot's flush may need beside one batch: what was written since, and frames. */
    private static final int RESERVE = 64 << 10;
    private static final int FRAME = 16;

    private final Session session;
    private final DstlMetrics metrics;
    private volatile Throwable failed;
    private volatile boolean cancelled;
    private final int maxMessageBytes;
    private final int batchBytes;
    private Batch batch = new Batch(4 << 10);

    /**
     * Of one session.
     *
     * @param maxMessageBytes the daemon's limit of a batch; an idle session has credit for one
     */
    WriteBehind(Session session, DstlMetrics metrics, long maxMessageBytes) {
        this.session = session;
        this.metrics = metrics;
        this.maxMessageBytes = (int) Math.min(Integer.MAX_VALUE, maxMessageBytes);
        this.batchBytes = Math.min(MOST_BATCH_BYTES, this.maxMessageBytes / 4);
    }

    /** How many bytes a batch is meant to have. */
    int batchBytes() {
        return batchBytes;
    }

    /**
     * The batch that takes the next operation; one that would be over full with it is handed over first.
     *
     * @param room see {@link #send}
     * @param bytes of the operation, about
     */
    Batch next(boolean room, int bytes) {
        if (!batch.isEmpty() && batch.encodedLength() + (long) bytes > batchBytes) {
            send(room);
        }
        return batch;
    }

    /**
     * Hands over what was collected.
     *
     * @param room whether to leave the reserve alone, and wait for credit; else the session keeps what credit does not cover
     */
    void send(boolean room) {
        if (!batch.isEmpty()) {
            Batch full = batch;
            batch = new Batch(Math.min(full.encodedLength() + 64, batchBytes + 4096));
            if (room) {
                awaitCredit(full.encodedLength() + FRAME);
            }
            hand(full);
        }
    }

    /** Hands over what was collected and a batch with a read behind it in one go, and waits for its answer. */
    Results ask(Batch reads) {
        if (!batch.isEmpty()) {
            send(true);
        }
        metrics.roundTrips++;
        return await(hand(reads));
    }

    /** Hands over a batch of reads, and does not wait. */
    Pending<Results> post(Batch reads) {
        return hand(reads);
    }

    /** Waits for an answer, whatever interrupts come, unless the task is cancelled. */
    <T> T await(Pending<T> pending) {
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    return pending.await();
                } catch (InterruptedException e) {
                    interrupted = true;
                    throwIfCancelled();
                } catch (DstlException e) {
                    throw failure(e);
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** The task is being cancelled: whoever waits is let go. */
    void cancel() {
        cancelled = true;
        session.close();
    }

    /** Marks it as failed; the first reason stays. */
    void fail(Throwable cause) {
        if (failed == null) {
            failed = cause;
        }
    }

    /** Why nothing more may be done; null while all is well. */
    Throwable failed() {
        return failed;
    }

    Session session() {
        return session;
    }

    private Pending<Results> hand(Batch to) {
        boolean interrupted = false;
        try {
            while (true) {
                throwIfFailed();
                try {
                    return session.send(to);
                } catch (InterruptedException e) {
                    interrupted = true;
                    throwIfCancelled();
                } catch (DstlException e) {
                    throw failure(e);
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private void awaitCredit(int cost) {
        // While changes wait for the store no credit is granted, though the session be idle: so the reserve is left alone even then.
        long need = Math.min((long) cost + batchBytes + RESERVE, Math.max(cost, maxMessageBytes));
        if (session.credit() >= need) {
            return;
        }
        long from = System.nanoTime();
        boolean interrupted = false;
        while (session.credit() < need) {
            throwIfFailed();
            LockSupport.parkNanos(TimeUnit.MICROSECONDS.toNanos(200));
            interrupted |= Thread.interrupted();
            if (interrupted) {
                throwIfCancelled();
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        metrics.backPressuredNanos += System.nanoTime() - from;
    }

    private void throwIfFailed() {
        throwIfCancelled();
        if (failed != null) {
            throw new DaemonFailure("the state backend failed before: " + failed.getMessage(), failed);
        }
    }

    private void throwIfCancelled() {
        if (cancelled) {
            throw new DaemonFailure("the task is being cancelled");
        }
    }

    private DaemonFailure failure(DstlException e) {
        fail(e);
        return new DaemonFailure(Messages.of(e), e);
    }
}
