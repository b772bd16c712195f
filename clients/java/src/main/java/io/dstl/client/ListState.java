package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.util.List;
import java.util.function.ToIntFunction;

/**
 * A list per key and namespace; as operator state one of the subtask, whose key is null.
 *
 * @param <K> the key
 * @param <E> an element
 */
public final class ListState<K, E> extends State<K> {
    private final Serde<E> elements;

    ListState(RegisteredState registered, Serde<K> keys, Serde<E> elements) {
        super(registered, keys);
        this.elements = elements;
    }

    private ListState(ListState<K, E> of, ToIntFunction<? super K> groups, byte[] namespace) {
        super(of.registered(), of.keySerde(), groups, namespace);
        this.elements = of.elements;
    }

    @Override
    public ListState<K, E> in(byte[] namespace) {
        return new ListState<>(this, groups(), namespace);
    }

    @Override
    public ListState<K, E> withKeyGroups(ToIntFunction<? super K> groups) {
        return new ListState<>(this, groups, namespace());
    }

    /**
     * Appends an element.
     *
     * @param batch where to add it
     * @param key the key
     * @param element the element
     */
    public void add(Batch batch, K key, E element) {
        batch.listAdd(id(), group(key), key(key), namespace(), elements.write(element));
    }

    /**
     * Appends elements in order.
     *
     * @param batch where to add it
     * @param key the key
     * @param all the elements
     */
    public void addAll(Batch batch, K key, List<E> all) {
        batch.listAddAll(id(), group(key), key(key), namespace(), mapped(all, elements::write));
    }

    /**
     * Replaces the list.
     *
     * @param batch where to add it
     * @param key the key
     * @param all the elements; none: it is cleared
     */
    public void update(Batch batch, K key, List<E> all) {
        batch.listUpdate(id(), group(key), key(key), namespace(), mapped(all, elements::write));
    }

    /**
     * Reads how many elements there are.
     *
     * @param batch where to add it
     * @param key the key
     * @return the number
     */
    public Read<Long> count(Batch batch, K key) {
        int at = batch.listCount(id(), group(key), key(key), namespace());
        return new Read<>(results -> results.count(at));
    }

    /**
     * Reads the first page of elements, or the one from an index on.
     *
     * @param batch where to add it
     * @param key the key
     * @param start index of the first one among those that are visible now
     * @param limit at most so many; 0: as many as fit
     * @return elements in order
     */
    public Read<Page<E>> get(Batch batch, K key, long start, long limit) {
        return page(batch.listGet(id(), group(key), key(key), namespace(), start, limit));
    }

    /**
     * Reads the page of elements behind another one. An element that is there from the first page to the last is on one of them, also
     * where others expire meanwhile; what is appended meanwhile is on the last one. A list that is replaced or cleared goes on at the
     * same index of what is there then.
     *
     * @param batch where to add it
     * @param key the key
     * @param token of the page before, read by the same owner; empty: from the beginning
     * @param limit at most so many; 0: as many as fit
     * @return elements in order
     */
    public Read<Page<E>> get(Batch batch, K key, byte[] token, long limit) {
        return page(batch.listGet(id(), group(key), key(key), namespace(), token, limit));
    }

    private Read<Page<E>> page(int at) {
        return new Read<>(results -> {
            byte[] token = results.token(at);
            return new Page<>(mapped(results.elements(at), elements::read), token.length == 0 ? null : token);
        });
    }

    /**
     * All elements in order, read page by page; see {@link #get(Batch, Object, byte[], long)} for changes meanwhile.
     *
     * @param session where to read
     * @param key the key
     * @return the elements
     */
    public Iterable<E> elements(Session session, K key) {
        return () -> new Pages<>(token -> session.ask(batch -> get(batch, key, token, PAGE)));
    }
}
