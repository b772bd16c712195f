package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.Results;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Set;
import java.util.TreeSet;
import org.apache.flink.runtime.state.KeyGroupedInternalPriorityQueue;
import org.apache.flink.util.CloseableIterator;

/**
 * Timers, kept by the daemon in order of time, key and namespace, of which the earliest are here: {@code heads} has every timer up
 * to and including {@code bound}, and all where nothing {@code more} is at the daemon. Registering and deleting are noted and sent
 * with the other writes.
 *
 * <p>A page is read only when the heads are used up, by a thread that waits for it, and behind everything noted: so nobody
 * registers or deletes a timer while a page is under way, and no page brings back a timer that was deleted.
 */
final class DstlTimerQueue<T> implements KeyGroupedInternalPriorityQueue<T>, StatePath.TimerWrites {
    /** Heads beyond so many pages go back to the daemon. */
    private static final int MOST_PAGES = 8;

    private final StatePath path;
    private final StateRef ref;
    private final TimerCodec<T> codec;
    private final int page;
    private final TreeSet<Timer<T>> heads = new TreeSet<>();
    /** What the daemon does not know yet: true registers. */
    private final Map<Timer<T>, Boolean> writes = new LinkedHashMap<>();
    private Timer<T> bound;
    private boolean more;
    private byte[] token = Batch.NONE;

    /**
     * A queue.
     *
     * @param empty whether the daemon has no timers of it
     */
    DstlTimerQueue(StatePath path, StateRef ref, TimerCodec<T> codec, int page, boolean empty) {
        this.path = path;
        this.ref = ref;
        this.codec = codec;
        this.page = page;
        this.more = !empty;
        path.add(this);
    }

    @Override
    public T peek() {
        load();
        return heads.isEmpty() ? null : element(heads.first());
    }

    @Override
    public T poll() {
        load();
        Timer<T> head = heads.pollFirst();
        if (head == null) {
            return null;
        }
        note(head, false);
        return element(head);
    }

    @Override
    public boolean add(T element) {
        Timer<T> timer = timer(element);
        if (timer.time == Long.MIN_VALUE) {
            throw new IllegalArgumentException("a timer at Long.MIN_VALUE cannot be kept by dstl: register it one millisecond later");
        }
        load();
        if (!within(timer)) {
            note(timer, true);
            return false;
        }
        if (!heads.add(timer)) {
            return false;
        }
        note(timer, true);
        boolean head = heads.first() == timer;
        trim();
        return head;
    }

    @Override
    public boolean remove(T element) {
        Timer<T> timer = timer(element);
        load();
        boolean head = !heads.isEmpty() && heads.first().compareTo(timer) == 0;
        if (within(timer) && !heads.remove(timer)) {
            return false;
        }
        note(timer, false);
        return head;
    }

    @Override
    public boolean isEmpty() {
        return peek() == null;
    }

    @Override
    public int size() {
        Batch batch = new Batch();
        int read = batch.timerCount(ref.id);
        return Math.toIntExact(path.ask(batch).count(read));
    }

    @Override
    public void addAll(Collection<? extends T> elements) {
        if (elements != null) {
            elements.forEach(this::add);
        }
    }

    @Override
    public CloseableIterator<T> iterator() {
        return CloseableIterator.adapterForIterator(new Walk());
    }

    @Override
    public Set<T> getSubsetForKeyGroup(int keyGroup) {
        Set<T> subset = new HashSet<>();
        new Walk().forEachRemaining(element -> {
            if (codec.group(element) == keyGroup) {
                subset.add(element);
            }
        });
        return subset;
    }

    @Override
    public void encode(Slot.Batches batches) {
        writes.forEach((timer, register) -> {
            Batch batch = batches.next(timer.key.length + timer.namespace.length + 48);
            if (register) {
                batch.timerRegister(ref.id, timer.group, timer.key, timer.namespace, timer.time);
            } else {
                batch.timerDelete(ref.id, timer.group, timer.key, timer.namespace, timer.time);
            }
        });
        writes.clear();
    }

