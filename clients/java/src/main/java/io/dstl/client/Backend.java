package io.dstl.client;

import io.dstl.proto.v1.BackendDescription;
import io.dstl.proto.v1.BackendRef;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.MaterializeResponse;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.Opened;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateDescriptor;
import java.util.List;

/**
 * A backend as its owner has it. Thread-safe. Every call fails with {@link FencedException} once another owner has it, and
 * with {@link NotFoundException} once the daemon does not have it open.
 */
public interface Backend {
    /**
     * What the daemon told when it opened: the restored checkpoint and its attachment, states, key groups.
     *
     * @return the answer
     */
    Opened opened();

    /**
     * Name and epoch of this owner.
     *
     * @return what every call of the protocol carries
     */
    default BackendRef reference() {
        return opened().getBackend();
    }

    /**
     * What the daemon allows at most.
     *
     * @return the limits
     */
    io.dstl.proto.v1.Limits limits();

    /**
     * Registers states, all or none. Idempotent.
     *
     * @param states the descriptors
     * @param changes for states whose schema changes, at most one each; see {@code SchemaChange} in the protocol
     * @return states with their ids, in the order asked; fails with {@link InvalidRequestException} (reason
     *     {@code REASON_STATE_MISMATCH}) where a descriptor differs from the registered one and no change is declared
     */
    Pending<List<RegisteredState>> register(List<StateDescriptor> states, List<SchemaChange> changes);

    /**
     * Registers states whose schemas do not change.
     *
     * @param states the descriptors
     * @return states with their ids, in the order asked
     */
    default Pending<List<RegisteredState>> register(StateDescriptor... states) {
        return register(List.of(states), List.of());
    }

    /**
     * Opens the writer's session; an older session of this backend ends.
     *
     * @param options how it behaves
     * @return the session
     */
    Pending<Session> session(SessionOptions options);

    /**
     * Applies one batch without a session, for simple tasks. Refused with {@code REASON_BATCH_OUT_OF_ORDER} while a session is
     * open, unless it only reads.
     *
     * @param batch what to do
     * @return what came of it
     */
    Pending<Results> apply(Batch batch);

    /**
     * Makes a checkpoint without a session.
     *
     * @param barrier id, attachment, timeout
     * @return the checkpoint, restorable on any host; fails with {@link UnavailableException} after the timeout
     */
    Pending<CheckpointCompleted> checkpoint(Barrier barrier);

    /**
     * Tells what became of a checkpoint, one of an earlier epoch included. Idempotent; may come late.
     *
     * @param kind what was decided
     * @param checkpoint which one
     * @return what the notice changed
     */
    Pending<NoticeOutcome> notify(NoticeKind kind, CheckpointIdentity checkpoint);

    /**
     * Makes every change applied so far durable, without making a restore point.
     *
     * @return every batch below this number is durable
     */
    Pending<Long> persist();

    /**
     * Keeps a checkpoint until {@link #release}, whatever its retention says. Idempotent.
     *
     * @param checkpoint which one
     * @return done once that is durable
     */
    Pending<Void> pin(CheckpointIdentity checkpoint);

    /**
     * Ends a pin. Idempotent.
     *
     * @param checkpoint which one
     * @return whether there was a pin
     */
    Pending<Boolean> release(CheckpointIdentity checkpoint);

    /**
     * Makes a snapshot of the inner backend now, so that the changelog before it is no longer needed.
     *
     * @return its size
     */
    Pending<MaterializeResponse> materialize();

    /**
     * What the backend consists of.
     *
     * @return the description
     */
    Pending<BackendDescription> describe();

    /**
     * Ends this owner: published checkpoints stay, all else is dropped. Idempotent.
     *
     * @return whether the daemon had the backend
     */
    Pending<Boolean> close();
}
