package io.dstl.client;

import io.dstl.proto.v1.BackendDescription;
import io.dstl.proto.v1.BackendRef;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.MaterializeResponse;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.Opened;
import io.dstl.proto.v1.Redistribution;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateDescriptor;
import io.dstl.proto.v1.StateKind;
import java.util.List;

/**
 * A backend as its owner has it. Thread-safe. Every call fails with {@link FencedException} once another owner has
 * it, and
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
    Limits limits();

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
     * Registers a state with one value per key.
     *
     * @param name unique within the backend
     * @param keys of keys
     * @param values of values
     * @param options what else it is given
     * @param <K> the key
     * @param <V> the value
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <K, V> ValueState<K, V> valueState(String name, Serde<K> keys, Serde<V> values, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor = options.descriptor(name, keys, values).setKind(StateKind.STATE_KIND_VALUE);
        return new ValueState<>(States.register(this, descriptor, options), keys, values);
    }

    /**
     * Registers a state that the daemon merges inputs into. A reducing state is one by {@link Aggregation#of}.
     *
     * @param name unique within the backend
     * @param keys of keys
     * @param aggregation how, and of what types
     * @param options what else it is given
     * @param <K> the key
     * @param <I> an input
     * @param <O> the result
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <K, I, O> AggregatingState<K, I, O> aggregatingState(
            String name, Serde<K> keys, Aggregation<I, O> aggregation, StateOptions options)
            throws InterruptedException {
        StateOptions merging = options.withMerge(aggregation.function());
        StateDescriptor.Builder descriptor =
                merging.descriptor(name, keys, aggregation.stored()).setKind(StateKind.STATE_KIND_VALUE);
        return new AggregatingState<>(States.register(this, descriptor, merging), keys, aggregation);
    }

    /**
     * Registers a state with a map per key.
     *
     * @param name unique within the backend
     * @param keys of keys
     * @param mapKeys of the keys of entries
     * @param values of the values of entries
     * @param options what else it is given
     * @param <K> the key
     * @param <M> the key of an entry
     * @param <V> the value
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <K, M, V> MapState<K, M, V> mapState(
            String name, Serde<K> keys, Serde<M> mapKeys, Serde<V> values, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor = options.descriptor(name, keys, values).setKind(StateKind.STATE_KIND_MAP);
        return new MapState<>(States.register(this, descriptor, options), keys, mapKeys, values);
    }

    /**
     * Registers a state with a list per key.
     *
     * @param name unique within the backend
     * @param keys of keys
     * @param elements of elements
     * @param options what else it is given
     * @param <K> the key
     * @param <E> an element
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <K, E> ListState<K, E> listState(String name, Serde<K> keys, Serde<E> elements, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor =
                options.descriptor(name, keys, elements).setKind(StateKind.STATE_KIND_LIST);
        return new ListState<>(States.register(this, descriptor, options), keys, elements);
    }

    /**
     * Registers timers.
     *
     * @param name unique within the backend
     * @param keys of keys
     * @param options what else it is given
     * @param <K> the key
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <K> TimerState<K> timerState(String name, Serde<K> keys, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor = options.descriptor(name, keys, null).setKind(StateKind.STATE_KIND_TIMER);
        return new TimerState<>(States.register(this, descriptor, options), keys);
    }

    /**
     * Registers operator state: a list of the subtask, whose key is null.
     *
     * @param name unique within the backend
     * @param elements of elements
     * @param redistribution what a restore with another parallelism does: SPLIT or UNION
     * @param options what else it is given
     * @param <E> an element
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <E> ListState<Void, E> operatorList(
            String name, Serde<E> elements, Redistribution redistribution, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor = options.descriptor(name, Serdes.none(), elements)
                .setKind(StateKind.STATE_KIND_LIST)
                .setRedistribution(redistribution);
        return new ListState<>(States.register(this, descriptor, options), Serdes.none(), elements);
    }

    /**
     * Registers operator state: a map that is the same in every subtask, whose key is null.
     *
     * @param name unique within the backend
     * @param mapKeys of the keys of entries
     * @param values of the values of entries
     * @param options what else it is given
     * @param <M> the key of an entry
     * @param <V> the value
     * @return the state
     * @throws DstlException as {@link #register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    default <M, V> MapState<Void, M, V> broadcastMap(
            String name, Serde<M> mapKeys, Serde<V> values, StateOptions options)
            throws InterruptedException {
        StateDescriptor.Builder descriptor = options.descriptor(name, Serdes.none(), values)
                .setKind(StateKind.STATE_KIND_MAP)
                .setRedistribution(Redistribution.REDISTRIBUTION_BROADCAST);
        return new MapState<>(States.register(this, descriptor, options), Serdes.none(), mapKeys, values);
    }

    /**
     * Opens the writer's session; an older session of this backend ends.
     *
     * @param options how it behaves
     * @return the session
     */
    Pending<Session> session(SessionOptions options);

    /**
     * Applies one batch without a session, for simple tasks. Refused with {@code REASON_BATCH_OUT_OF_ORDER} while a
     * session is
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
