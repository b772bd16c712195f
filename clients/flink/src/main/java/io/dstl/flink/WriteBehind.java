package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.DstlException;
import io.dstl.client.Pending;
import io.dstl.client.Results;
import io.dstl.client.Session;
import io.dstl.proto.v1.Limits;
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
    /** Most bytes that a message has around a batch. */
    private static final int FRAME = 17;

    private final Session session;
    private final DstlMetrics metrics;
    private volatile Throwable failed;
    private volatile boolean cancelled;
    private final long largest;
    private final long maxOperations;
    private final int batchBytes;
    private Batch batch = new Batch(4 << 10);
    /** Of the batch handed over last; null: there was none. */
    private Pending<Results> last;

    /** Of one session; an idle one is granted credit for the largest batch within {@code limits}. */
    WriteBehind(Session session, DstlMetrics metrics, Limits limits) {
        this.session = session;
        this.metrics = metrics;
        this.largest = limits.getMaxMessageBytes();
        this.maxOperations = limits.getMaxBatchOperations();
        this.batchBytes = (int) Math.min(MOST_BATCH_BYTES, largest / 4);
    }

    /** How many bytes a batch is meant to have at most. */
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
        if (!batch.isEmpty() && !fits(batch, bytes)) {
            send(room);
        }
        return batch;
    }

    /** Whether a batch with one more operation, of about so many bytes, is as large as it is meant to be at most. */
    boolean fits(Batch some, int bytes) {
        return some.encodedLength() + (long) bytes <= batchBytes && some.operations() < maxOperations;
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
                awaitCredit((long) full.encodedLength() + FRAME);
            }
            hand(full);
        }
    }

    /**
     * Hands over what was collected, and waits until all that was ever handed over is applied: calls outside the session, as
     * registrations, keep no order with its batches.
     */
    void settle() {
        send(true);
        if (last != null) {
            await(last);
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
                    last = session.send(to);
                    return last;
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

    /**
     * Waits until credit covers so many bytes, and the reserve unless the largest batch has no room beside it. That is what the daemon
     * grants an idle session, sooner or later: with none of its batches under way, it tops credit up to the largest batch at least, as
     * soon as changes wait neither for the store nor for a materialization. So it waits for nothing that does not come.
     */
    private void awaitCredit(long cost) {
        if (cost > largest) {
            // The session refuses it; credit for it might never come.
            return;
        }
        long need = Math.min(cost + batchBytes + RESERVE, largest);
        if (session.credit() >= need) {
            return;
        }
        long from = System.nanoTime();
        boolean interrupted = false;
        while (session.credit() < need) {
            throwIfFailed();
            session.failure().ifPresent(error -> {
                throw failure(error);
            });
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
