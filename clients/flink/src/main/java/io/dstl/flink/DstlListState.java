package io.dstl.flink;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.ListSerializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.util.Preconditions;

/** A list per key and namespace. Appending reads nothing. */
final class DstlListState<K, N, V> extends AbstractDstlState<K, N, List<V>> implements InternalListState<K, N, V> {
    private TypeSerializer<V> elements;

    DstlListState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    @Override
    void update(TypeSerializer<N> namespaces, TypeSerializer<List<V>> values, List<V> defaults) {
        super.update(namespaces, values, defaults);
        elements = ((ListSerializer<V>) values).getElementSerializer();
    }

    @Override
    public Iterable<V> get() {
        return getInternal();
    }

    @Override
    public List<V> getInternal() {
        List<byte[]> all = path.list(place());
        if (all.isEmpty()) {
            return null;
        }
        List<V> values = new ArrayList<>(all.size());
        for (byte[] element : all) {
            values.add(value(element, elements));
        }
        return values;
    }

    @Override
    public void add(V value) {
        Preconditions.checkNotNull(value, "You cannot add null to a ListState.");
        path.append(place(), List.of(bytes(value, elements)));
    }

    @Override
    public void addAll(List<V> values) {
        List<byte[]> all = bytes(values);
        if (!all.isEmpty()) {
            path.append(place(), all);
        }
    }

    @Override
    public void update(List<V> values) {
        updateInternal(values);
    }

    @Override
    public void updateInternal(List<V> values) {
        path.setList(place(), bytes(values));
    }

    @Override
    public void clear() {
        path.setList(place(), List.of());
    }

    @Override
    public void mergeNamespaces(N target, Collection<N> sources) {
        if (sources == null || sources.isEmpty()) {
            return;
        }
        List<Place> places = new ArrayList<>(sources.size());
        for (N source : sources) {
            if (source != null) {
                places.add(place(source));
            }
        }
        path.mergeLists(place(target), places);
    }

    @Override
    public byte[] getSerializedValue(byte[] serializedKeyAndNamespace, TypeSerializer<K> safeKeySerializer,
            TypeSerializer<N> safeNamespaceSerializer, TypeSerializer<List<V>> safeValueSerializer) throws Exception {
        List<byte[]> all = path.list(place(serializedKeyAndNamespace, safeKeySerializer, safeNamespaceSerializer));
        if (all.isEmpty()) {
            return null;
        }
        // As queryable state's clients read it: elements with one byte between them.
        DataOutputSerializer joined = new DataOutputSerializer(64);
        for (byte[] element : all) {
            if (joined.length() > 0) {
                joined.writeByte(',');
            }
            joined.write(element);
        }
        return joined.getCopyOfBuffer();
    }

    private List<byte[]> bytes(List<V> values) {
        Preconditions.checkNotNull(values, "List of values to add cannot be null.");
        List<byte[]> all = new ArrayList<>(values.size());
        for (V value : values) {
            Preconditions.checkNotNull(value, "You cannot add null to a ListState.");
            all.add(bytes(value, elements));
        }
        return all;
    }
}
