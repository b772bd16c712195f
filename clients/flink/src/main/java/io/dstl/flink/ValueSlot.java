package io.dstl.flink;

import io.dstl.client.Batch;

/** A value: unknown, absent or known. */
final class ValueSlot extends Slot {
    private byte[] value;
    private boolean known;
    /** The read that may fill it; 0: none, also since something was written meanwhile. */
    private long pending;

    ValueSlot(Place place) {
        super(place);
    }

    boolean known() {
        return known;
    }

    /** Null: absent. Only where it is known. */
    byte[] value() {
        return value;
    }

    /** A write; null removes. */
    void set(byte[] to) {
        value = to;
        known = true;
        pending = 0;
    }

    /** Marks it as waiting for the answer of a read. */
    void await(long request) {
        pending = request;
    }

    /** The answer of a read: taken only where nothing was written since it was asked. */
    void fill(long request, byte[] found) {
        if (pending == request) {
            set(found);
        }
    }

    @Override
    void setAbsent() {
        set(null);
    }

    @Override
    void setUnknown() {
        value = null;
        known = false;
        pending = 0;
    }

    @Override
    void encode(Batches batches) {
        if (value == null && !remote) {
            return;
        }
        Batch batch = batches.next(place.heap() + (value == null ? 0 : value.length));
        if (value == null) {
            encodeClear(batch);
            remote = false;
        } else {
            batch.put(place.state.id, place.group, place.key, place.namespace, value);
            remote = true;
        }
    }

    @Override
    int heap() {
        return 64 + place.heap() + (value == null ? 0 : 16 + value.length);
    }
}
