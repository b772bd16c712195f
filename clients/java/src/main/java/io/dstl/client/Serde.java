package io.dstl.client;

/**
 * Turns values of one type into bytes and back. Called on the threads of callers alone. What the bytes mean is told
 * to the
 * daemon by {@link #id()} and {@link #version()}, which it compares with those of the registered state; it reads none.
 *
 * @param <T> the type
 */
public interface Serde<T> {
    /**
     * The bytes of a value. Equal keys must have equal bytes.
     *
     * @param value what to write
     * @return a new array, or one that nobody changes
     */
    byte[] write(T value);

    /**
     * The value of bytes.
     *
     * @param bytes as {@link #write} made them
     * @return the value
     */
    T read(Slice bytes);

    /**
     * The name of this serializer.
     *
     * @return up to {@code Limits.max_name_bytes} bytes; empty: none
     */
    default String id() {
        return "";
    }

    /**
     * The version of what it writes.
     *
     * @return from 0
     */
    default int version() {
        return 0;
    }
}
