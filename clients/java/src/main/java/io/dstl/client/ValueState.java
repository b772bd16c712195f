package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.util.function.ToIntFunction;

/**
 * One value per key and namespace.
 *
 * @param <K> the key
 * @param <V> the value
 */
public final class ValueState<K, V> extends State<K> {
    private final Serde<V> values;

    ValueState(RegisteredState registered, Serde<K> keys, Serde<V> values) {
        super(registered, keys);
        this.values = values;
    }

    private ValueState(ValueState<K, V> of, ToIntFunction<? super K> groups, byte[] namespace) {
        super(of.registered(), of.keySerde(), groups, namespace);
        this.values = of.values;
    }

    @Override
    public ValueState<K, V> in(byte[] namespace) {
        return new ValueState<>(this, groups(), namespace);
    }

    @Override
    public ValueState<K, V> withKeyGroups(ToIntFunction<? super K> groups) {
        return new ValueState<>(this, groups, namespace());
    }

    /**
     * Sets the value.
     *
     * @param batch where to add it
     * @param key the key
     * @param value the value
     */
    public void put(Batch batch, K key, V value) {
        batch.put(id(), group(key), key(key), namespace(), values.write(value));
    }

    /**
     * Merges an operand of the value's own form into the value.
     *
     * @param batch where to add it
     * @param key the key
     * @param operand as the state's merge function takes it
     */
    public void merge(Batch batch, K key, V operand) {
        batch.merge(id(), group(key), key(key), namespace(), values.write(operand));
    }

    /**
     * Reads the value.
     *
     * @param batch where to add it
     * @param key the key
     * @return the value; null where there is none and the state has no default value
     */
    public Read<V> get(Batch batch, K key) {
        int at = batch.get(id(), group(key), key(key), namespace());
        boolean hasDefault = !registered().getStateDescriptor().getDefaultValue().isEmpty();
        return new Read<>(results -> results.found(at) || hasDefault ? values.read(results.slice(at)) : null);
    }

    /**
     * Reads the value, and waits for it.
     *
     * @param session where to read
     * @param key the key
     * @return the value; null where there is none and the state has no default value
     * @throws InterruptedException if the waiting thread was interrupted
     */
    public V get(Session session, K key) throws InterruptedException {
        return session.ask(batch -> get(batch, key));
    }
}
