package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.DstlClient;
import io.dstl.client.Results;
import java.io.Closeable;
import java.io.IOException;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.RunnableFuture;
import java.util.function.Function;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import javax.annotation.Nonnull;
import org.apache.flink.api.common.state.AggregatingStateDescriptor;
import org.apache.flink.api.common.state.ReducingStateDescriptor;
import org.apache.flink.api.common.state.State;
import org.apache.flink.api.common.state.StateDescriptor;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.checkpoint.CheckpointOptions;
import org.apache.flink.runtime.state.AbstractKeyedStateBackend;
import org.apache.flink.runtime.state.CheckpointStreamFactory;
import org.apache.flink.runtime.state.KeyGroupedInternalPriorityQueue;
import org.apache.flink.runtime.state.Keyed;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.PriorityComparable;
import org.apache.flink.runtime.state.RegisteredKeyValueStateBackendMetaInfo;
import org.apache.flink.runtime.state.RegisteredPriorityQueueStateBackendMetaInfo;
import org.apache.flink.runtime.state.RegisteredStateMetaInfoBase;
import org.apache.flink.runtime.state.SavepointResources;
import org.apache.flink.runtime.state.SnapshotExecutionType;
import org.apache.flink.runtime.state.SnapshotResult;
import org.apache.flink.runtime.state.SnapshotStrategyRunner;
import org.apache.flink.runtime.state.StateBackend.KeyedStateBackendParameters;
import org.apache.flink.runtime.state.StateSnapshotTransformer.StateSnapshotTransformFactory;
import org.apache.flink.runtime.state.TestableKeyedStateBackend;
import org.apache.flink.runtime.state.heap.HeapPriorityQueueElement;
import org.apache.flink.runtime.state.InternalKeyContextImpl;
import org.apache.flink.runtime.state.metrics.LatencyTrackingStateConfig;
import org.apache.flink.runtime.state.metrics.SizeTrackingStateConfig;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.apache.flink.util.FlinkRuntimeException;
import org.apache.flink.util.Preconditions;

/**
 * Flink's view of one backend of the daemon. What it owes: reads see every earlier write of the task; a snapshot has exactly what was
 * written before it; and once anything fails that was not told to the caller, the task fails.
 *
 * @param <K> keys
 */
public final class DstlKeyedStateBackend<K> extends AbstractKeyedStateBackend<K> implements TestableKeyedStateBackend<K> {
    private final Parts<K> parts;
    private final StateRegistration registration;
    private final Closeable cancel;
    private final DataOutputSerializer keyOutput = new DataOutputSerializer(64);
    private byte[] keyBytes;
    /** Changes with the current key. */
    private long keyVersion;
    private boolean disposed;

    DstlKeyedStateBackend(KeyedStateBackendParameters<K> parameters, TypeSerializer<K> keySerializer,
            LatencyTrackingStateConfig latencyTracking, SizeTrackingStateConfig sizeTracking, Parts<K> parts)
            throws IOException {
        super(parameters.getKvStateRegistry(), keySerializer, parameters.getEnv().getUserCodeClassLoader().asClassLoader(),
                parameters.getEnv().getExecutionConfig(), parameters.getTtlTimeProvider(), latencyTracking, sizeTracking,
                // Not the given one: Flink closes that once the backend is restored. This one is closed when the task is cancelled.
                new CloseableRegistry(),
                new InternalKeyContextImpl<>(parameters.getKeyGroupRange(), parameters.getNumberOfKeyGroups()));
        this.parts = parts;
        this.registration = new StateRegistration(parts.states, parts.path, ttlTimeProvider, parts.options);
        this.cancel = parts.out::cancel;
        cancelStreamRegistry.registerCloseable(cancel);
    }

    /**
     * What it is made of.
     *
     * @param client its share of the connection
     * @param path data
     * @param out the session
     * @param states what is registered
     * @param snapshots checkpoints
     * @param options what was configured
     */
    record Parts<K>(DstlClient client, StatePath path, WriteBehind out, StateTable states, DstlSnapshotStrategy<K> snapshots,
            ReadableConfig options) {}

