package io.dstl.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.function.Function;

/** Serializers of common types. */
public final class Serdes {
    private static final Serde<String> STRING = of("utf8", value -> value.getBytes(StandardCharsets.UTF_8),
            bytes -> new String(bytes.array(), bytes.offset(), bytes.length(), StandardCharsets.UTF_8));
    private static final Serde<byte[]> BYTES = of("bytes", value -> value, Slice::copy);
    private static final Serde<Long> INT64 = of("int64-le", value -> little(value), bytes -> little(bytes).getLong());
    private static final Serde<Double> FLOAT64 =
            of("float64-le", value -> little(Double.doubleToRawLongBits(value)), bytes -> little(bytes).getDouble());
    private static final Serde<Long> ORDERED_INT64 = of("int64-ordered",
            value -> ByteBuffer.allocate(Long.BYTES).putLong(value ^ Long.MIN_VALUE).array(),
            bytes -> big(bytes).getLong() ^ Long.MIN_VALUE);
    private static final Serde<Void> NONE = of("", value -> Batch.NONE, bytes -> null);

    private Serdes() {}

    /**
     * Text in UTF-8.
     *
     * @return the serializer
     */
    public static Serde<String> string() {
        return STRING;
    }

    /**
     * Bytes as they are.
     *
     * @return the serializer
     */
    public static Serde<byte[]> bytes() {
        return BYTES;
    }

    /**
     * Numbers of 8 bytes, little-endian, as the daemon's merge functions have them.
     *
     * @return the serializer
     */
    public static Serde<Long> int64() {
        return INT64;
    }

    /**
     * IEEE 754 numbers of 8 bytes, little-endian, as the daemon's merge functions have them.
     *
     * @return the serializer
     */
    public static Serde<Double> float64() {
        return FLOAT64;
    }

    /**
     * Numbers of 8 bytes whose bytes are in the order of the numbers: for keys of maps that are read in order.
     *
     * @return the serializer
     */
    public static Serde<Long> orderedInt64() {
        return ORDERED_INT64;
    }

    /**
     * No bytes: the key of operator state.
     *
     * @return the serializer of null
     */
    public static Serde<Void> none() {
        return NONE;
    }

    /**
     * A serializer of two functions, version 0.
     *
     * @param id its name
     * @param write makes bytes
     * @param read makes a value of them
     * @param <T> the type
     * @return the serializer
     */
    public static <T> Serde<T> of(String id, Function<T, byte[]> write, Function<Slice, T> read) {
        return of(id, 0, write, read);
    }

    /**
     * A serializer of two functions.
     *
     * @param id its name
     * @param version of what it writes
     * @param write makes bytes
     * @param read makes a value of them
     * @param <T> the type
     * @return the serializer
     */
    public static <T> Serde<T> of(String id, int version, Function<T, byte[]> write, Function<Slice, T> read) {
        return new Serde<>() {
            @Override
            public byte[] write(T value) {
                return write.apply(value);
            }

            @Override
            public T read(Slice bytes) {
                return read.apply(bytes);
            }

            @Override
            public String id() {
                return id;
            }

            @Override
            public int version() {
                return version;
            }
        };
    }

    private static byte[] little(long bits) {
        return ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN).putLong(bits).array();
    }

    static ByteBuffer little(Slice bytes) {
        return big(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }

    private static ByteBuffer big(Slice bytes) {
        return ByteBuffer.wrap(bytes.array(), bytes.offset(), bytes.length());
    }
}
