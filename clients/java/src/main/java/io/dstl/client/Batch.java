package io.dstl.client;

import io.dstl.proto.v1.OperationKind;
import java.util.Arrays;
import java.util.BitSet;

/**
 * Operations that are applied together, in order, all or none. They are encoded as they are added and never again, so a
 * caller may overwrite its arrays at once. Not thread-safe. See {@code OperationKind} in the protocol for what each
 * does.
 *
 * <p>Methods return the index of the operation, under which {@link Results} has its answer. Conventions of their
 * parameters:
 * <ul>
 *   <li>{@code state}: the id that the daemon gave the state when it was registered;
 *   <li>{@code group}: the key group of the key where the backend's assignment is GIVEN, else {@link #HASHED};
 *   <li>{@code key}, {@code namespace}, {@code mapKey}: up to {@code Limits.max_key_bytes} bytes; {@link #NONE} for
 * the void
 *       namespace, and as key of operator state;
 *   <li>{@code limit}: at most so many per page; 0: as many as fit.
 * </ul>
 * Where bytes lie inside a larger array, {@link #begin} and what follows it add an operation without copying them
 * first:
 *
 * <pre>{@code
 * batch.begin(OPERATION_KIND_PUT, state).key(buffer, 0, keyLength).value(buffer, keyLength,
 * valueLength).keyGroup(7).end();
 * }</pre>
 */
public final class Batch {
    /** No key group: the daemon computes it. */
    public static final int HASHED = -1;
    /** No bytes. */
    public static final byte[] NONE = {};

    private static final int OPERATION = 0x12;
    private static final int KIND = 0x08;
    private static final int STATE = 0x10;
    private static final int KEY = 0x1a;
    private static final int NAMESPACE = 0x22;
    private static final int MAP_KEY = 0x2a;
    private static final int VALUE = 0x32;
    private static final int VALUES = 0x3a;
    private static final int START = 0x40;
    private static final int LIMIT = 0x48;
    private static final int KEY_GROUP = 0x50;
    private static final int ALL_NAMESPACES = 0x58;
    private static final int TOKEN = 0x62;
    private static final int TIME = 0x68;
    private static final int MAP_KEY_TO = 0x72;
    private static final int MAP_PREFIX = 0x7a;

    private byte[] bytes;
    private int length;
    private int operations;
    private int reads;
    private boolean fires;
    /** Where the fields of the open operation begin; -1: none is open. */
    private int open = -1;
    private boolean readsOnce;
    private boolean sealed;
    /** States that are read; only those can make a read cost credit. */
    private final BitSet statesRead = new BitSet();

    /** An empty batch. */
    public Batch() {
        this(512);
    }

    /**
     * An empty batch with room.
     *
     * @param initialBytes how many encoded bytes fit before it grows
     */
    public Batch(int initialBytes) {
        bytes = new byte[Math.max(initialBytes, 16)];
    }

    /**
     * Forbids to ask reads of this batch again where their answers were lost with a broken stream: the asked-again
     * ones may see
     * later writes. The session fails then with {@link AnswerLostException}.
     *
     * @return this
     */
    public Batch readsOnce() {
        readsOnce = true;
        return this;
    }

    /**
     * How many operations it has.
     *
     * @return the number
     */
    public int operations() {
        return operations;
    }

    /**
     * How many of them are reads.
     *
     * @return the number
     */
    public int reads() {
        return reads;
    }

    /**
     * Whether it has no operation.
     *
     * @return true if so
     */
    public boolean isEmpty() {
        return operations == 0;
    }

    /**
     * How many bytes its operations take; with up to 11 more for the number that is the credit that it costs if it
     * writes.
     *
     * @return bytes
     */
    public int encodedLength() {
        return length;
    }

    /**
     * Removes all of (key, namespace). Not for timers.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @return its index
     */
    public int clear(int state, int group, byte[] key, byte[] namespace) {
        return simple(OperationKind.OPERATION_KIND_CLEAR, state, group, key, namespace);
    }