    StatePath path() {
        return parts.path;
    }

    /** A state that is registered. */
    StateRef state(String name) {
        return parts.states.get(name).ref;
    }

    // The current key.

    @Override
    public void setCurrentKey(K newKey) {
        super.setCurrentKey(newKey);
        serializeKey();
    }

    @Override
    public void setCurrentKeyAndKeyGroup(K newKey, int newKeyGroupIndex) {
        super.setCurrentKeyAndKeyGroup(newKey, newKeyGroupIndex);
        serializeKey();
    }

    @Override
    public void setCurrentKeyGroupIndex(int currentKeyGroupIndex) {
        super.setCurrentKeyGroupIndex(currentKeyGroupIndex);
        keyVersion++;
    }

    long keyVersion() {
        return keyVersion;
    }

    /** At once: whoever sets a key may use its object for another one before the state is touched. */
    private void serializeKey() {
        try {
            keyBytes = KeyBytes.of(getCurrentKey(), keySerializer, keyOutput);
        } catch (IOException e) {
            throw new FlinkRuntimeException("serializing the current key", e);
        }
        keyVersion++;
    }

    byte[] keyBytes() {
        return Preconditions.checkNotNull(keyBytes, "No key set. This method should not be called outside of a keyed context.");
    }

    // States.

    @Nonnull
    @Override
    public <N, SV, SEV, S extends State, IS extends S> IS createOrUpdateInternalState(
            @Nonnull TypeSerializer<N> namespaceSerializer,
            @Nonnull StateDescriptor<S, SV> stateDesc,
            @Nonnull StateSnapshotTransformFactory<SEV> snapshotTransformFactory) throws Exception {
        return createOrUpdateInternalState(namespaceSerializer, stateDesc, snapshotTransformFactory, false);
    }

    @Nonnull
    @Override
    @SuppressWarnings("unchecked")
    public <N, SV, SEV, S extends State, IS extends S> IS createOrUpdateInternalState(
            @Nonnull TypeSerializer<N> namespaceSerializer,
            @Nonnull StateDescriptor<S, SV> stateDesc,
            @Nonnull StateSnapshotTransformFactory<SEV> snapshotTransformFactory,
            boolean allowFutureMetadataUpdates) throws Exception {
        StateTable.Registered state = registration.keyValue(stateDesc, namespaceSerializer, allowFutureMetadataUpdates);
        if (state.object == null) {
            state.object = make(stateDesc, state.ref);
        }
        RegisteredKeyValueStateBackendMetaInfo<N, SV> meta = (RegisteredKeyValueStateBackendMetaInfo<N, SV>) state.meta;
        AbstractDstlState<K, N, SV> made = (AbstractDstlState<K, N, SV>) state.object;
        made.update(meta.getNamespaceSerializer(), meta.getStateSerializer(), stateDesc.getDefaultValue());
        if (made instanceof DstlReducingState<?, ?, ?>) {
            ((DstlReducingState<K, N, SV>) made).function(((ReducingStateDescriptor<SV>) stateDesc).getReduceFunction());
        } else if (made instanceof DstlAggregatingState<?, ?, ?, ?, ?>) {
            ((DstlAggregatingState<K, N, Object, SV, Object>) made)
                    .function(((AggregatingStateDescriptor<Object, SV, Object>) stateDesc).getAggregateFunction());
        }
        return (IS) made;
    }

    private AbstractDstlState<K, ?, ?> make(StateDescriptor<?, ?> descriptor, StateRef ref) {
        return switch (descriptor.getType()) {
            case VALUE -> new DstlValueState<>(this, ref);
            case LIST -> new DstlListState<>(this, ref);
            case MAP -> new DstlMapState<>(this, ref);
            case REDUCING -> new DstlReducingState<>(this, ref);
            case AGGREGATING -> new DstlAggregatingState<>(this, ref);
            default -> throw new FlinkRuntimeException(
                    String.format("State %s is not supported by %s", descriptor.getClass(), getClass()));
        };
    }

