package io.dstl.flink;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.runtime.state.internal.InternalMergingState;

/**
 * Reducing and aggregating states: one value per key and namespace, which the user's function changes here in the JVM.
 *
 * @param <A> what is stored
 */
abstract class AbstractMergingDstlState<K, N, I, A, O> extends AbstractDstlState<K, N, A>
        implements InternalMergingState<K, N, I, A, O> {
    AbstractMergingDstlState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    /** What two stored values make. */
    abstract A merge(A one, A other) throws Exception;

    @Override
    public A getInternal() {
        byte[] bytes = path.value(place());
        return bytes == null ? null : value(bytes, getValueSerializer());
    }

    @Override
    public void updateInternal(A value) {
        path.put(place(), value == null ? null : bytes(value, getValueSerializer()));
    }

    @Override
    public void clear() {
        path.put(place(), null);
    }

    @Override
    public void mergeNamespaces(N target, Collection<N> sources) throws Exception {
        if (sources == null || sources.isEmpty()) {
            return;
        }
        List<Place> places = new ArrayList<>(sources.size() + 1);
        for (N source : sources) {
            if (source != null) {
                places.add(place(source));
            }
        }
        Place to = place(target);
        places.add(to);
        A merged = null;
        boolean changed = false;
        List<byte[]> values = path.values(places);
        for (int i = 0; i < values.size(); i++) {
            byte[] bytes = values.get(i);
            if (bytes == null || i == values.size() - 1 && !changed) {
                continue;
            }
            A value = value(bytes, getValueSerializer());
            merged = merged == null ? value : merge(merged, value);
            if (i < values.size() - 1) {
                path.put(places.get(i), null);
                changed = true;
            }
        }
        if (changed) {
            path.put(to, bytes(merged, getValueSerializer()));
        }
    }

    @Override
    public byte[] getSerializedValue(byte[] serializedKeyAndNamespace, TypeSerializer<K> safeKeySerializer,
            TypeSerializer<N> safeNamespaceSerializer, TypeSerializer<A> safeValueSerializer) throws Exception {
        return path.value(place(serializedKeyAndNamespace, safeKeySerializer, safeNamespaceSerializer));
    }
}