    /**
     * Merges all that the namespaces {@code from} have of the key into {@code namespace}, and clears them. Not for
     * timers.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace the target
     * @param from at most 1000, distinct, none of them the target
     * @return its index
     */
    public int mergeNamespaces(int state, int group, byte[] key, byte[] namespace, Iterable<byte[]> from) {
        return begin(OperationKind.OPERATION_KIND_MERGE_NAMESPACES, state).key(key).namespace(namespace).values(from)
                .keyGroup(group).end();
    }

    /**
     * Sets a value.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param value up to {@code Limits.max_value_bytes} bytes
     * @return its index
     */
    public int put(int state, int group, byte[] key, byte[] namespace, byte[] value) {
        return begin(OperationKind.OPERATION_KIND_PUT, state).key(key).namespace(namespace).value(value).keyGroup(group)
                .end();
    }

    /**
     * Reads a value: {@link Results#found}, {@link Results#value}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @return its index
     */
    public int get(int state, int group, byte[] key, byte[] namespace) {
        return simple(OperationKind.OPERATION_KIND_GET, state, group, key, namespace);
    }

    /**
     * Merges an operand into a value, by the state's merge function.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param operand as the function wants it
     * @return its index
     */
    public int merge(int state, int group, byte[] key, byte[] namespace, byte[] operand) {
        return begin(OperationKind.OPERATION_KIND_MERGE, state).key(key).namespace(namespace).value(operand)
                .keyGroup(group).end();
    }

    /**
     * Sets one entry of a map.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param mapKey see above
     * @param value up to {@code Limits.max_value_bytes} bytes
     * @return its index
     */
    public int mapPut(int state, int group, byte[] key, byte[] namespace, byte[] mapKey, byte[] value) {
        return begin(OperationKind.OPERATION_KIND_MAP_PUT, state).key(key).namespace(namespace).mapKey(mapKey)
                .value(value).keyGroup(group).end();
    }

    /**
     * Reads one entry of a map: {@link Results#found}, {@link Results#value}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param mapKey see above
     * @return its index
     */
    public int mapGet(int state, int group, byte[] key, byte[] namespace, byte[] mapKey) {
        return entry(OperationKind.OPERATION_KIND_MAP_GET, state, group, key, namespace, mapKey);
    }

    /**
     * Removes one entry of a map, if it is there.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param mapKey see above
     * @return its index
     */
    public int mapRemove(int state, int group, byte[] key, byte[] namespace, byte[] mapKey) {
        return entry(OperationKind.OPERATION_KIND_MAP_REMOVE, state, group, key, namespace, mapKey);
    }

    /**
     * Reads whether a map has an entry: {@link Results#found}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param mapKey see above
     * @return its index
     */
    public int mapContains(int state, int group, byte[] key, byte[] namespace, byte[] mapKey) {
        return entry(OperationKind.OPERATION_KIND_MAP_CONTAINS, state, group, key, namespace, mapKey);
    }

    /**
     * Merges an operand into one entry of a map, by the state's merge function.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param mapKey see above
     * @param operand as the function wants it
     * @return its index
     */
    public int mapMerge(int state, int group, byte[] key, byte[] namespace, byte[] mapKey, byte[] operand) {
        return begin(OperationKind.OPERATION_KIND_MAP_MERGE, state).key(key).namespace(namespace).mapKey(mapKey)
                .value(operand).keyGroup(group).end();
    }

    /**
     * Reads a page of entries in order of their keys: {@link Results#entries}, {@link Results#more}. Where others
     * follow, ask
     * from the last key followed by a zero byte.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param from the first key, inclusive; empty: from the first one
     * @param limit see above
     * @return its index
     */
    public int mapEntries(int state, int group, byte[] key, byte[] namespace, byte[] from, long limit) {
        return begin(OperationKind.OPERATION_KIND_MAP_ENTRIES, state).key(key).namespace(namespace).mapKey(from)
                .limit(limit).keyGroup(group).end();
    }