    @Nonnull
    @Override
    public <T extends HeapPriorityQueueElement & PriorityComparable<? super T> & Keyed<?>>
            KeyGroupedInternalPriorityQueue<T> create(
                    @Nonnull String stateName, @Nonnull TypeSerializer<T> byteOrderedElementSerializer) {
        return create(stateName, byteOrderedElementSerializer, false);
    }

    @Override
    @SuppressWarnings("unchecked")
    public <T extends HeapPriorityQueueElement & PriorityComparable<? super T> & Keyed<?>>
            KeyGroupedInternalPriorityQueue<T> create(@Nonnull String stateName,
                    @Nonnull TypeSerializer<T> byteOrderedElementSerializer, boolean allowFutureMetadataUpdates) {
        boolean timers = byteOrderedElementSerializer instanceof TimerSerializer;
        boolean fresh = parts.states.get(stateName) == null && parts.states.forms(stateName).isEmpty();
        StateRegistration.Queue<T> queue =
                registration.queue(stateName, byteOrderedElementSerializer, timers, allowFutureMetadataUpdates);
        StateTable.Registered state = queue.state();
        if (state.object == null && timers) {
            TimerSerializer<?, ?> serializer = (TimerSerializer<?, ?>)
                    ((RegisteredPriorityQueueStateBackendMetaInfo<?>) state.meta).getElementSerializer();
            state.object = new DstlTimerQueue<>(parts.path, state.ref, new TimerCodec.OfFlink<>(serializer, numberOfKeyGroups),
                    parts.options.get(DstlOptions.TIMER_PAGE), fresh);
        } else if (state.object == null) {
            LoggedHeapQueue<T> heap = new LoggedHeapQueue<>(parts.path, state.ref, byteOrderedElementSerializer, keyContext);
            if (!fresh) {
                heap.restore(queue.written(), queue.migrate());
            }
            state.object = heap;
        }
        return (KeyGroupedInternalPriorityQueue<T>) state.object;
    }

    // All keys.

    @Override
    public <N> Stream<K> getKeys(String state, N namespace) {
        Listed<N> listed = listed(state);
        DataOutputSerializer out = new DataOutputSerializer(32);
        try {
            if (!listed.ids.isEmpty()) {
                listed.namespaces.serialize(namespace, out);
            }
        } catch (IOException e) {
            throw new FlinkRuntimeException("serializing a namespace", e);
        }
        byte[] bytes = out.getCopyOfBuffer();
        return listed.ids.stream().flatMap(id -> keys(id, bytes, key -> key(key.key())));
    }

    @Override
    public <N> Stream<K> getKeys(List<String> states, N namespace) {
        return states.stream().flatMap(state -> getKeys(state, namespace)).distinct();
    }

    @Override
    public <N> Stream<Tuple2<K, N>> getKeysAndNamespaces(String state) {
        Listed<N> listed = listed(state);
        DataInputDeserializer input = new DataInputDeserializer();
        return listed.ids.stream().flatMap(id -> keys(id, null, key -> {
            input.setBuffer(key.namespace());
            try {
                return Tuple2.of(key(key.key()), listed.namespaces.deserialize(input));
            } catch (IOException e) {
                throw new FlinkRuntimeException("deserializing a namespace", e);
            }
        }));
    }

    /** The daemon's ids of a state of keys and values (none, if there is no such state) and its namespaces. */
    private record Listed<N>(List<Integer> ids, TypeSerializer<N> namespaces) {}

    @SuppressWarnings("unchecked")
    private <N> Listed<N> listed(String name) {
        StateTable.Registered registered = parts.states.get(name);
        List<StateTable.Form> forms = parts.states.forms(name);
        RegisteredStateMetaInfoBase meta = registered != null
                ? registered.meta
                : forms.isEmpty() ? null : RegisteredKeyValueStateBackendMetaInfo.fromMetaInfoSnapshot(forms.get(0).snapshot());
        if (!(meta instanceof RegisteredKeyValueStateBackendMetaInfo<?, ?> keyValue)) {
            return new Listed<>(List.of(), null);
        }
        return new Listed<>(registered != null ? List.of(registered.ref.id) : forms.stream().map(StateTable.Form::id).toList(),
                (TypeSerializer<N>) keyValue.getNamespaceSerializer());
    }

