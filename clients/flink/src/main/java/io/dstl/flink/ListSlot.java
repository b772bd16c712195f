package io.dstl.flink;

import io.dstl.client.Batch;
import java.util.ArrayList;
import java.util.List;
import io.dstl.proto.v1.OperationKind;

/** A list: all of its elements or none are known; appends are kept until they are sent. */
final class ListSlot extends Slot {
    /** A list that is longer is not kept whole. */
    static final int MOST_BYTES = 64 << 10;
    /** Bytes of elements in one operation, at least one: a quarter of the shortest message that a daemon allows. */
    private static final int CHUNK = 32 << 10;

    private List<byte[]> whole;
    private int wholeBytes;
    /** Elements to append; with {@link #replace} all that there is. */
    private List<byte[]> pending = new ArrayList<>(2);
    private int pendingBytes;
    private boolean replace;
    /** The read that may fill it; 0: none. */
    private long awaited;

    ListSlot(Place place) {
        super(place);
    }

    /** All elements; null: unknown. Must not be changed. */
    List<byte[]> whole() {
        return whole;
    }

    /** Whether a read must wait until its writes are sent. */
    boolean dirty() {
        return replace || !pending.isEmpty();
    }

    void add(byte[] element) {
        awaited = 0;
        pending.add(element);
        pendingBytes += element.length + 8;
        if (whole != null) {
            whole.add(element);
            wholeBytes += element.length + 24;
        }
    }

    void set(List<byte[]> elements) {
        awaited = 0;
        replace = true;
        pending = new ArrayList<>(elements);
        pendingBytes = elements.stream().mapToInt(element -> element.length + 8).sum();
        keep(new ArrayList<>(elements));
    }

    void await(long request) {
        awaited = request;
    }

    /** The answer of a read: taken only where nothing was written since it was asked. */
    void fill(long request, List<byte[]> elements) {
        if (awaited == request) {
            awaited = 0;
            keep(elements);
        }
    }

    private void keep(List<byte[]> elements) {
        whole = elements;
        wholeBytes = elements.stream().mapToInt(element -> element.length + 24).sum();
    }

    @Override
    void setAbsent() {
        awaited = 0;
        pending.clear();
        pendingBytes = 0;
        replace = false;
        keep(new ArrayList<>(2));
    }

    @Override
    void setUnknown() {
        whole = null;
        wholeBytes = 0;
        awaited = 0;
    }

    @Override
    void encode(Batches batches) {
        if (replace && pending.isEmpty()) {
            if (remote) {
                encodeClear(batches.next(place.heap()));
            }
            remote = false;
        } else {
            boolean first = replace && remote;
            for (int from = 0; from < pending.size();) {
                Batch batch = batches.next(place.heap() + Math.max(pending.get(from).length, Math.min(pendingBytes, CHUNK)));
                batch.begin(first ? OperationKind.OPERATION_KIND_LIST_UPDATE : OperationKind.OPERATION_KIND_LIST_ADD_ALL,
                        place.state.id).key(place.key).namespace(place.namespace);
                for (int bytes = 0; from < pending.size() && (bytes == 0 || bytes + pending.get(from).length < CHUNK); from++) {
                    byte[] element = pending.get(from);
                    batch.element(element, 0, element.length);
                    bytes += element.length + 1;
                }
                batch.keyGroup(place.group).end();
                first = false;
                remote = true;
            }
        }
        pending.clear();
        pendingBytes = 0;
        replace = false;
        if (wholeBytes > MOST_BYTES) {
            setUnknown();
        }
    }

    @Override
    int heap() {
        return 120 + place.heap() + wholeBytes + (whole == null ? pendingBytes + 24 * pending.size() : 8 * pending.size());
    }
}