    /**
     * Reads how many entries a map has: {@link Results#count}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @return its index
     */
    public int mapCount(int state, int group, byte[] key, byte[] namespace) {
        return simple(OperationKind.OPERATION_KIND_MAP_COUNT, state, group, key, namespace);
    }

    /**
     * Appends one element to a list.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param element up to {@code Limits.max_value_bytes} bytes
     * @return its index
     */
    public int listAdd(int state, int group, byte[] key, byte[] namespace, byte[] element) {
        return begin(OperationKind.OPERATION_KIND_LIST_ADD, state).key(key).namespace(namespace).value(element)
                .keyGroup(group).end();
    }

    /**
     * Appends elements to a list, in order.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param elements each up to {@code Limits.max_value_bytes} bytes
     * @return its index
     */
    public int listAddAll(int state, int group, byte[] key, byte[] namespace, Iterable<byte[]> elements) {
        return begin(OperationKind.OPERATION_KIND_LIST_ADD_ALL, state).key(key).namespace(namespace).values(elements)
                .keyGroup(group).end();
    }

    /**
     * Replaces a list; without elements it is cleared.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param elements each up to {@code Limits.max_value_bytes} bytes
     * @return its index
     */
    public int listUpdate(int state, int group, byte[] key, byte[] namespace, Iterable<byte[]> elements) {
        return begin(OperationKind.OPERATION_KIND_LIST_UPDATE, state).key(key).namespace(namespace).values(elements)
                .keyGroup(group).end();
    }

    /**
     * Reads the first page of elements: {@link Results#elements}, {@link Results#more}, {@link Results#token}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param start index of the first one
     * @param limit see above
     * @return its index
     */
    public int listGet(int state, int group, byte[] key, byte[] namespace, long start, long limit) {
        return begin(OperationKind.OPERATION_KIND_LIST_GET, state).key(key).namespace(namespace).start(start)
                .limit(limit).keyGroup(group).end();
    }

    /**
     * Reads the page of elements behind another one. Elements that are there from the first page to the last are on one of the pages,
     * also where others expire meanwhile.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param token of the page before; empty: from the beginning
     * @param limit see above
     * @return its index
     */
    public int listGet(int state, int group, byte[] key, byte[] namespace, byte[] token, long limit) {
        return begin(OperationKind.OPERATION_KIND_LIST_GET, state).key(key).namespace(namespace).token(token)
                .limit(limit).keyGroup(group).end();
    }

    /**
     * Reads how many elements a list has: {@link Results#count}.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @return its index
     */
    public int listCount(int state, int group, byte[] key, byte[] namespace) {
        return simple(OperationKind.OPERATION_KIND_LIST_COUNT, state, group, key, namespace);
    }

    /**
     * Reads a page of the keys that have entries in one namespace: {@link Results#keys}, {@link Results#token}.
     *
     * @param state see above
     * @param namespace see above
     * @param token of the page before; empty: from the beginning
     * @param limit see above
     * @return its index
     */
    public int keys(int state, byte[] namespace, byte[] token, long limit) {
        return begin(OperationKind.OPERATION_KIND_KEYS, state).namespace(namespace).limit(limit).token(token).end();
    }

    /**
     * Reads a page of the keys that have entries in any namespace: {@link Results#keys}, {@link Results#token}.
     *
     * @param state see above
     * @param token of the page before; empty: from the beginning
     * @param limit see above
     * @return its index
     */
    public int keysOfAllNamespaces(int state, byte[] token, long limit) {
        return begin(OperationKind.OPERATION_KIND_KEYS, state).limit(limit).allNamespaces().token(token).end();
    }

