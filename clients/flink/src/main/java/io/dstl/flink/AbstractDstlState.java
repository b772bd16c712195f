package io.dstl.flink;

import java.io.IOException;
import org.apache.flink.api.common.state.State;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.queryablestate.client.state.serialization.KvStateSerializer;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.internal.InternalKvState;
import org.apache.flink.util.FlinkRuntimeException;
import org.apache.flink.util.Preconditions;

/**
 * What all states share: the current namespace, serializers, and the place that key and namespace make.
 *
 * @param <K> keys
 * @param <N> namespaces
 * @param <V> what {@link #getValueSerializer} serializes
 */
abstract class AbstractDstlState<K, N, V> implements InternalKvState<K, N, V>, State {
    final DstlKeyedStateBackend<K> backend;
    final StatePath path;
    final StateRef ref;
    private final DataOutputSerializer output = new DataOutputSerializer(128);
    private final DataInputDeserializer input = new DataInputDeserializer();
    private TypeSerializer<N> namespaceSerializer;
    private TypeSerializer<V> valueSerializer;
    private V defaultValue;
    private N namespace;
    private byte[] namespaceBytes;
    private Place place;
    private long placeOfKey;

    AbstractDstlState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        this.backend = backend;
        this.path = backend.path();
        this.ref = ref;
    }

    /** What a registration sets, the first one and each that finds the state there already. */
    void update(TypeSerializer<N> namespaces, TypeSerializer<V> values, V defaults) {
        namespaceSerializer = namespaces;
        valueSerializer = values;
        defaultValue = defaults;
        namespaceBytes = null;
        place = null;
    }

    @Override
    public TypeSerializer<K> getKeySerializer() {
        return backend.getKeySerializer();
    }

    @Override
    public TypeSerializer<N> getNamespaceSerializer() {
        return namespaceSerializer;
    }

    @Override
    public TypeSerializer<V> getValueSerializer() {
        return valueSerializer;
    }

    @Override
    public void setCurrentNamespace(N to) {
        Preconditions.checkNotNull(to, "Namespace must not be null.");
        if (to != namespace || !namespaceSerializer.isImmutableType()) {
            namespace = to;
            namespaceBytes = null;
            place = null;
        }
    }

    @Override
    public StateIncrementalVisitor<K, N, V> getStateIncrementalVisitor(int recommendedMaxNumberOfReturnedRecords) {
        throw new UnsupportedOperationException("incremental clean-up walks the heap: dstl's daemon removes what is expired itself");
    }

    /** Where the current key and namespace are. */
    final Place place() {
        if (place == null || placeOfKey != backend.keyVersion()) {
            if (namespaceBytes == null) {
                Preconditions.checkState(namespace != null, "No namespace set.");
                namespaceBytes = bytes(namespace, namespaceSerializer);
            }
            placeOfKey = backend.keyVersion();
            place = new Place(ref, backend.getCurrentKeyGroupIndex(), backend.keyBytes(), namespaceBytes);
        }
        return place;
    }

    /** Where the current key is in another namespace. */
    final Place place(N other) {
        return new Place(ref, backend.getCurrentKeyGroupIndex(), backend.keyBytes(), bytes(other, namespaceSerializer));
    }

    /** Where a queried key is. */
    final Place place(byte[] serialized, TypeSerializer<K> keys, TypeSerializer<N> namespaces) throws IOException {
        Tuple2<K, N> both = KvStateSerializer.deserializeKeyAndNamespace(serialized, keys, namespaces);
        DataOutputSerializer out = new DataOutputSerializer(64);
        byte[] key = KeyBytes.of(both.f0, keys, out);
        out.clear();
        namespaces.serialize(both.f1, out);
        int group = KeyGroupRangeAssignment.assignToKeyGroup(both.f0, backend.getNumberOfKeyGroups());
        return new Place(ref, group, key, out.getCopyOfBuffer());
    }

    final V defaultValue() {
        return defaultValue == null ? null : valueSerializer.copy(defaultValue);
    }

    final <T> byte[] bytes(T value, TypeSerializer<T> serializer) {
        output.clear();
        try {
            serializer.serialize(value, output);
        } catch (IOException e) {
            throw new FlinkRuntimeException("serializing an entry of state `" + ref.name + "`", e);
        }
        return output.getCopyOfBuffer();
    }

    /** With a flag before it, for values that may be null. */
    final <T> byte[] nullableBytes(T value, TypeSerializer<T> serializer) {
        output.clear();
        try {
            output.writeBoolean(value == null);
            if (value != null) {
                serializer.serialize(value, output);
            }
        } catch (IOException e) {
            throw new FlinkRuntimeException("serializing an entry of state `" + ref.name + "`", e);
        }
        return output.getCopyOfBuffer();
    }

    final <T> T value(byte[] bytes, TypeSerializer<T> serializer) {
        input.setBuffer(bytes);
        try {
            return serializer.deserialize(input);
        } catch (IOException e) {
            throw new FlinkRuntimeException("deserializing an entry of state `" + ref.name + "`", e);
        }
    }

    final <T> T nullableValue(byte[] bytes, TypeSerializer<T> serializer) {
        if (bytes[0] != 0) {
            return null;
        }
        input.setBuffer(bytes, 1, bytes.length - 1);
        try {
            return serializer.deserialize(input);
        } catch (IOException e) {
            throw new FlinkRuntimeException("deserializing an entry of state `" + ref.name + "`", e);
        }
    }
}
