package io.dstl.flink;

import java.util.ArrayList;
import java.util.List;

/**
 * Which keys of one state may exist: a superset, so that an answer of "absent" needs no round trip. It holds while this backend
 * is the only one that writes, from the first write on.
 *
 * <p>It never forgets by itself. Two generations make it do so: {@link #beginRebuild} starts a second one, into which go every
 * key that is written from then on and every key that the daemon lists; {@link #endRebuild} puts it in the place of the first. The
 * first one answers meanwhile, if it was complete. What was written before the rebuild must be at the daemon by then.
 *
 * <p>A generation is a list of blocked Bloom filters of growing size: 10 bits per key, 6 of them in one block of 512.
 */
final class AbsentFilter {
    private static final int FIRST_KEYS = 4096;
    private static final int GROWTH = 4;
    private static final int BITS_PER_KEY = 10;
    private static final int PROBES = 6;
    /** Inserts after which the number of live keys is looked at for the first time. */
    private static final long FIRST_REBUILD = 1 << 20;

    private final long maxBytes;
    private List<Layer> layers = new ArrayList<>();
    /** The generation that is being built; null: none is. */
    private List<Layer> next;
    private boolean complete;
    private boolean givenUp;
    private long rebuildAt = FIRST_REBUILD;
    private long inserted;
    private long insertedNext;
    /** Counts generations: a key that went into an older one may be in none of the current ones. */
    private int generation = 1;

    /**
     * A filter without keys.
     *
     * @param maxBytes beyond this it is given up
     * @param complete whether the state is known to be empty
     */
    AbsentFilter(long maxBytes, boolean complete) {
        this.maxBytes = maxBytes;
        this.complete = complete;
        this.givenUp = maxBytes <= 0;
    }

    /** Whether the key is certainly not there. */
    boolean absent(long hash) {
        return complete && !givenUp && !contains(layers, hash);
    }

    /** Notes that the key may exist from now on. */
    void add(long hash) {
        if (givenUp) {
            return;
        }
        if (complete && !contains(layers, hash)) {
            insert(layers, hash);
            inserted++;
        }
        listed(hash);
    }

    /** Which generation {@link #add} reaches: what was added under another number must be added again. */
    int generation() {
        return generation;
    }

    /** Whether it pays to build the next generation. */
    boolean wantsRebuild() {
        return !givenUp && next == null && (!complete || inserted >= rebuildAt);
    }

    /** Begins the next generation. The overlay must have been flushed. */
    void beginRebuild() {
        next = new ArrayList<>();
        insertedNext = 0;
        generation++;
    }

    /** A key that the daemon listed. */
    void listed(long hash) {
        if (next != null && !contains(next, hash)) {
            insert(next, hash);
            insertedNext++;
        }
    }

    /** Every key was listed: the next generation answers from now on. */
    void endRebuild() {
        if (next != null) {
            layers = next;
            next = null;
            complete = true;
            inserted = insertedNext;
            rebuildAt = Math.max(FIRST_REBUILD, 3 * insertedNext);
        }
    }

    /** The state's keys are not known any more. */
    void forget() {
        complete = false;
        layers = new ArrayList<>();
        next = null;
        generation++;
    }

    boolean isComplete() {
        return complete && !givenUp;
    }

    private void insert(List<Layer> to, long hash) {
        Layer last = to.isEmpty() ? null : to.get(to.size() - 1);
        if (last == null || last.keys >= last.capacity) {
            long capacity = last == null ? FIRST_KEYS : last.capacity * GROWTH;
            long bytes = to.stream().mapToLong(Layer::bytes).sum();
            long room = (maxBytes - bytes) * 8 / BITS_PER_KEY;
            if (room < FIRST_KEYS) {
                givenUp = true;
                layers = new ArrayList<>();
                next = null;
                return;
            }
            last = new Layer(Math.min(capacity, room));
            to.add(last);
        }
        last.add(hash);
    }

    private static boolean contains(List<Layer> in, long hash) {
        for (int i = in.size() - 1; i >= 0; i--) {
            if (in.get(i).contains(hash)) {
                return true;
            }
        }
        return false;
    }

    private static final class Layer {
        final long capacity;
        final long[] words;
        final int blocks;
        long keys;

        Layer(long capacity) {
            this.capacity = capacity;
            this.blocks = (int) Math.max(1, capacity * BITS_PER_KEY / 512);
            this.words = new long[blocks * 8];
        }

        long bytes() {
            return words.length * 8L;
        }

        int block(long hash) {
            return (int) ((hash >>> 32) * blocks >>> 32) * 8;
        }

        void add(long hash) {
            int block = block(hash);
            long bits = hash * 0xD6E8FEB86659FD93L;
            for (int i = 0; i < PROBES; i++) {
                int bit = (int) (bits >>> (10 * i)) & 511;
                words[block + (bit >>> 6)] |= 1L << bit;
            }
            keys++;
        }

        boolean contains(long hash) {
            int block = block(hash);
            long bits = hash * 0xD6E8FEB86659FD93L;
            for (int i = 0; i < PROBES; i++) {
                int bit = (int) (bits >>> (10 * i)) & 511;
                if ((words[block + (bit >>> 6)] & 1L << bit) == 0) {
                    return false;
                }
            }
            return true;
        }
    }
}
