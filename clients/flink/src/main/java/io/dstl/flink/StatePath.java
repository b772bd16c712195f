package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.Pending;
import io.dstl.client.Results;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.Limits;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;

/**
 * The way from the states of one backend to the daemon: a cache of entries, the writes that the daemon does not have yet (they lie
 * in the same slots, see {@link Slot}), and the session. Everything is in bytes.
 *
 * <ul>
 *   <li>A read is answered by the cache, by {@link AbsentFilter} (the key is new), or by one round trip.
 *   <li>A write changes its slot. Slots with writes are sent once they make a batch, at a barrier, and before a read that must see
 *       them: several writes of one entry become one operation.
 *   <li>Reads of one entry are sent alone: nothing that waits concerns them, since what was written is in the cache.
 * </ul>
 *
 * <p>All methods hold one lock, for the sake of queryable state; only the task's thread uses it otherwise.
 */
final class StatePath {
    /** Slots with writes, after which they are sent. */
    private static final int MOST_WRITES = 2000;
    /** Entries and keys on a page. */
    static final int PAGE = 1000;
    /** Steps of the data path between two looks at the filters. */
    private static final int FILTER_STEPS = 256;
    private static final int MOST_MERGED = 1000;

    private final EntryCache cache;
    private final WriteBehind out;
    private final Limits limits;
    private final DstlMetrics metrics;
    private final List<StateRef> states = new ArrayList<>();
    private final List<TimerWrites> timers = new ArrayList<>();
    private final List<Slot> writes = new ArrayList<>();
    private int writtenBytes;
    private int written;
    private long requests;
    private int steps;
    /** The state whose filter is being rebuilt; null: none. */
    private StateRef rebuilding;
    private Pending<Results> page;

    StatePath(EntryCache cache, WriteBehind out, Limits limits, DstlMetrics metrics) {
        this.cache = cache;
        this.out = out;
        this.limits = limits;
        this.metrics = metrics;
    }

    /** What a timer queue has not sent yet. */
    interface TimerWrites {
        /** Adds the operations; none are left. */
        void encode(Slot.Batches batches);
    }

    synchronized void add(StateRef state) {
        states.add(state);
    }

    synchronized void add(TimerWrites queue) {
        timers.add(queue);
    }

    /** The entries of a state moved to another id of the daemon, or were rewritten by others than this path. */
    synchronized void moved(StateRef state, int id) {
        flush(true);
        state.id = id;
        forget(state);
    }

    private void forget(StateRef state) {
        if (rebuilding == state) {
            rebuilding = null;
            page = null;
        }
        state.filter.forget();
    }

    // Values.

    /** The value; null: absent. */
    synchronized byte[] value(Place place) {
        ValueSlot slot = (ValueSlot) slot(place, ValueSlot::new);
        if (!slot.known()) {
            metrics.misses++;
            long request = ++requests;
            slot.await(request);
            Batch batch = reads();
            int read = batch.get(place.state.id, place.group, place.key, place.namespace);
            fillValue(slot, request, out.ask(batch), read);
            step();
        }
        return slot.value();
    }

    /** The values of several namespaces, by one round trip where they are not too many; null: absent. */
    synchronized List<byte[]> values(List<Place> places) {
        List<ValueSlot> slots = new ArrayList<>(places.size());
        List<ValueSlot> missing = new ArrayList<>();
        Batch batch = reads();
        long request = ++requests;
        for (Place place : places) {
            ValueSlot slot = (ValueSlot) slot(place, ValueSlot::new);
            slots.add(slot);
            if (!slot.known()) {
                if (!batch.isEmpty() && !out.fits(batch, place.heap())) {
                    fillValues(missing, request, batch);
                    missing.clear();
                    batch = reads();
                }
                slot.await(request);
                missing.add(slot);
                batch.get(place.state.id, place.group, place.key, place.namespace);
            }
        }
        fillValues(missing, request, batch);
        List<byte[]> values = new ArrayList<>(places.size());
        slots.forEach(slot -> values.add(slot.value()));
        return values;
    }

    private void fillValues(List<ValueSlot> slots, long request, Batch batch) {
        if (!slots.isEmpty()) {
            metrics.misses += slots.size();
            Results results = out.ask(batch);
            for (int i = 0; i < slots.size(); i++) {
                fillValue(slots.get(i), request, results, i);
            }
        }
    }

