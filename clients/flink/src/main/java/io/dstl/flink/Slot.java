package io.dstl.flink;

import io.dstl.client.Batch;

/**
 * What the cache knows of one place, and what of it the daemon does not know yet. A slot that is {@link #queued} has such writes:
 * it stays in the cache until they are encoded, so reads see them and several writes become one operation.
 */
abstract class Slot {
    final Place place;
    /** The next slot of the same bucket. */
    Slot next;
    /** Its position in the ring of the clock; -1: not in the cache any more. */
    int position = -1;
    /** Used since the hand of the clock passed. */
    boolean used = true;
    /** In the list of those with writes. */
    boolean queued;
    /** Whether the daemon may have entries here. */
    boolean remote = true;
    /** The generation of the state's filter that has the key; 0: none. */
    int filtered;
    /** Bytes that the cache accounts for this slot. */
    int accounted;

    Slot(Place place) {
        this.place = place;
    }

    /** Makes it what is known of a place without entries. */
    abstract void setAbsent();

    /** Forgets what is known. Only where nothing is to be written. */
    abstract void setUnknown();

    /** Adds the operations that bring the daemon up to date; nothing is to be written afterwards. */
    abstract void encode(Batches batches);

    /** Bytes of heap, about. */
    abstract int heap();

    /** The operation of any kind of state that removes all. */
    final void encodeClear(Batch batch) {
        batch.clear(place.state.id, place.group, place.key, place.namespace);
    }

    /** Where encoded operations go. */
    interface Batches {
        /** The batch that takes the next operation, of about so many bytes in all. */
        Batch next(int bytes);
    }
}
