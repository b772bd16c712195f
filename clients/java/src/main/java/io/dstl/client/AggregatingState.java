package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.util.function.ToIntFunction;

/**
 * What the daemon's merge function makes of inputs, per key and namespace; adding reads nothing. A reducing state is
 * one whose
 * inputs and result are of one type.
 *
 * @param <K> the key
 * @param <I> an input
 * @param <O> the result
 */
public final class AggregatingState<K, I, O> extends State<K> {
    private final Aggregation<I, O> aggregation;

    AggregatingState(RegisteredState registered, Serde<K> keys, Aggregation<I, O> aggregation) {
        super(registered, keys);
        this.aggregation = aggregation;
    }

    private AggregatingState(AggregatingState<K, I, O> of, ToIntFunction<? super K> groups, byte[] namespace) {
        super(of.registered(), of.keySerde(), groups, namespace);
        this.aggregation = of.aggregation;
    }

    @Override
    public AggregatingState<K, I, O> in(byte[] namespace) {
        return new AggregatingState<>(this, groups(), namespace);
    }

    @Override
    public AggregatingState<K, I, O> withKeyGroups(ToIntFunction<? super K> groups) {
        return new AggregatingState<>(this, groups, namespace());
    }

    /**
     * Adds an input.
     *
     * @param batch where to add it
     * @param key the key
     * @param input what to add
     */
    public void add(Batch batch, K key, I input) {
        batch.merge(id(), group(key), key(key), namespace(), aggregation.input().apply(input));
    }

    /**
     * Reads the result.
     *
     * @param batch where to add it
     * @param key the key
     * @return the result; null where nothing was added
     */
    public Read<O> get(Batch batch, K key) {
        int at = batch.get(id(), group(key), key(key), namespace());
        return new Read<>(results -> results.found(at) ? aggregation.result().apply(results.slice(at)) : null);
    }

    /**
     * Reads the result, and waits for it.
     *
     * @param session where to read
     * @param key the key
     * @return the result; null where nothing was added
     * @throws InterruptedException if the waiting thread was interrupted
     */
    public O get(Session session, K key) throws InterruptedException {
        return session.ask(batch -> get(batch, key));
    }
}
