package io.dstl.client;

import io.dstl.proto.v1.RegisteredState;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.function.Function;
import java.util.function.ToIntFunction;

/**
 * What all typed states have. A state is a view of one namespace, at first the void one: {@link #in} gives another.
 * Immutable
 * and thread-safe, as far as its serializers are. Methods that take a {@link Batch} add to it; those that take a
 * {@link Session} send a batch of their own and wait, and so throw what {@link Session#send} and {@link
 * Pending#await()} do.
 *
 * @param <K> the key; {@link Void} (null) for operator state
 */
public abstract class State<K> {
    /** Keys, elements or entries per page of an iteration. */
    static final int PAGE = 1000;

    private final RegisteredState registered;
    private final Serde<K> keys;
    private final ToIntFunction<? super K> groups;
    private final byte[] namespace;

    State(RegisteredState registered, Serde<K> keys) {
        this(registered, keys, key -> Batch.HASHED, Batch.NONE);
    }

    State(RegisteredState registered, Serde<K> keys, ToIntFunction<? super K> groups, byte[] namespace) {
        this.registered = registered;
        this.keys = keys;
        this.groups = groups;
        this.namespace = namespace;
    }

    /**
     * The same state in another namespace.
     *
     * @param namespace empty: the void one
     * @return another view
     */
    public abstract State<K> in(byte[] namespace);

    /**
     * The same state for a backend whose client gives key groups.
     *
     * @param groups the key group of a key
     * @return another view
     */
    public abstract State<K> withKeyGroups(ToIntFunction<? super K> groups);

    /**
     * What the daemon registered.
     *
     * @return id and descriptor
     */
    public RegisteredState registered() {
        return registered;
    }

    int id() {
        return registered.getId();
    }

    byte[] namespace() {
        return namespace;
    }

    Serde<K> keySerde() {
        return keys;
    }

    ToIntFunction<? super K> groups() {
        return groups;
    }

    byte[] key(K key) {
        return keys.write(key);
    }

    int group(K key) {
        return groups.applyAsInt(key);
    }

    /**
     * Removes all of a key. Not for timers.
     *
     * @param batch where to add it
     * @param key the key
     */
    public void clear(Batch batch, K key) {
        batch.clear(id(), group(key), key(key), namespace);
    }

    /**
     * Merges all that other namespaces have of a key into this one, and clears them. Not for timers.
     *
     * @param batch where to add it
     * @param key the key
     * @param from at most 1000, distinct, none of them this one
     */
    public void mergeNamespaces(Batch batch, K key, Iterable<byte[]> from) {
        batch.mergeNamespaces(id(), group(key), key(key), namespace, from);
    }

    /**
     * The keys that have entries in this namespace, read page by page. Not for operator state.
     *
     * @param session where to read
     * @return the keys; one that is there all the time comes exactly once
     */
    public Iterable<K> keys(Session session) {
        return () -> new Pages<>(token -> session.ask(batch -> {
            int at = batch.keys(id(), namespace, token, PAGE);
            return new Read<>(results -> {
                List<K> found = new ArrayList<>();
                for (Results.StoredKey key : results.keys(at)) {
                    found.add(keys.read(new Slice(key.key(), 0, key.key().length)));
                }
                return new Page<>(found, next(results, at));
            });
        }));
    }

    static byte[] next(Results results, int at) {
        byte[] token = results.token(at);
        return token.length == 0 ? null : token;
    }

    static Slice slice(byte[] bytes) {
        return new Slice(bytes, 0, bytes.length);
    }

    /** Items of all pages. Interrupts end it with {@link IllegalStateException}, the flag set again. */
    static final class Pages<T> implements Iterator<T> {
        interface Source<T> {
            Page<T> read(byte[] token) throws InterruptedException;
        }

        private final Source<T> source;
        private Page<T> page;
        private int at;

        Pages(Source<T> source) {
            this.source = source;
        }

        @Override
        public boolean hasNext() {
            while (page == null || at == page.items().size()) {
                if (page != null && !page.more()) {
                    return false;
                }
                try {
                    page = source.read(page == null ? Batch.NONE : page.token());
                } catch (InterruptedException interrupt) {
                    Thread.currentThread().interrupt();
                    throw new IllegalStateException("interrupted while a page was read", interrupt);
                }
                at = 0;
            }
            return true;
        }

        @Override
        public T next() {
            if (!hasNext()) {
                throw new NoSuchElementException();
            }
            return page.items().get(at++);
        }
    }

    static <T> List<T> list(Iterable<T> items) {
        List<T> list = new ArrayList<>();
        items.forEach(list::add);
        return list;
    }

    static <A, B> List<B> mapped(List<A> from, Function<? super A, ? extends B> function) {
        List<B> to = new ArrayList<>(from.size());
        from.forEach(item -> to.add(function.apply(item)));
        return to;
    }
}
