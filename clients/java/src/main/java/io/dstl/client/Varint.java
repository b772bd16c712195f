package io.dstl.client;

/**
 * Numbers as protobuf writes them: seven bits per byte, the lowest first. Callers reserve the room: at most 10 bytes.
 */
final class Varint {
    private Varint() {}

    static int length(long number) {
        // One byte per started seven bits; zero takes one as well.
        return (Long.SIZE - Long.numberOfLeadingZeros(number | 1) + 6) / 7;
    }

    /** Writes a number; returns where it ends. */
    static int put(byte[] bytes, int at, long number) {
        int end = at;
        long rest = number;
        while ((rest & ~0x7fL) != 0) {
            bytes[end++] = (byte) (rest | 0x80);
            rest >>>= 7;
        }
        bytes[end++] = (byte) rest;
        return end;
    }

    /** The number that begins at {@code at}. */
    static long get(byte[] bytes, int at) {
        long number = 0;
        int from = at;
        for (int shift = 0; shift < Long.SIZE; shift += 7) {
            byte next = bytes[from++];
            number |= (long) (next & 0x7f) << shift;
            if (next >= 0) {
                return number;
            }
        }
        throw new IllegalArgumentException("a varint longer than 10 bytes at " + at);
    }

    /** Where the number that begins at {@code at} ends. */
    static int end(byte[] bytes, int at) {
        int from = at;
        while (bytes[from] < 0) {
            from++;
        }
        return from + 1;
    }
}
