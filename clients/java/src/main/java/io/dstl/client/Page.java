package io.dstl.client;

import java.util.List;

/**
 * A part of what there is to read.
 *
 * @param items in order
 * @param token with what the next page is asked for; null: nothing follows
 * @param <T> what it consists of
 */
public record Page<T>(List<T> items, byte[] token) {
    /**
     * Whether others may follow.
     *
     * @return true if so
     */
    public boolean more() {
        return token != null;
    }
}
