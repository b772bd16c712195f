package io.dstl.client;

import java.util.Arrays;

/**
 * Bytes inside a larger array, which nobody changes.
 *
 * @param array has them
 * @param offset where they begin
 * @param length how many
 */
public record Slice(byte[] array, int offset, int length) {
    /** No bytes. */
    public static final Slice EMPTY = new Slice(Batch.NONE, 0, 0);

    /**
     * The bytes alone.
     *
     * @return a copy
     */
    public byte[] copy() {
        return Arrays.copyOfRange(array, offset, offset + length);
    }
}
