package io.dstl.flink;

import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;

/** One value per key and namespace. */
final class DstlValueState<K, N, V> extends AbstractDstlState<K, N, V> implements InternalValueState<K, N, V> {
    DstlValueState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    @Override
    public V value() {
        byte[] bytes = path.value(place());
        return bytes == null ? defaultValue() : value(bytes, getValueSerializer());
    }

    @Override
    public void update(V value) {
        path.put(place(), value == null ? null : bytes(value, getValueSerializer()));
    }

    @Override
    public void clear() {
        path.put(place(), null);
    }

    @Override
    public byte[] getSerializedValue(byte[] serializedKeyAndNamespace, TypeSerializer<K> safeKeySerializer,
            TypeSerializer<N> safeNamespaceSerializer, TypeSerializer<V> safeValueSerializer) throws Exception {
        return path.value(place(serializedKeyAndNamespace, safeKeySerializer, safeNamespaceSerializer));
    }
}
