package io.dstl.client;

import java.util.function.Function;

/**
 * A typed read that was added to a {@link Batch}: takes its answer out of the {@link Results} of that batch.
 *
 * @param <T> what it reads
 */
public final class Read<T> {
    private final Function<Results, T> take;

    Read(Function<Results, T> take) {
        this.take = take;
    }

    /**
     * The answer.
     *
     * @param results of the batch that it was added to
     * @return what was read
     */
    public T from(Results results) {
        return take.apply(results);
    }
}