    private K key(byte[] bytes) {
        try {
            return KeyBytes.read(bytes, keySerializer, new DataInputDeserializer());
        } catch (IOException e) {
            throw new FlinkRuntimeException("deserializing a key", e);
        }
    }

    private <T> Stream<T> keys(int id, byte[] namespace, Function<Results.StoredKey, T> what) {
        Iterator<Results.StoredKey> keys = new Iterator<>() {
            private byte[] token = Batch.NONE;
            private boolean follows = true;
            private Iterator<Results.StoredKey> page = List.<Results.StoredKey>of().iterator();

            @Override
            public boolean hasNext() {
                while (!page.hasNext() && follows) {
                    Results results = parts.path.keys(id, namespace, token);
                    page = results.keys(0).iterator();
                    token = results.token(0);
                    follows = token.length > 0;
                }
                return page.hasNext();
            }

            @Override
            public Results.StoredKey next() {
                if (!hasNext()) {
                    throw new NoSuchElementException();
                }
                return page.next();
            }
        };
        return StreamSupport.stream(Spliterators.spliteratorUnknownSize(keys, Spliterator.ORDERED), false).map(what);
    }

    @Override
    public int numKeyValueStateEntries() {
        int entries = 0;
        for (StateTable.Registered state : parts.states.all()) {
            if (state.object instanceof DstlMapState<?, ?, ?, ?>) {
                entries += (int) keys(state.ref.id, null, Function.identity()).mapToLong(key -> {
                    Batch batch = new Batch();
                    batch.mapCount(state.ref.id, key.keyGroup(), key.key(), key.namespace());
                    return parts.path.ask(batch).count(0);
                }).sum();
            } else if (state.object instanceof AbstractDstlState<?, ?, ?>) {
                entries += (int) keys(state.ref.id, null, Function.identity()).count();
            }
        }
        return entries;
    }

    // Checkpoints.

    @Nonnull
    @Override
    public RunnableFuture<SnapshotResult<KeyedStateHandle>> snapshot(long checkpointId, long timestamp,
            @Nonnull CheckpointStreamFactory streamFactory, @Nonnull CheckpointOptions checkpointOptions) throws Exception {
        parts.snapshots.check(checkpointOptions);
        return new SnapshotStrategyRunner<>("dstl", parts.snapshots, cancelStreamRegistry, SnapshotExecutionType.ASYNCHRONOUS)
                .snapshot(checkpointId, timestamp, streamFactory, checkpointOptions);
    }

    @Nonnull
    @Override
    public SavepointResources<K> savepoint() {
        throw new UnsupportedOperationException("dstl makes no savepoints yet: keep checkpoints"
                + " (`execution.checkpointing.externalized-checkpoint-retention: RETAIN_ON_CANCELLATION`) and start from one");
    }

    @Override
    public void notifyCheckpointComplete(long checkpointId) {
        parts.snapshots.complete(checkpointId);
    }

    @Override
    public void notifyCheckpointAborted(long checkpointId) {
        parts.snapshots.abort(checkpointId);
    }

    /** The backend stays open at the daemon, for a warm restart, until it was without session for {@link DstlOptions#LINGER}. */
    @Override
    public void dispose() {
        if (!disposed) {
            disposed = true;
            super.dispose();
            cancelStreamRegistry.unregisterCloseable(cancel);
            parts.out.cancel();
            parts.path.close();
            parts.client.close();
        }
    }

    @Override
    public boolean isSafeToReuseKVState() {
        return true;
    }

    @Nonnull
    @Override
    public String getBackendTypeIdentifier() {
        return "dstl";
    }
}
