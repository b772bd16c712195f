package io.dstl.client;

import io.dstl.proto.v1.MergeFunction;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/**
 * A merge function of the daemon with the types that it is used with.
 *
 * @param function how the daemon merges
 * @param id a name for the stored form, as that of a serializer
 * @param input makes the operand of an input
 * @param result makes the result of what is stored
 * @param <I> an input
 * @param <O> the result
 */
public record Aggregation<I, O>(
        MergeFunction function, String id, Function<I, byte[]> input, Function<Slice, O> result) {
    /**
     * The sum; wraps around on overflow.
     *
     * @return the aggregation
     */
    public static Aggregation<Long, Long> sum() {
        return of(MergeFunction.MERGE_FUNCTION_SUM_I64, Serdes.int64());
    }

    /**
     * The least.
     *
     * @return the aggregation
     */
    public static Aggregation<Long, Long> min() {
        return of(MergeFunction.MERGE_FUNCTION_MIN_I64, Serdes.int64());
    }

    /**
     * The greatest.
     *
     * @return the aggregation
     */
    public static Aggregation<Long, Long> max() {
        return of(MergeFunction.MERGE_FUNCTION_MAX_I64, Serdes.int64());
    }

    /**
     * How many there are; the inputs are how many to add.
     *
     * @return the aggregation
     */
    public static Aggregation<Long, Long> count() {
        return of(MergeFunction.MERGE_FUNCTION_COUNT, Serdes.int64());
    }

    /**
     * The sum of floating-point numbers.
     *
     * @return the aggregation
     */
    public static Aggregation<Double, Double> sumFloat64() {
        return of(MergeFunction.MERGE_FUNCTION_SUM_F64, Serdes.float64());
    }

    /**
     * The average; exact as long as the sum fits 64 bits.
     *
     * @return the aggregation
     */
    public static Aggregation<Long, Double> average() {
        MergeFunction function = MergeFunction.MERGE_FUNCTION_AVERAGE_I64;
        return new Aggregation<>(function, "average-i64", Serdes.int64()::write, stored -> {
            ByteBuffer numbers = Serdes.little(stored);
            return (double) numbers.getLong() / numbers.getLong();
        });
    }

    /**
     * The set of byte strings, in order of their bytes.
     *
     * @return the aggregation
     */
    public static Aggregation<byte[], List<byte[]>> union() {
        return new Aggregation<>(MergeFunction.MERGE_FUNCTION_SET_UNION, "set", Aggregation::single, stored -> {
            List<byte[]> members = new ArrayList<>();
            ByteBuffer rest = Serdes.little(stored);
            while (rest.hasRemaining()) {
                byte[] member = new byte[rest.getInt()];
                rest.get(member);
                members.add(member);
            }
            return members;
        });
    }

    private static byte[] single(byte[] member) {
        return ByteBuffer.allocate(Integer.BYTES + member.length).order(ByteOrder.LITTLE_ENDIAN).putInt(member.length)
                .put(member).array();
    }

    /**
     * A merge function whose inputs, stored form and result are of one type.
     *
     * @param function how the daemon merges
     * @param serde of that type
     * @param <V> the type
     * @return the aggregation
     */
    public static <V> Aggregation<V, V> of(MergeFunction function, Serde<V> serde) {
        return new Aggregation<>(function, serde.id(), serde::write, serde::read);
    }

    Serde<O> stored() {
        return Serdes.of(id, result -> {
            throw new UnsupportedOperationException("results are not written");
        }, result);
    }
}