    private void fillValue(ValueSlot slot, long request, Results results, int read) {
        slot.fill(request, results.value(read));
        slot.remote = results.found(read);
        account(slot);
    }

    /** Sets the value; null removes it. */
    synchronized void put(Place place, byte[] value) {
        if (value != null) {
            checkValue(place, value);
        }
        ValueSlot slot = (ValueSlot) slot(place, ValueSlot::new);
        int before = slot.known() && slot.value() != null ? slot.value().length : 0;
        slot.set(value);
        int now = value == null ? 0 : value.length;
        wrote(slot, slot.queued ? now - before : now, !slot.queued, value != null);
    }

    // Lists.

    /** All elements; empty: absent. Must not be changed. */
    synchronized List<byte[]> list(Place place) {
        ListSlot slot = (ListSlot) slot(place, ListSlot::new);
        if (slot.whole() != null) {
            return slot.whole();
        }
        metrics.misses++;
        if (slot.dirty()) {
            flush(true);
        }
        long request = ++requests;
        slot.await(request);
        List<byte[]> elements = elements(place.state.id, place);
        long bytes = elements.stream().mapToLong(element -> element.length).sum();
        if (bytes <= ListSlot.MOST_BYTES) {
            slot.fill(request, elements);
        }
        slot.remote = !elements.isEmpty();
        account(slot);
        step();
        return elements;
    }

    /** All elements of a list, as the daemon has them; no living one is left out while it removes others that have expired. */
    private List<byte[]> elements(int state, Place place) {
        List<byte[]> elements = new ArrayList<>();
        byte[] token = Batch.NONE;
        do {
            Batch batch = reads();
            int read = batch.listGet(state, place.group, place.key, place.namespace, token, 0);
            Results results = out.ask(batch);
            results.elements(read).forEach(element -> elements.add(element.copy()));
            token = results.token(read);
        } while (token.length > 0);
        return elements;
    }

    /** All elements of a list under another id of the daemon than the state's, behind everything that was written. */
    synchronized List<byte[]> elementsOf(int state, Place place) {
        flush(true);
        return elements(state, place);
    }

    synchronized void append(Place place, List<byte[]> elements) {
        ListSlot slot = (ListSlot) slot(place, ListSlot::new);
        int bytes = 0;
        for (byte[] element : elements) {
            checkValue(place, element);
            slot.add(element);
            bytes += element.length + 2;
        }
        wrote(slot, bytes, true, true);
    }

    /** Replaces all elements; none: removes the list. */
    synchronized void setList(Place place, List<byte[]> elements) {
        ListSlot slot = (ListSlot) slot(place, ListSlot::new);
        int bytes = 0;
        for (byte[] element : elements) {
            checkValue(place, element);
            bytes += element.length + 2;
        }
        slot.set(elements);
        wrote(slot, bytes, !slot.queued, !elements.isEmpty());
    }

    /**
     * Appends the lists of the sources to that of the target, in the daemon, and removes the sources. What was written of any of them
     * goes before it, in the same batch. Afterwards the cache knows that the sources are absent, and nothing of the target; the
     * filter has the target.
     */
    synchronized void mergeLists(Place target, List<Place> sources) {
        List<Place> present = new ArrayList<>(sources.size());
        for (Place source : sources) {
            ListSlot slot = (ListSlot) slot(source, ListSlot::new);
            if (slot.whole() == null || !slot.whole().isEmpty()) {
                present.add(source);
            }
        }
        if (present.isEmpty()) {
            return;
        }
        collect(true);
        for (int from = 0; from < present.size();) {
            int to = from;
            int bytes = target.heap();
            while (to == from || to < present.size() && to - from < MOST_MERGED
                    && bytes + present.get(to).namespace.length < out.batchBytes()) {
                bytes += present.get(to++).namespace.length + 8;
            }
            List<Place> some = present.subList(from, to);
            out.next(true, bytes).mergeNamespaces(target.state.id, target.group, target.key, target.namespace,
                    () -> some.stream().map(place -> place.namespace).iterator());
            from = to;
        }
        out.send(true);
        for (Place source : present) {
            Slot slot = slot(source, ListSlot::new);
            slot.setAbsent();
            slot.remote = false;
            account(slot);
        }
        Slot slot = cache.find(target);
        if (slot != null) {
            slot.setUnknown();
            slot.remote = true;
            account(slot);
        }
        target.state.filter.add(target.hash);
        step();
    }

