package io.dstl.flink;

import io.dstl.client.Batch;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.function.Function;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.MapSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.queryablestate.client.state.serialization.KvStateSerializer;
import org.apache.flink.runtime.state.internal.InternalMapState;

/** A map per key and namespace; its values may be null. Putting and removing read nothing. */
final class DstlMapState<K, N, UK, UV> extends AbstractDstlState<K, N, Map<UK, UV>>
        implements InternalMapState<K, N, UK, UV> {
    private TypeSerializer<UK> keys;
    private TypeSerializer<UV> values;

    DstlMapState(DstlKeyedStateBackend<K> backend, StateRef ref) {
        super(backend, ref);
    }

    @Override
    void update(TypeSerializer<N> namespaces, TypeSerializer<Map<UK, UV>> maps, Map<UK, UV> defaults) {
        super.update(namespaces, maps, defaults);
        keys = ((MapSerializer<UK, UV>) maps).getKeySerializer();
        values = ((MapSerializer<UK, UV>) maps).getValueSerializer();
    }

    @Override
    public UV get(UK key) {
        byte[] bytes = path.entry(place(), mapKey(key));
        return bytes == null ? null : nullableValue(bytes, values);
    }

    @Override
    public void put(UK key, UV value) {
        path.setEntry(place(), mapKey(key), nullableBytes(value, values));
    }

    @Override
    public void putAll(Map<UK, UV> map) {
        if (map != null) {
            map.forEach(this::put);
        }
    }

    @Override
    public void remove(UK key) {
        path.setEntry(place(), mapKey(key), null);
    }

    @Override
    public boolean contains(UK key) {
        return path.entry(place(), mapKey(key)) != null;
    }

    @Override
    public Iterable<Map.Entry<UK, UV>> entries() {
        return this::iterator;
    }

    @Override
    public Iterable<UK> keys() {
        Place at = place();
        return () -> new Walk<>(at, Entry::getKey);
    }

    @Override
    public Iterable<UV> values() {
        Place at = place();
        return () -> new Walk<>(at, Entry::getValue);
    }

    @Override
    public Iterator<Map.Entry<UK, UV>> iterator() {
        return new Walk<>(place(), entry -> entry);
    }

    @Override
    public boolean isEmpty() {
        return path.mapIsEmpty(place());
    }

    @Override
    public void clear() {
        path.clearMap(place());
    }

    @Override
    public byte[] getSerializedValue(byte[] serializedKeyAndNamespace, TypeSerializer<K> safeKeySerializer,
            TypeSerializer<N> safeNamespaceSerializer, TypeSerializer<Map<UK, UV>> safeValueSerializer) throws Exception {
        Place at = place(serializedKeyAndNamespace, safeKeySerializer, safeNamespaceSerializer);
        TypeSerializer<UK> safeKeys = ((MapSerializer<UK, UV>) safeValueSerializer).getKeySerializer();
        TypeSerializer<UV> safeValues = ((MapSerializer<UK, UV>) safeValueSerializer).getValueSerializer();
        Map<UK, UV> map = new HashMap<>();
        DataInputDeserializer in = new DataInputDeserializer();
        byte[] from = Batch.NONE;
        while (from != null) {
            StatePath.MapPage page = path.entries(at, from);
            for (MapSlot.Cell cell : page.cells()) {
                in.setBuffer(cell.key.bytes);
                UK key = safeKeys.deserialize(in);
                in.setBuffer(cell.value);
                map.put(key, in.readBoolean() ? null : safeValues.deserialize(in));
            }
            from = behind(page);
        }
        return map.isEmpty() ? null : KvStateSerializer.serializeMap(map.entrySet(), safeKeys, safeValues);
    }

    private MapSlot.MapKey mapKey(UK key) {
        return new MapSlot.MapKey(bytes(key, keys));
    }

    /** Where the next page begins; null: there is none. */
    private static byte[] behind(StatePath.MapPage page) {
        if (!page.more()) {
            return null;
        }
        byte[] last = page.cells().get(page.cells().size() - 1).key.bytes;
        return Arrays.copyOf(last, last.length + 1);
    }

    /** Walks the entries as they are page by page: what is written meanwhile is seen where its page was not read yet. */
    private final class Walk<T> implements Iterator<T> {
        private final Place at;
        private final Function<Entry, T> what;
        private List<MapSlot.Cell> cells = List.of();
        private int index;
        private byte[] from = Batch.NONE;
        private Entry last;

        Walk(Place at, Function<Entry, T> what) {
            this.at = at;
            this.what = what;
        }

        @Override
        public boolean hasNext() {
            while (index == cells.size() && from != null) {
                StatePath.MapPage page = path.entries(at, from);
                cells = page.cells();
                index = 0;
                from = behind(page);
            }
            return index < cells.size();
        }

        @Override
        public T next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            MapSlot.Cell cell = cells.get(index++);
            last = new Entry(at, cell.key, cell.value);
            return what.apply(last);
        }

        @Override
        public void remove() {
            if (last == null || last.removed) {
                throw new IllegalStateException("The remove operation must be called after a valid next operation.");
            }
            last.removed = true;
            path.setEntry(at, last.key, null);
        }
    }

    /** One entry; setting its value writes it. */
    private final class Entry implements Map.Entry<UK, UV> {
        private final Place at;
        private final MapSlot.MapKey key;
        private byte[] value;
        private boolean removed;
        private UK readKey;
        private UV readValue;
        private boolean valueRead;

        Entry(Place at, MapSlot.MapKey key, byte[] value) {
            this.at = at;
            this.key = key;
            this.value = value;
        }

        @Override
        public UK getKey() {
            if (readKey == null) {
                readKey = DstlMapState.this.value(key.bytes, keys);
            }
            return readKey;
        }

        @Override
        public UV getValue() {
            if (removed) {
                return null;
            }
            if (!valueRead) {
                readValue = nullableValue(value, values);
                valueRead = true;
            }
            return readValue;
        }

        @Override
        public UV setValue(UV to) {
            if (removed) {
                throw new IllegalStateException("The value has already been deleted.");
            }
            UV before = getValue();
            value = nullableBytes(to, values);
            readValue = to;
            path.setEntry(at, key, value);
            return before;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Map.Entry<?, ?> entry && Objects.equals(getKey(), entry.getKey())
                    && Objects.equals(getValue(), entry.getValue());
        }

        @Override
        public int hashCode() {
            return Objects.hashCode(getKey()) ^ Objects.hashCode(getValue());
        }

        @Override
        public String toString() {
            return getKey() + "=" + getValue();
        }
    }
}