    /**
     * Registers a timer; registering one that is there changes nothing.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param time any but {@link Long#MIN_VALUE}
     * @return its index
     */
    public int timerRegister(int state, int group, byte[] key, byte[] namespace, long time) {
        return begin(OperationKind.OPERATION_KIND_TIMER_REGISTER, state).key(key).namespace(namespace).keyGroup(group)
                .time(time).end();
    }

    /**
     * Deletes a timer; deleting one that is not there changes nothing.
     *
     * @param state see above
     * @param group see above
     * @param key see above
     * @param namespace see above
     * @param time its time
     * @return its index
     */
    public int timerDelete(int state, int group, byte[] key, byte[] namespace, long time) {
        return begin(OperationKind.OPERATION_KIND_TIMER_DELETE, state).key(key).namespace(namespace).keyGroup(group)
                .time(time).end();
    }

    /**
     * Reads a page of the timers of all keys, in order of time, then key, then namespace: {@link Results#timers},
     * {@link Results#token}.
     *
     * @param state see above
     * @param upTo the last time, inclusive
     * @param token of the page before; empty: from the earliest
     * @param limit see above
     * @return its index
     */
    public int timers(int state, long upTo, byte[] token, long limit) {
        return begin(OperationKind.OPERATION_KIND_TIMERS, state).limit(limit).token(token).time(upTo).end();
    }

    /**
     * Reads the earliest timers of all keys and deletes what it returns: {@link Results#timers}, {@link Results#more}.
     *
     * @param state see above
     * @param upTo the last time, inclusive
     * @param limit see above
     * @return its index
     */
    public int timersFire(int state, long upTo, long limit) {
        return begin(OperationKind.OPERATION_KIND_TIMERS_FIRE, state).limit(limit).time(upTo).end();
    }

    /**
     * Reads how many timers all keys have: {@link Results#count}. Needs the daemon's feature {@code timers.count}.
     *
     * @param state see above
     * @return its index
     */
    public int timerCount(int state) {
        return begin(OperationKind.OPERATION_KIND_TIMER_COUNT, state).end();
    }

    private int simple(OperationKind kind, int state, int group, byte[] key, byte[] namespace) {
        return begin(kind, state).key(key).namespace(namespace).keyGroup(group).end();
    }

    private int entry(OperationKind kind, int state, int group, byte[] key, byte[] namespace, byte[] mapKey) {
        return begin(kind, state).key(key).namespace(namespace).mapKey(mapKey).keyGroup(group).end();
    }

    /**
     * Begins an operation, whose fields follow in any order until {@link #end}. What is empty or zero may be left out.
     *
     * @param kind what it does
     * @param state see above
     * @return this
     * @throws IllegalStateException if another one is open, or the batch was handed over
     */
    public Batch begin(OperationKind kind, int state) {
        if (open >= 0) {
            throw new IllegalStateException("an operation is open: end it before another one begins");
        }
        if (sealed) {
            throw new IllegalStateException("this batch was handed over: begin another one");
        }
        reserve(24);
        bytes[length++] = OPERATION;
        length++;
        open = length;
        number(KIND, kind.getNumber());
        number(STATE, state);
        if (isRead(kind)) {
            reads++;
            statesRead.set(state);
        }
        fires |= kind == OperationKind.OPERATION_KIND_TIMERS_FIRE;
        return this;
    }

    /**
     * Ends the operation that {@link #begin} began.
     *
     * @return its index
     */
    public int end() {
        int fields = length - opened();
        int more = Varint.length(fields) - 1;
        if (more > 0) {
            reserve(more);
            System.arraycopy(bytes, open, bytes, open + more, fields);
            length += more;
        }
        Varint.put(bytes, open - 1, fields);
        open = -1;
        return operations++;
    }

    /**
     * The key.
     *
     * @param array has it
     * @return this
     */
    public Batch key(byte[] array) {
        return key(array, 0, array.length);
    }

    /**
     * The key.
     *
     * @param array has it
     * @param offset where it begins
     * @param count its length
     * @return this
     */
    public Batch key(byte[] array, int offset, int count) {
        return field(KEY, array, offset, count);
    }

