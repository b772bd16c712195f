package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.nio.ByteBuffer;
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
     * Reads a page of elements.
     *
     * @param batch where to add it
     * @param key the key
     * @param start index of the first one
     * @param limit at most so many; 0: as many as fit
     * @return elements in order; the token is the next index, in 8 bytes, big-endian
     */
    public Read<Page<E>> get(Batch batch, K key, long start, long limit) {
        int at = batch.listGet(id(), group(key), key(key), namespace(), start, limit);
        return new Read<>(results -> {
            List<E> found = mapped(results.elements(at), elements::read);
            byte[] token = results.more(at)
                    ? ByteBuffer.allocate(Long.BYTES).putLong(start + found.size()).array()
                    : null;
            return new Page<>(found, token);
        });
    }

    /**
     * All elements in order, read page by page.
     *
     * @param session where to read
     * @param key the key
     * @return the elements
     */
    public Iterable<E> elements(Session session, K key) {
        return () -> new Pages<>(token -> {
            long start = token.length == 0 ? 0 : ByteBuffer.wrap(token).getLong();
            return session.ask(batch -> get(batch, key, start, PAGE));
        });
    }
}