    // Maps.

    /** The value of one entry; null: absent. */
    synchronized byte[] entry(Place place, MapSlot.MapKey key) {
        MapSlot slot = (MapSlot) slot(place, MapSlot::new);
        MapSlot.Cell cell = slot.cell(key);
        if (cell == null || cell.pending()) {
            metrics.misses++;
            long request = ++requests;
            cell = slot.await(key, request);
            Batch batch = reads();
            int read = batch.mapGet(place.state.id, place.group, place.key, place.namespace, key.bytes);
            Results results = out.ask(batch);
            slot.fill(key, request, results.value(read));
            account(slot);
            step();
        }
        return cell.value;
    }

    /** Sets one entry; null removes it. */
    synchronized void setEntry(Place place, MapSlot.MapKey key, byte[] value) {
        if (value != null) {
            checkValue(place, value);
        }
        checkKey(place, key.bytes);
        MapSlot slot = (MapSlot) slot(place, MapSlot::new);
        slot.set(key, value);
        wrote(slot, key.bytes.length + (value == null ? 0 : value.length), true, value != null);
    }

    synchronized void clearMap(Place place) {
        MapSlot slot = (MapSlot) slot(place, MapSlot::new);
        slot.clear();
        wrote(slot, 0, !slot.queued, false);
    }

    /** Entries from a key on (empty: from the first), in no order where all of them are here. */
    synchronized MapPage entries(Place place, byte[] from) {
        MapSlot slot = (MapSlot) slot(place, MapSlot::new);
        if (slot.complete()) {
            List<MapSlot.Cell> all = slot.entries();
            if (from.length > 0) {
                all.removeIf(cell -> Arrays.compareUnsigned(cell.key.bytes, from) < 0);
            }
            return new MapPage(all, false);
        }
        metrics.misses++;
        if (slot.dirty()) {
            flush(true);
        }
        long request = ++requests;
        slot.await(request);
        Batch batch = reads();
        int read = batch.mapEntries(place.state.id, place.group, place.key, place.namespace, from, PAGE);
        Results results = out.ask(batch);
        List<MapSlot.Cell> cells = new ArrayList<>();
        results.entries(read).forEach(entry -> cells.add(new MapSlot.Cell(new MapSlot.MapKey(entry.key()), entry.value())));
        boolean more = results.more(read);
        if (from.length == 0 && !more) {
            slot.fill(request, cells);
            slot.remote = !cells.isEmpty();
            account(slot);
        }
        step();
        return new MapPage(cells, more);
    }

    synchronized boolean mapIsEmpty(Place place) {
        MapSlot slot = (MapSlot) slot(place, MapSlot::new);
        if (slot.complete() || slot.anyPresent()) {
            return !slot.anyPresent();
        }
        metrics.misses++;
        if (slot.dirty()) {
            flush(true);
        }
        Batch batch = reads();
        int read = batch.mapEntries(place.state.id, place.group, place.key, place.namespace, Batch.NONE, 1);
        return !out.ask(batch).found(read);
    }

    /**
     * Part of a map.
     *
     * @param cells its entries
     * @param more whether others follow behind the last one
     */
    record MapPage(List<MapSlot.Cell> cells, boolean more) {}

    // Everything else.

    /** A page of the keys of one namespace, or (null) of all; see {@link Results#keys} and {@link Results#token} of operation 0. */
    synchronized Results keys(int state, byte[] namespace, byte[] token) {
        flush(true);
        Batch batch = reads();
        if (namespace == null) {
            batch.keysOfAllNamespaces(state, token, PAGE);
        } else {
            batch.keys(state, namespace, token, PAGE);
        }
        return out.ask(batch);
    }

    /** What a batch answers that is made of neither values, lists nor maps of the cache; everything written goes before it. */
    synchronized Results ask(Batch batch) {
        flush(true);
        return out.ask(batch);
    }

    /** An operation of a timer queue was noted. */
    synchronized void wroteTimer(int bytes) {
        written++;
        writtenBytes += bytes;
        flushIfFull();
    }

    /** An operation of about so many bytes, for whoever writes past the cache; {@link #flush} sends it. */
    synchronized void write(int bytes, java.util.function.Consumer<Batch> operation) {
        operation.accept(out.next(true, bytes));
    }