    /**
     * The namespace.
     *
     * @param array has it
     * @return this
     */
    public Batch namespace(byte[] array) {
        return namespace(array, 0, array.length);
    }

    /**
     * The namespace.
     *
     * @param array has it
     * @param offset where it begins
     * @param count its length
     * @return this
     */
    public Batch namespace(byte[] array, int offset, int count) {
        return field(NAMESPACE, array, offset, count);
    }

    /**
     * The key of a map entry; for MAP_ENTRIES the first one, inclusive.
     *
     * @param array has it
     * @return this
     */
    public Batch mapKey(byte[] array) {
        return mapKey(array, 0, array.length);
    }

    /**
     * The key of a map entry; for MAP_ENTRIES the first one, inclusive.
     *
     * @param array has it
     * @param offset where it begins
     * @param count its length
     * @return this
     */
    public Batch mapKey(byte[] array, int offset, int count) {
        return field(MAP_KEY, array, offset, count);
    }

    /**
     * The key before which MAP_ENTRIES ends.
     *
     * @param array has it
     * @return this
     */
    public Batch mapKeyTo(byte[] array) {
        return field(MAP_KEY_TO, array, 0, array.length);
    }

    /**
     * With what keys of MAP_ENTRIES begin.
     *
     * @param array has it
     * @return this
     */
    public Batch mapPrefix(byte[] array) {
        return field(MAP_PREFIX, array, 0, array.length);
    }

    /**
     * The value, element or operand.
     *
     * @param array has it
     * @return this
     */
    public Batch value(byte[] array) {
        return value(array, 0, array.length);
    }

    /**
     * The value, element or operand.
     *
     * @param array has it
     * @param offset where it begins
     * @param count its length
     * @return this
     */
    public Batch value(byte[] array, int offset, int count) {
        return field(VALUE, array, offset, count);
    }

    /**
     * One of several elements, or one of the namespaces to merge; empty ones count.
     *
     * @param array has it
     * @param offset where it begins
     * @param count its length
     * @return this
     */
    public Batch element(byte[] array, int offset, int count) {
        opened();
        return bytes(VALUES, array, offset, count);
    }

    /**
     * Several elements, or namespaces to merge.
     *
     * @param arrays each one
     * @return this
     */
    public Batch values(Iterable<byte[]> arrays) {
        for (byte[] array : arrays) {
            element(array, 0, array.length);
        }
        return this;
    }

    /**
     * The index of the first element.
     *
     * @param index from 0
     * @return this
     */
    public Batch start(long index) {
        opened();
        return number(START, index);
    }

    /**
     * At most so many per page.
     *
     * @param count 0: as many as fit
     * @return this
     */
    public Batch limit(long count) {
        opened();
        return number(LIMIT, count);
    }

    /**
     * The key group of the key.
     *
     * @param group {@link #HASHED}: none
     * @return this
     */
    public Batch keyGroup(int group) {
        opened();
        if (group >= 0) {
            reserve(11);
            bytes[length++] = KEY_GROUP;
            length = Varint.put(bytes, length, group);
        }
        return this;
    }

    /**
     * KEYS of all namespaces.
     *
     * @return this
     */
    public Batch allNamespaces() {
        opened();
        return number(ALL_NAMESPACES, 1);
    }

    /**
     * Where a page before ended.
     *
     * @param array as {@link Results#token} gave it; empty: from the beginning
     * @return this
     */
    public Batch token(byte[] array) {
        return field(TOKEN, array, 0, array.length);
    }

    /**
     * The time of a timer, or the last one of a page, inclusive.
     *
     * @param time any but {@link Long#MIN_VALUE}
     * @return this
     */
    public Batch time(long time) {
        opened();
        return number(TIME, time);
    }

    /** For people. */
    @Override
    public String toString() {
        return operations + " operations, " + reads + " reads, " + length + " bytes";
    }