    private void note(Timer<T> timer, boolean register) {
        synchronized (path) {
            if (writes.put(timer, register) == null) {
                path.wroteTimer(timer.key.length + timer.namespace.length + 24);
            }
        }
    }

    private boolean within(Timer<T> timer) {
        return !more || bound != null && timer.compareTo(bound) <= 0;
    }

    /** Makes sure that the earliest timer is here. */
    private void load() {
        while (heads.isEmpty() && more) {
            Batch batch = new Batch(64);
            int read = batch.timers(ref.id, Long.MAX_VALUE, token, page);
            Results results = path.ask(batch);
            for (Results.Timer found : results.timers(read)) {
                heads.add(timer(found));
            }
            token = results.token(read);
            more = token.length > 0;
            if (!heads.isEmpty()) {
                bound = heads.last();
            }
        }
    }

    /** Gives the latest heads back to the daemon, which has all of them or gets them with the next writes. */
    private void trim() {
        if (heads.size() > MOST_PAGES * page) {
            while (heads.size() > MOST_PAGES * page / 2) {
                heads.pollLast();
            }
            bound = heads.last();
            more = true;
            // The next page begins at the earliest timer that is left: by then everything up to the bound is deleted.
            token = Batch.NONE;
        }
    }

    private Timer<T> timer(T element) {
        return new Timer<>(codec.time(element), codec.key(element), codec.namespace(element), codec.group(element));
    }

    private Timer<T> timer(Results.Timer found) {
        return new Timer<>(found.time(), found.key(), found.namespace(), found.keyGroup());
    }

    /** One of our own: whoever registered a timer may use its key for something else afterwards (see {@code isSafeToReuseKVState}). */
    private T element(Timer<T> timer) {
        if (timer.element == null) {
            timer.element = codec.element(timer.time, timer.key, timer.namespace);
        }
        return timer.element;
    }

    /** All timers, page by page, as the daemon has them. */
    private final class Walk implements Iterator<T> {
        private byte[] from = Batch.NONE;
        private boolean follows = true;
        private List<T> elements = List.of();
        private int index;
        private T last;

        @Override
        public boolean hasNext() {
            while (index == elements.size() && follows) {
                Batch batch = new Batch(64);
                int read = batch.timers(ref.id, Long.MAX_VALUE, from, StatePath.PAGE);
                Results results = path.ask(batch);
                elements = new ArrayList<>();
                results.timers(read).forEach(found -> elements.add(element(timer(found))));
                index = 0;
                from = results.token(read);
                follows = from.length > 0;
            }
            return index < elements.size();
        }

        @Override
        public T next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            last = elements.get(index++);
            return last;
        }

        @Override
        public void remove() {
            DstlTimerQueue.this.remove(last);
        }
    }

    /** A timer; equal where time, key and namespace are. */
    private static final class Timer<T> implements Comparable<Timer<T>> {
        final long time;
        final byte[] key;
        final byte[] namespace;
        final int group;
        /** Made where it is wanted. */
        private T element;

        Timer(long time, byte[] key, byte[] namespace, int group) {
            this.time = time;
            this.key = key;
            this.namespace = namespace;
            this.group = group;
        }

        @Override
        public int compareTo(Timer<T> other) {
            int order = Long.compare(time, other.time);
            if (order == 0) {
                order = Arrays.compareUnsigned(key, other.key);
            }
            return order == 0 ? Arrays.compareUnsigned(namespace, other.namespace) : order;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Timer<?> timer && time == timer.time && Arrays.equals(key, timer.key)
                    && Arrays.equals(namespace, timer.namespace);
        }

        @Override
        public int hashCode() {
            return Long.hashCode(time) * 31 + (int) Place.hash(key, namespace);
        }
    }
}