    /** Sends everything written. */
    synchronized void flush(boolean room) {
        collect(room);
        out.send(room);
    }

    /** Sends everything written, and waits until the daemon has applied it. */
    synchronized void settle() {
        collect(true);
        out.settle();
    }

    /** Sends everything written and a barrier behind it. Never waits for credit. */
    synchronized Pending<CheckpointCompleted> barrier(Barrier barrier) {
        if (out.failed() != null) {
            throw new DaemonFailure("no checkpoint of a state backend that failed", out.failed());
        }
        flush(false);
        return out.session().barrier(barrier);
    }

    synchronized void close() {
        cache.close();
        writes.clear();
    }

    private void collect(boolean room) {
        Slot.Batches batches = bytes -> out.next(room, bytes);
        for (Slot slot : writes) {
            slot.encode(batches);
            slot.queued = false;
            account(slot);
        }
        writes.clear();
        for (TimerWrites queue : timers) {
            queue.encode(batches);
        }
        written = 0;
        writtenBytes = 0;
    }

    private Slot slot(Place place, Function<Place, Slot> make) {
        if (cache.over()) {
            cache.shrink();
        }
        Slot slot = cache.find(place);
        metrics.accesses++;
        if (slot == null) {
            slot = make.apply(place);
            if (place.state.filter.absent(place.hash)) {
                metrics.absent++;
                slot.setAbsent();
                slot.remote = false;
            }
            cache.add(slot);
        }
        return slot;
    }

    private void wrote(Slot slot, int bytes, boolean operation, boolean present) {
        if (!slot.queued) {
            slot.queued = true;
            writes.add(slot);
            writtenBytes += slot.place.key.length + slot.place.namespace.length + 24;
        }
        AbsentFilter filter = slot.place.state.filter;
        if (present && slot.filtered != filter.generation()) {
            filter.add(slot.place.hash);
            slot.filtered = filter.generation();
        }
        writtenBytes += bytes;
        if (operation) {
            written++;
        }
        account(slot);
        flushIfFull();
        step();
    }

    private void flushIfFull() {
        if (writtenBytes >= out.batchBytes() || written >= MOST_WRITES) {
            flush(true);
        }
    }

    private void account(Slot slot) {
        if (slot.position >= 0) {
            cache.account(slot);
        }
    }

    /** Now and then, goes on with rebuilding a filter; never waits for an answer. */
    private void step() {
        if (++steps % FILTER_STEPS != 0) {
            return;
        }
        if (rebuilding == null) {
            for (StateRef state : states) {
                if (state.filter.wantsRebuild()) {
                    flush(true);
                    state.filter.beginRebuild();
                    rebuilding = state;
                    askKeys(Batch.NONE);
                    return;
                }
            }
        } else if (page.isDone()) {
            Results results = out.await(page);
            results.keys(0).forEach(key -> rebuilding.filter.listed(Place.hash(key.key(), key.namespace())));
            byte[] token = results.token(0);
            if (token.length == 0) {
                rebuilding.filter.endRebuild();
                rebuilding = null;
                page = null;
            } else {
                askKeys(token);
            }
        }
    }

    private void askKeys(byte[] token) {
        Batch batch = reads();
        batch.keysOfAllNamespaces(rebuilding.id, token, PAGE);
        page = out.post(batch);
    }

    private static Batch reads() {
        return new Batch(96);
    }

    private void checkValue(Place place, byte[] value) {
        if (value.length > limits.getMaxValueBytes()) {
            throw new DaemonFailure(String.format("an entry of state `%s` has %d bytes, more than the daemon's limit of %d: raise its"
                    + " `rpc.max-value-size` (and `rpc.max-message-size` above it)",
                    place.state.name, value.length, limits.getMaxValueBytes()));
        }
        checkKey(place, place.key);
        checkKey(place, place.namespace);
    }

    private void checkKey(Place place, byte[] key) {
        if (key.length > limits.getMaxKeyBytes()) {
            throw new DaemonFailure(String.format("a key, namespace or map key of state `%s` has %d bytes, more than the daemon's"
                    + " limit of %d: raise its `rpc.max-key-size` (and `rpc.max-message-size` above it)", place.state.name, key.length, limits.getMaxKeyBytes()));
        }
    }
}
