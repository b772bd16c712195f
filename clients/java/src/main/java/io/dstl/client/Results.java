package io.dstl.client;

import io.dstl.proto.v1.Outcome;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * What came of a batch, by the index of its operations. Bytes lie in the message as it came; each accessor reads it
 * anew, on
 * the thread that asks, so ask once. Immutable.
 *
 * <p>Accessors answer as if nothing was found for operations without a result: writes that were done.
 */
public final class Results {
    private static final int FOUND = 0x10;
    private static final int VALUE = 0x1a;
    private static final int ENTRIES = 0x22;
    private static final int ELEMENTS = 0x2a;
    private static final int MORE = 0x30;
    private static final int COUNT = 0x38;
    private static final int KEYS = 0x4a;
    private static final int TOKEN = 0x52;
    private static final int TIMERS = 0x5a;

    /**
     * One entry of a map.
     *
     * @param key its key
     * @param value its value
     */
    public record Entry(byte[] key, byte[] value) {}

    /**
     * A key that has entries.
     *
     * @param key its bytes
     * @param namespace where it has entries
     * @param keyGroup of the key
     */
    public record StoredKey(byte[] key, byte[] namespace, int keyGroup) {}

    /**
     * A timer.
     *
     * @param time its time
     * @param key its key
     * @param namespace its namespace
     * @param keyGroup of the key
     */
    public record Timer(long time, byte[] key, byte[] namespace, int keyGroup) {}

    private final long number;
    private final ResultScan[] parts;

    Results(long number, ResultScan... parts) {
        this.number = number;
        this.parts = parts;
    }

    /**
     * The number of the batch: it is durable once {@link Acknowledged#persistedTo()} is above.
     *
     * @return from 0, in the epoch
     */
    public long number() {
        return number;
    }

    /**
     * What came of an operation.
     *
     * @param operation its index
     * @return {@code OUTCOME_DONE}, or why not
     */
    public Outcome outcome(int operation) {
        int outcome = Outcome.OUTCOME_DONE_VALUE;
        for (ResultScan part : parts) {
            int at = part.find(operation);
            if (at >= 0) {
                outcome = part.outcome(at);
                if (outcome != Outcome.OUTCOME_ASK_AGAIN_VALUE) {
                    break;
                }
            }
        }
        Outcome known = Outcome.forNumber(outcome);
        return known == null ? Outcome.UNRECOGNIZED : known;
    }

    /**
     * Whether a read found something.
     *
     * @param operation its index
     * @return true if so
     */
    public boolean found(int operation) {
        return field(operation, FOUND).number() != 0;
    }

    /**
     * The value that GET or MAP_GET read.
     *
     * @param operation its index
     * @return a copy; null where nothing was found (where the state has a default value, GET answers that one by
     *     {@link #slice})
     */
    public byte[] value(int operation) {
        return found(operation) ? slice(operation).copy() : null;
    }

    /**
     * The value that GET or MAP_GET read, where it lies.
     *
     * @param operation its index
     * @return the bytes; empty where there are none
     */
    public Slice slice(int operation) {
        return field(operation, VALUE).slice();
    }

    /**
     * Whether others follow behind a page of entries, elements or fired timers.
     *
     * @param operation its index
     * @return true if so
     */
    public boolean more(int operation) {
        return field(operation, MORE).number() != 0;
    }

    /**
     * The count that LIST_COUNT, MAP_COUNT or TIMER_COUNT read.
     *
     * @param operation its index
     * @return 0 where nothing was found
     */
    public long count(int operation) {
        return field(operation, COUNT).number();
    }

    /**
     * With what the next page of KEYS, TIMERS or LIST_GET is asked for.
     *
     * @param operation its index
     * @return empty: nothing follows
     * @throws UnsupportedException if more elements of a list follow, and the daemon is too old to say where
     */
    public byte[] token(int operation) {
        byte[] token = field(operation, TOKEN).slice().copy();
        if (token.length == 0 && more(operation) && elements(operation).iterator().hasNext()) {
            throw new UnsupportedException("the daemon gives no tokens for pages of lists: upgrade it", null);
        }
        return token;
    }

    /**
     * A page of map entries, in order of their keys.
     *
     * @param operation its index
     * @return copies
     */
    public List<Entry> entries(int operation) {
        List<Entry> entries = new ArrayList<>();
        for (Slice entry : repeated(operation, ENTRIES)) {
            Fields fields = new Fields(entry);
            byte[] key = Batch.NONE;
            byte[] value = Batch.NONE;
            while (fields.next()) {
                switch (fields.tag()) {
                    case 0x0a -> key = fields.slice().copy();
                    case 0x12 -> value = fields.slice().copy();
                    default -> { }
                }
            }
            entries.add(new Entry(key, value));
        }
        return entries;
    }

    /**
     * A page of list elements, in order.
     *
     * @param operation its index
     * @return where they lie
     */
    public List<Slice> elements(int operation) {
        return repeated(operation, ELEMENTS);
    }

    /**
     * A page of keys.
     *
     * @param operation its index
     * @return copies
     */
    public List<StoredKey> keys(int operation) {
        List<StoredKey> keys = new ArrayList<>();
        for (Slice key : repeated(operation, KEYS)) {
            keys.add(storedKey(key));
        }
        return keys;
    }

    private static StoredKey storedKey(Slice stored) {
        Fields fields = new Fields(stored);
        byte[] key = Batch.NONE;
        byte[] namespace = Batch.NONE;
        int keyGroup = 0;
        while (fields.next()) {
            switch (fields.tag()) {
                case 0x0a -> key = fields.slice().copy();
                case 0x12 -> namespace = fields.slice().copy();
                case 0x18 -> keyGroup = (int) fields.number();
                default -> { }
            }
        }
        return new StoredKey(key, namespace, keyGroup);
    }

    /**
     * A page of timers, in order of time, then key, then namespace.
     *
     * @param operation its index
     * @return copies
     */
    public List<Timer> timers(int operation) {
        List<Timer> timers = new ArrayList<>();
        for (Slice timer : repeated(operation, TIMERS)) {
            Fields fields = new Fields(timer);
            long time = 0;
            byte[] key = Batch.NONE;
            byte[] namespace = Batch.NONE;
            int keyGroup = 0;
            while (fields.next()) {
                switch (fields.tag()) {
                    case 0x08 -> time = fields.number();
                    case 0x12 -> key = fields.slice().copy();
                    case 0x1a -> namespace = fields.slice().copy();
                    case 0x20 -> keyGroup = (int) fields.number();
                    default -> { }
                }
            }
            timers.add(new Timer(time, key, namespace, keyGroup));
        }
        return timers;
    }

    /** For people. */
    @Override
    public String toString() {
        return "batch " + number + ": " + Arrays.stream(parts).mapToInt(ResultScan::size).sum() + " results";
    }

    private Fields field(int operation, int tag) {
        Fields fields = fields(operation);
        while (fields.next()) {
            if (fields.tag() == tag) {
                return fields;
            }
        }
        return Fields.NONE;
    }

    private List<Slice> repeated(int operation, int tag) {
        List<Slice> found = new ArrayList<>();
        Fields fields = fields(operation);
        while (fields.next()) {
            if (fields.tag() == tag) {
                found.add(fields.slice());
            }
        }
        return found;
    }

    private Fields fields(int operation) {
        for (ResultScan part : parts) {
            int at = part.find(operation);
            if (at >= 0 && part.outcome(at) != Outcome.OUTCOME_ASK_AGAIN_VALUE) {
                return part.fields(at);
            }
        }
        return Fields.NONE.copy();
    }
}