    // What the session does with it.

    /** No operation comes any more. */
    void seal() {
        if (open >= 0) {
            throw new IllegalStateException("an operation is open: end it before the batch is handed over");
        }
        sealed = true;
    }

    byte[] bytes() {
        return bytes;
    }

    /** Whether it deletes timers that its answer alone tells. */
    boolean fires() {
        return fires;
    }

    boolean isReadsOnce() {
        return readsOnce;
    }

    /** Whether it costs credit: it writes, or reads states whose reads touch what they read. */
    boolean writes(BitSet touched) {
        return reads < operations || statesRead.intersects(touched);
    }

    /** Those reads of it whose indexes {@code wanted} has, as another batch. */
    Batch onlyReads(BitSet wanted) {
        Batch only = new Batch(length);
        int at = 0;
        for (int index = 0; index < operations; index++) {
            int fields = Varint.end(bytes, at + 1);
            int end = fields + (int) Varint.get(bytes, at + 1);
            if (wanted.get(index) && isRead(OperationKind.forNumber((int) Varint.get(bytes, fields + 1)))) {
                System.arraycopy(bytes, at, only.bytes, only.length, end - at);
                only.length += end - at;
                only.operations++;
                only.reads++;
                only.statesRead.set(stateAt(fields, end));
            }
            at = end;
        }
        only.readsOnce = readsOnce;
        only.sealed = true;
        return only;
    }

    /** The state of an operation whose fields lie there: the second one, behind the kind, unless it is 0. */
    private int stateAt(int fields, int end) {
        int at = Varint.end(bytes, fields + 1);
        return at < end && bytes[at] == STATE ? (int) Varint.get(bytes, at + 1) : 0;
    }

    /** Which operations are reads, by index. */
    BitSet readIndexes() {
        BitSet indexes = new BitSet(operations);
        int at = 0;
        for (int index = 0; index < operations; index++) {
            int fields = Varint.end(bytes, at + 1);
            if (isRead(OperationKind.forNumber((int) Varint.get(bytes, fields + 1)))) {
                indexes.set(index);
            }
            at = fields + (int) Varint.get(bytes, at + 1);
        }
        return indexes;
    }

    /** Whether operations of {@code kind} return a result and, unless reads touch what they read, change nothing. */
    static boolean isRead(OperationKind kind) {
        return switch (kind) {
            case OPERATION_KIND_GET, OPERATION_KIND_MAP_GET, OPERATION_KIND_MAP_CONTAINS, OPERATION_KIND_MAP_ENTRIES,
                    OPERATION_KIND_MAP_COUNT, OPERATION_KIND_LIST_GET, OPERATION_KIND_LIST_COUNT, OPERATION_KIND_KEYS,
                    OPERATION_KIND_TIMERS, OPERATION_KIND_TIMER_COUNT -> true;
            default -> false;
        };
    }

    private int opened() {
        if (open < 0) {
            throw new IllegalStateException("no operation is open: begin one");
        }
        return open;
    }

    private Batch field(int tag, byte[] array, int offset, int count) {
        opened();
        return count == 0 ? this : bytes(tag, array, offset, count);
    }

    private Batch bytes(int tag, byte[] array, int offset, int count) {
        reserve(count + 6);
        bytes[length++] = (byte) tag;
        length = Varint.put(bytes, length, count);
        System.arraycopy(array, offset, bytes, length, count);
        length += count;
        return this;
    }

    private Batch number(int tag, long number) {
        if (number != 0) {
            reserve(11);
            bytes[length++] = (byte) tag;
            length = Varint.put(bytes, length, number);
        }
        return this;
    }

    private void reserve(int count) {
        if (bytes.length - length < count) {
            int doubled = (int) Math.min(2L * bytes.length, 1 << 30);
            bytes = Arrays.copyOf(bytes, Math.max(Math.addExact(length, count), doubled));
        }
    }}
