package io.dstl.client;

/** Walks the fields of one protobuf message. Throws {@link IllegalArgumentException} where it is not one. */
final class Fields {
    static final Fields NONE = new Fields(Slice.EMPTY);

    private final byte[] bytes;
    private final int end;
    private int at;
    private int tag;
    private long number;
    private int from;

    Fields(Slice message) {
        this(message.array(), message.offset(), message.offset() + message.length());
    }

    Fields(byte[] bytes, int from, int to) {
        this.bytes = bytes;
        this.at = from;
        this.end = to;
    }

    /** Another walk of the same message, from where this one is. */
    Fields copy() {
        return new Fields(bytes, at, end);
    }

    /** Goes to the next field; false at the end. */
    boolean next() {
        if (at >= end) {
            return false;
        }
        tag = (int) varint();
        switch (tag & 7) {
            case 0 -> number = varint();
            case 1 -> skip(Long.BYTES);
            case 2 -> skip(varint());
            case 5 -> skip(Integer.BYTES);
            default -> throw new IllegalArgumentException("a field of wire type " + (tag & 7));
        }
        return true;
    }

    private void skip(long length) {
        if (length < 0 || length > end - at) {
            throw new IllegalArgumentException("a field of " + length + " bytes where " + (end - at) + " are left");
        }
        from = at;
        at += (int) length;
    }

    private long varint() {
        long value = 0;
        for (int shift = 0; at < end && shift < Long.SIZE; shift += 7) {
            byte next = bytes[at++];
            value |= (long) (next & 0x7f) << shift;
            if (next >= 0) {
                return value;
            }
        }
        throw new IllegalArgumentException("a number that does not end");
    }

    /** Field number and wire type, as they are written. */
    int tag() {
        return tag;
    }

    long number() {
        return number;
    }

    int from() {
        return from;
    }

    /** Where the bytes of this field end; the next field begins there. */
    int to() {
        return at;
    }

    Slice slice() {
        return from == 0 && at == 0 ? Slice.EMPTY : new Slice(bytes, from, at - from);
    }
}
