package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.Results;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.function.Consumer;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.state.InternalKeyContext;
import org.apache.flink.runtime.state.KeyExtractorFunction;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyGroupedInternalPriorityQueue;
import org.apache.flink.runtime.state.Keyed;
import org.apache.flink.runtime.state.PriorityComparable;
import org.apache.flink.runtime.state.PriorityComparator;
import org.apache.flink.runtime.state.heap.HeapPriorityQueueElement;
import org.apache.flink.runtime.state.heap.HeapPriorityQueueSet;
import org.apache.flink.util.CloseableIterator;
import org.apache.flink.util.FlinkRuntimeException;

/**
 * A queue of elements that are not timers: Flink's own heap here, and at the daemon a map for each key group, whose keys are the
 * elements. It is read whole when it is restored.
 */
final class LoggedHeapQueue<T extends HeapPriorityQueueElement & PriorityComparable<? super T> & Keyed<?>>
        implements KeyGroupedInternalPriorityQueue<T> {
    private static final int INITIAL = 128;

    private final StatePath path;
    private final StateRef ref;
    private final TypeSerializer<T> serializer;
    private final int keyGroups;
    private final HeapPriorityQueueSet<T> heap;
    private final DataOutputSerializer output = new DataOutputSerializer(64);

    LoggedHeapQueue(StatePath path, StateRef ref, TypeSerializer<T> serializer, InternalKeyContext<?> context) {
        this.path = path;
        this.ref = ref;
        this.serializer = serializer;
        this.keyGroups = context.getNumberOfKeyGroups();
        this.heap = new HeapPriorityQueueSet<>(PriorityComparator.forPriorityComparableObjects(),
                KeyExtractorFunction.forKeyedObjects(), INITIAL, context.getKeyGroupRange(), keyGroups);
    }

    /** Reads what the daemon has, as {@code written} wrote it; where the serializer differs, elements are written anew. */
    void restore(TypeSerializer<T> written, boolean migrate) {
        DataInputDeserializer input = new DataInputDeserializer();
        List<Runnable> rewrites = new ArrayList<>();
        byte[] token = Batch.NONE;
        do {
            Results keys = path.keys(ref.id, null, token);
            for (Results.StoredKey key : keys.keys(0)) {
                Place place = new Place(ref, key.keyGroup(), key.key(), key.namespace());
                forEach(place, cell -> {
                    T element = read(cell.key.bytes, written, input);
                    heap.add(element);
                    if (migrate) {
                        path.setEntry(place, cell.key, null);
                        rewrites.add(() -> log(element, true));
                    }
                });
            }
            token = keys.token(0);
        } while (token.length > 0);
        rewrites.forEach(Runnable::run);
    }

    private T read(byte[] bytes, TypeSerializer<T> written, DataInputDeserializer input) {
        input.setBuffer(bytes);
        try {
            return written.deserialize(input);
        } catch (IOException e) {
            throw new FlinkRuntimeException("deserializing an element of queue `" + ref.name + "`", e);
        }
    }

    private void forEach(Place place, Consumer<MapSlot.Cell> what) {
        byte[] from = Batch.NONE;
        while (from != null) {
            StatePath.MapPage page = path.entries(place, from);
            page.cells().forEach(what);
            byte[] last = page.more() ? page.cells().get(page.cells().size() - 1).key.bytes : null;
            from = last == null ? null : Arrays.copyOf(last, last.length + 1);
        }
    }

    @Override
    public T poll() {
        T element = heap.poll();
        if (element != null) {
            log(element, false);
        }
        return element;
    }

    @Override
    public T peek() {
        return heap.peek();
    }

    @Override
    public boolean add(T element) {
        boolean head = heap.add(serializer.copy(element));
        log(element, true);
        return head;
    }

    @Override
    public boolean remove(T element) {
        boolean head = heap.remove(element);
        log(element, false);
        return head;
    }

    @Override
    public boolean isEmpty() {
        return heap.isEmpty();
    }

    @Override
    public int size() {
        return heap.size();
    }

    @Override
    public void addAll(Collection<? extends T> elements) {
        if (elements != null) {
            elements.forEach(this::add);
        }
    }

    @Override
    public CloseableIterator<T> iterator() {
        return heap.iterator();
    }

    @Override
    public Set<T> getSubsetForKeyGroup(int keyGroup) {
        return heap.getSubsetForKeyGroup(keyGroup);
    }

    private void log(T element, boolean add) {
        int group = KeyGroupRangeAssignment.assignToKeyGroup(element.getKey(), keyGroups);
        output.clear();
        try {
            serializer.serialize(element, output);
        } catch (IOException e) {
            throw new FlinkRuntimeException("serializing an element of queue `" + ref.name + "`", e);
        }
        Place place = new Place(ref, group, new byte[] {(byte) (group >>> 8), (byte) group}, Batch.NONE);
        path.setEntry(place, new MapSlot.MapKey(output.getCopyOfBuffer()), add ? Batch.NONE : null);
    }
}
