package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.ToIntFunction;

/**
 * A map per key and namespace, in order of the bytes of its keys.
 *
 * @param <K> the key
 * @param <M> the key of an entry
 * @param <V> the value of an entry
 */
public final class MapState<K, M, V> extends State<K> {
    private final Serde<M> mapKeys;
    private final Serde<V> values;

    MapState(RegisteredState registered, Serde<K> keys, Serde<M> mapKeys, Serde<V> values) {
        super(registered, keys);
        this.mapKeys = mapKeys;
        this.values = values;
    }

    private MapState(MapState<K, M, V> of, ToIntFunction<? super K> groups, byte[] namespace) {
        super(of.registered(), of.keySerde(), groups, namespace);
        this.mapKeys = of.mapKeys;
        this.values = of.values;
    }

    @Override
    public MapState<K, M, V> in(byte[] namespace) {
        return new MapState<>(this, groups(), namespace);
    }

    @Override
    public MapState<K, M, V> withKeyGroups(ToIntFunction<? super K> groups) {
        return new MapState<>(this, groups, namespace());
    }

    /**
     * Sets an entry.
     *
     * @param batch where to add it
     * @param key the key
     * @param mapKey the key of the entry
     * @param value its value
     */
    public void put(Batch batch, K key, M mapKey, V value) {
        batch.mapPut(id(), group(key), key(key), namespace(), mapKeys.write(mapKey), values.write(value));
    }

    /**
     * Merges an operand of the value's own form into an entry.
     *
     * @param batch where to add it
     * @param key the key
     * @param mapKey the key of the entry
     * @param operand as the state's merge function takes it
     */
    public void merge(Batch batch, K key, M mapKey, V operand) {
        batch.mapMerge(id(), group(key), key(key), namespace(), mapKeys.write(mapKey), values.write(operand));
    }

    /**
     * Removes an entry, if it is there.
     *
     * @param batch where to add it
     * @param key the key
     * @param mapKey the key of the entry
     */
    public void remove(Batch batch, K key, M mapKey) {
        batch.mapRemove(id(), group(key), key(key), namespace(), mapKeys.write(mapKey));
    }

    /**
     * Reads an entry.
     *
     * @param batch where to add it
     * @param key the key
     * @param mapKey the key of the entry
     * @return its value; null where there is none
     */
    public Read<V> get(Batch batch, K key, M mapKey) {
        int at = batch.mapGet(id(), group(key), key(key), namespace(), mapKeys.write(mapKey));
        return new Read<>(results -> results.found(at) ? values.read(results.slice(at)) : null);
    }

    /**
     * Reads whether an entry is there.
     *
     * @param batch where to add it
     * @param key the key
     * @param mapKey the key of the entry
     * @return true if so
     */
    public Read<Boolean> contains(Batch batch, K key, M mapKey) {
        int at = batch.mapContains(id(), group(key), key(key), namespace(), mapKeys.write(mapKey));
        return new Read<>(results -> results.found(at));
    }

    /**
     * Reads how many entries there are.
     *
     * @param batch where to add it
     * @param key the key
     * @return the number
     */
    public Read<Long> count(Batch batch, K key) {
        int at = batch.mapCount(id(), group(key), key(key), namespace());
        return new Read<>(results -> results.count(at));
    }

    /**
     * Reads a page of entries.
     *
     * @param batch where to add it
     * @param key the key
     * @param token of the page before; empty: from the first entry
     * @param limit at most so many; 0: as many as fit
     * @return entries in order
     */
    public Read<Page<Map.Entry<M, V>>> entries(Batch batch, K key, byte[] token, long limit) {
        int at = batch.mapEntries(id(), group(key), key(key), namespace(), token, limit);
        return new Read<>(results -> {
            List<Results.Entry> found = results.entries(at);
            List<Map.Entry<M, V>> entries = mapped(found, entry ->
                    Map.entry(mapKeys.read(slice(entry.key())), values.read(slice(entry.value()))));
            return new Page<>(entries, results.more(at) ? after(found.get(found.size() - 1).key()) : null);
        });
    }

    /** The least key above {@code key}: that followed by a zero byte. */
    private static byte[] after(byte[] key) {
        return Arrays.copyOf(key, key.length + 1);
    }

    /**
     * All entries in order, read page by page.
     *
     * @param session where to read
     * @param key the key
     * @return the entries; neither keys nor values are null
     */
    public Iterable<Map.Entry<M, V>> entries(Session session, K key) {
        return () -> new Pages<>(token -> session.ask(batch -> entries(batch, key, token, PAGE)));
    }

    /**
     * Reads an entry, and waits for it.
     *
     * @param session where to read
     * @param key the key
     * @param mapKey the key of the entry
     * @return its value; null where there is none
     * @throws InterruptedException if the waiting thread was interrupted
     */
    public V get(Session session, K key, M mapKey) throws InterruptedException {
        return session.ask(batch -> get(batch, key, mapKey));
    }
}
