package io.dstl.flink;

import io.dstl.client.Batch;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A map: some of its entries are known, or (it is complete) all that are not known are known to be absent. */
final class MapSlot extends Slot {
    /** A map with more entries is not kept whole. */
    static final int MOST_ENTRIES = 1000;
    /** Nor one with more bytes. */
    static final int MOST_BYTES = 512 << 10;
    private static final int CELL = 112;

    private final Map<MapKey, Cell> cells = new HashMap<>(4);
    /** Cells with writes. */
    private final List<Cell> written = new ArrayList<>(2);
    private int bytes;
    private boolean complete;
    /** Everything that the daemon has is to be removed first. */
    private boolean clear;
    /** The read that may make it complete; 0: none. */
    private long awaited;

    MapSlot(Place place) {
        super(place);
    }

    boolean complete() {
        return complete;
    }

    /** Whether a read of the whole map must wait until its writes are sent. */
    boolean dirty() {
        return clear || !written.isEmpty();
    }

    /** Null: unknown. Else a cell, whose value is null where the entry is absent. */
    Cell cell(MapKey key) {
        Cell cell = cells.get(key);
        return cell == null && complete ? Cell.ABSENT : cell;
    }

    /** All entries, where it is complete: a copy, so the map may be changed while somebody walks it. */
    List<Cell> entries() {
        List<Cell> entries = new ArrayList<>(cells.size());
        for (Cell cell : cells.values()) {
            if (cell.value != null) {
                entries.add(new Cell(cell.key, cell.value));
            }
        }
        return entries;
    }

    /** Whether an entry is known to be there. */
    boolean anyPresent() {
        for (Cell cell : cells.values()) {
            if (cell.value != null) {
                return true;
            }
        }
        return false;
    }

    /** A write; null removes. */
    void set(MapKey key, byte[] value) {
        awaited = 0;
        Cell cell = cells.get(key);
        if (cell == null) {
            cell = new Cell(key);
            cells.put(key, cell);
            bytes += CELL + key.bytes.length;
        }
        cell.pending = 0;
        account(cell, value);
        if (!cell.written) {
            cell.written = true;
            written.add(cell);
        }
    }

    void clear() {
        awaited = 0;
        cells.clear();
        written.clear();
        bytes = 0;
        complete = true;
        clear = true;
    }

    /** Marks an entry as waiting for the answer of a read. */
    Cell await(MapKey key, long request) {
        Cell cell = cells.get(key);
        if (cell == null) {
            cell = new Cell(key);
        }
        cell.pending = request;
        cells.put(key, cell);
        return cell;
    }

    /** The answer of a read of one entry: taken only where nothing was written since it was asked. */
    void fill(MapKey key, long request, byte[] found) {
        Cell cell = cells.get(key);
        if (cell != null && cell.pending == request) {
            cell.pending = 0;
            bytes += CELL + key.bytes.length;
            account(cell, found);
        }
    }

    void await(long request) {
        awaited = request;
    }

    /** The answer of a read of all entries: taken only where nothing was written since it was asked. */
    void fill(long request, List<Cell> all) {
        if (awaited != request) {
            return;
        }
        awaited = 0;
        cells.clear();
        bytes = 0;
        for (Cell cell : all) {
            cells.put(cell.key, new Cell(cell.key, cell.value));
            bytes += CELL + cell.key.bytes.length + cell.value.length;
        }
        complete = true;
    }

    private void account(Cell cell, byte[] value) {
        bytes += (value == null ? 0 : value.length) - (cell.value == null ? 0 : cell.value.length);
        cell.value = value;
    }

    @Override
    void setAbsent() {
        awaited = 0;
        cells.clear();
        written.clear();
        bytes = 0;
        clear = false;
        complete = true;
    }

    @Override
    void setUnknown() {
        awaited = 0;
        cells.clear();
        bytes = 0;
        complete = false;
    }

    @Override
    void encode(Batches batches) {
        if (clear && remote) {
            encodeClear(batches.next(place.heap()));
            remote = false;
        }
        clear = false;
        for (Cell cell : written) {
            cell.written = false;
            if (cell.value != null) {
                batches.next(place.heap() + cell.key.bytes.length + cell.value.length).mapPut(place.state.id, place.group, place.key, place.namespace, cell.key.bytes, cell.value);
                remote = true;
            } else if (remote) {
                batches.next(place.heap() + cell.key.bytes.length).mapRemove(place.state.id, place.group, place.key, place.namespace, cell.key.bytes);
            }
            if (cell.value == null && complete) {
                cells.remove(cell.key);
                bytes -= CELL + cell.key.bytes.length;
            }
        }
        written.clear();
        if (cells.size() > MOST_ENTRIES || bytes > MOST_BYTES) {
            setUnknown();
        }
    }

    @Override
    int heap() {
        return 160 + place.heap() + bytes + 8 * written.size();
    }

    /** A key of a map, compared by its bytes. */
    static final class MapKey {
        final byte[] bytes;
        private final int hash;

        MapKey(byte[] bytes) {
            this.bytes = bytes;
            this.hash = (int) Place.hash(bytes, Batch.NONE);
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof MapKey key && hash == key.hash && Arrays.equals(bytes, key.bytes);
        }

        @Override
        public int hashCode() {
            return hash;
        }
    }

    /** What is known of one entry. */
    static final class Cell {
        static final Cell ABSENT = new Cell(new MapKey(Batch.NONE));

        final MapKey key;
        /** Null: absent. */
        byte[] value;
        private boolean written;
        private long pending;

        Cell(MapKey key) {
            this.key = key;
        }

        Cell(MapKey key, byte[] value) {
            this(key);
            this.value = value;
        }

        /** Whether its value is not known yet. */
        boolean pending() {
            return pending != 0;
        }
    }
}
