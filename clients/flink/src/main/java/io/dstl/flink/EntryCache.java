package io.dstl.flink;

import java.util.Arrays;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Slots by place, within a number of bytes of heap. What is over goes by the clock algorithm, but never a slot with writes.
 * There is no invalidation: while this backend is open nobody else writes its state, and the daemon itself changes an entry only
 * by removing what has expired (which Flink hides anyway) and by merging namespaces (see {@link StatePath#mergeLists}).
 */
final class EntryCache {
    /** All caches of the process together take at most this share of its heap. */
    private static final int HEAP_SHARE = 10;
    private static final long LEAST_BYTES = 16 << 10;
    private static final long HEAP = Runtime.getRuntime().maxMemory();
    private static final Set<EntryCache> OPEN = ConcurrentHashMap.newKeySet();
    /** How many caches are open in this process (of this class loader). */
    private static volatile int open;

    private final long wanted;
    private Slot[] table = new Slot[1 << 10];
    private Slot[] ring = new Slot[1 << 10];
    private int size;
    private int hand;
    private long bytes;

    EntryCache(long wanted) {
        this.wanted = wanted;
        OPEN.add(this);
        open = OPEN.size();
    }

    void close() {
        OPEN.remove(this);
        open = OPEN.size();
        Arrays.fill(table, null);
        Arrays.fill(ring, null);
        size = 0;
        bytes = 0;
    }

    /** Null where nothing is known. */
    Slot find(Place place) {
        Slot slot = table[index(place)];
        while (slot != null && !slot.place.same(place)) {
            slot = slot.next;
        }
        if (slot != null) {
            slot.used = true;
        }
        return slot;
    }

    /** Adds a slot whose place has none. */
    void add(Slot slot) {
        if (size == ring.length) {
            grow();
        }
        int index = index(slot.place);
        slot.next = table[index];
        table[index] = slot;
        slot.position = size;
        ring[size++] = slot;
        account(slot);
    }

    /** Brings the bytes of a changed slot up to date. */
    void account(Slot slot) {
        int now = slot.heap();
        bytes += now - slot.accounted;
        slot.accounted = now;
    }

    /** Whether slots must go. */
    boolean over() {
        return bytes > limit();
    }

    /** Lets clean slots go until there is room again, the ones not used lately first. */
    void shrink() {
        long limit = limit();
        for (int looked = 0; bytes > limit && looked < 2 * ring.length && size > 0; looked++) {
            if (hand >= size) {
                hand = 0;
            }
            Slot slot = ring[hand];
            if (slot.queued) {
                hand++;
            } else if (slot.used) {
                slot.used = false;
                hand++;
            } else {
                remove(slot);
            }
        }
    }

    int size() {
        return size;
    }

    long bytes() {
        return bytes;
    }

    /** All that it may take, as the process is now. */
    long limit() {
        return Math.max(LEAST_BYTES, Math.min(wanted, HEAP / HEAP_SHARE / Math.max(1, open)));
    }

    private void remove(Slot slot) {
        int index = index(slot.place);
        if (table[index] == slot) {
            table[index] = slot.next;
        } else {
            Slot before = table[index];
            while (before.next != slot) {
                before = before.next;
            }
            before.next = slot.next;
        }
        Slot last = ring[--size];
        ring[slot.position] = last;
        last.position = slot.position;
        ring[size] = null;
        slot.position = -1;
        slot.next = null;
        bytes -= slot.accounted;
    }

    private int index(Place place) {
        return (int) (place.hash ^ place.state.name.hashCode()) & table.length - 1;
    }

    private void grow() {
        ring = Arrays.copyOf(ring, 2 * size);
        table = new Slot[2 * size];
        for (int i = 0; i < size; i++) {
            Slot slot = ring[i];
            int index = index(slot.place);
            slot.next = table[index];
            table[index] = slot;
        }
    }
}
