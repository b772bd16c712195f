package io.dstl.client;

import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import java.time.Duration;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * The writer's stream of a backend. Thread-safe: batches, barriers and persist requests are handled in the order in
 * which they
 * are handed in, so one thread that hands in has its own order; none of these calls waits for the daemon, and only
 * {@link #send} waits, for room.
 *
 * <p><b>Credit.</b> Batches with writes cost credit, which the daemon grants in bytes. What credit does not cover
 * waits here,
 * up to {@link SessionOptions#maxUnsentBytes()}; so does everything behind it, reads included.
 *
 * <p><b>Broken streams.</b> A broken stream is opened again on the same daemon process, and every batch is applied
 * once.
 * Barriers, persist requests and notices that were not answered are sent again. Reads whose answers were lost are
 * asked again
 * and may see later writes of this session, unless their batch forbids it ({@link Batch#readsOnce()}). When the
 * daemon is
 * another process, the backend is closed, or another owner has it, everything pending fails with
 * {@link SessionLostException} or {@link FencedException}.
 *
 * <p><b>Rejected batches.</b> See {@link SessionOptions.OnRejection}.
 */
public interface Session extends AutoCloseable {
    /**
     * An empty batch.
     *
     * @return a new one
     */
    Batch batch();

    /**
     * Hands a batch over; returns once there is room for it among what waits for credit, so a task that waits here is
     * pushed
     * back as the daemon wants. The batch must not be changed afterwards.
     *
     * @param batch what to do
     * @return its results, once it is applied
     * @throws LimitException if it is beyond what the daemon takes; nothing was sent
     * @throws DstlException why the session is over
     * @throws InterruptedException if the thread was interrupted while it waited; nothing was sent
     */
    Pending<Results> send(Batch batch) throws InterruptedException;

    /**
     * Hands a batch over, unless {@link #send} would wait.
     *
     * @param batch what to do
     * @return its results; empty if there is no room, and nothing was sent
     * @throws LimitException if it is beyond what the daemon takes; nothing was sent
     * @throws DstlException why the session is over
     */
    Optional<Pending<Results>> trySend(Batch batch);

    /**
     * Sends a batch with one typed read, and waits for its answer.
     *
     * @param add adds the read to the batch
     * @param <T> what it reads
     * @return the answer
     * @throws DstlException why the batch was rejected, or why the session is over
     * @throws InterruptedException if the thread was interrupted while it waited
     */
    default <T> T ask(Function<? super Batch, Read<T>> add) throws InterruptedException {
        Batch batch = batch();
        Read<T> read = add.apply(batch);
        return read.from(send(batch).await());
    }

    /**
     * Bytes of writes that may still be handed in before they wait for credit. Reads never cost any.
     *
     * @return negative where writes wait already
     */
    long credit();

    /**
     * Bytes of batches that wait for credit here.
     *
     * @return at most {@link SessionOptions#maxUnsentBytes()} and one batch
     */
    long unsentBytes();

    /**
     * Batches that were handed in and are not answered yet.
     *
     * @return how many
     */
    int inFlight();

    /**
     * Triggers a checkpoint behind everything handed in so far.
     *
     * @param barrier an id above every earlier one of this epoch, the attachment, the timeout
     * @return the checkpoint, once it is restorable on any host. Fails, retryable, where it timed out or gave way:
     *      its changes
     *     are kept and go into the next one
     * @throws DstlException why the session is over
     */
    Pending<CheckpointCompleted> barrier(Barrier barrier);

    /**
     * Triggers a checkpoint with the daemon's own timeout.
     *
     * @param id above every earlier one of this epoch
     * @param attachment given back by a restore; at most {@code Limits.max_attachment_bytes}
     * @return as {@link #barrier(Barrier)}
     */
    default Pending<CheckpointCompleted> barrier(long id, byte[] attachment) {
        return barrier(id, attachment, Duration.ZERO);
    }

    /**
     * Triggers a checkpoint.
     *
     * @param id above every earlier one of this epoch
     * @param attachment given back by a restore; at most {@code Limits.max_attachment_bytes}
     * @param timeout how long it may take; zero: the daemon's {@code checkpoint.timeout}
     * @return as {@link #barrier(Barrier)}
     */
    default Pending<CheckpointCompleted> barrier(long id, byte[] attachment, Duration timeout) {
        return barrier(Barrier.newBuilder()
                .setCheckpointId(id)
                .setAttachment(com.google.protobuf.ByteString.copyFrom(attachment))
                .setTimeoutMs(timeout.toMillis())
                .build());
    }

    /**
     * Tells what became of a checkpoint. Overtakes what waits for credit. Idempotent; may come late.
     *
     * @param kind what was decided
     * @param checkpoint which one
     * @return what the notice changed
     */
    Pending<NoticeOutcome> notify(NoticeKind kind, CheckpointIdentity checkpoint);

    /**
     * The name of a checkpoint of this epoch whose UUID is not known, as one in flight.
     *
     * @param id its id
     * @return its name
     */
    CheckpointIdentity checkpoint(long id);

    /**
     * Makes everything handed in so far durable.
     *
     * @return every batch below this number is durable
     */
    Pending<Long> persist();

    /**
     * The latest acknowledgement.
     *
     * @return how far batches have come
     */
    Acknowledged acknowledged();

    /**
     * Waits until every batch below {@code to} is applied.
     *
     * @param to a batch number
     * @return how far batches have come then
     */
    Pending<Acknowledged> whenApplied(long to);

    /**
     * Waits until every batch below {@code to} is durable. Nothing is asked of the daemon for it: see {@link #persist}.
     *
     * @param to a batch number
     * @return how far batches have come then
     */
    Pending<Acknowledged> whenPersisted(long to);

    /**
     * Waits until every batch below {@code to} is part of a completed checkpoint.
     *
     * @param to a batch number
     * @return how far batches have come then
     */
    Pending<Acknowledged> whenConfirmed(long to);

    /**
     * Tells, on the executor, each newer checkpoint that is committed for the whole job, where that was declared; the
     * newest
     * one so far at once.
     *
     * @param listener gets this backend's part
     */
    void onJobCompleted(Consumer<? super CheckpointIdentity> listener);

    /**
     * Why the session is over.
     *
     * @return empty while it is not
     */
    Optional<DstlException> failure();

    /**
     * Ends the session in order: what was handed in is sent and applied, and the daemon answers all that it owes,
     * checkpoints
     * included.
     *
     * @return done then; fails with why the session ended otherwise
     */
    Pending<Void> finish();

    /**
     * Breaks the session off: what is pending fails with {@link SessionLostException}, batches that were not
     * acknowledged may be
     * applied or not. Does not wait. Idempotent. For an end in order see {@link #finish}.
     */
    @Override
    void close();
}
