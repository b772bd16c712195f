package io.dstl.client;

import io.dstl.proto.v1.Outcome;
import io.dstl.proto.v1.RegisteredState;
import java.util.List;
import java.util.function.ToIntFunction;

/**
 * Times, each with a key and a namespace, in order of time over all keys.
 *
 * @param <K> the key
 */
public final class TimerState<K> extends State<K> {
    /**
     * A timer.
     *
     * @param time when it is due
     * @param key its key
     * @param namespace its namespace
     * @param <K> the key
     */
    public record Timer<K>(long time, K key, byte[] namespace) {}

    TimerState(RegisteredState registered, Serde<K> keys) {
        super(registered, keys);
    }

    private TimerState(TimerState<K> of, ToIntFunction<? super K> groups, byte[] namespace) {
        super(of.registered(), of.keySerde(), groups, namespace);
    }

    @Override
    public TimerState<K> in(byte[] namespace) {
        return new TimerState<>(this, groups(), namespace);
    }

    @Override
    public TimerState<K> withKeyGroups(ToIntFunction<? super K> groups) {
        return new TimerState<>(this, groups, namespace());
    }

    /**
     * Registers a timer in this namespace; one that is there stays.
     *
     * @param batch where to add it
     * @param key the key
     * @param time any but {@link Long#MIN_VALUE}
     */
    public void register(Batch batch, K key, long time) {
        batch.timerRegister(id(), group(key), key(key), namespace(), time);
    }

    /**
     * Deletes a timer of this namespace, if it is there.
     *
     * @param batch where to add it
     * @param key the key
     * @param time its time
     */
    public void delete(Batch batch, K key, long time) {
        batch.timerDelete(id(), group(key), key(key), namespace(), time);
    }

    /**
     * Deletes a timer that was read.
     *
     * @param batch where to add it
     * @param timer of any namespace
     */
    public void delete(Batch batch, Timer<K> timer) {
        batch.timerDelete(id(), group(timer.key()), key(timer.key()), timer.namespace(), timer.time());
    }

    /**
     * Reads a page of timers of all keys and namespaces, the earliest first.
     *
     * @param batch where to add it
     * @param upTo the last time, inclusive
     * @param token of the page before; empty: from the earliest
     * @param limit at most so many; 0: as many as fit
     * @return timers in order
     */
    public Read<Page<Timer<K>>> due(Batch batch, long upTo, byte[] token, long limit) {
        int at = batch.timers(id(), upTo, token, limit);
        return new Read<>(results -> new Page<>(timers(results, at), next(results, at)));
    }

    /**
     * Reads the earliest timers of all keys and namespaces and deletes what it returns. Its page has an empty token
     * where others
     * follow: fire again. No barrier may lie between this batch and those that write what firing leads to.
     *
     * @param batch where to add it
     * @param upTo the last time, inclusive
     * @param limit at most so many; 0: as many as fit
     * @return timers in order
     */
    public Read<Page<Timer<K>>> fire(Batch batch, long upTo, long limit) {
        int at = batch.timersFire(id(), upTo, limit);
        return new Read<>(results -> {
            boolean more = results.more(at) || results.outcome(at) == Outcome.OUTCOME_ASK_AGAIN;
            return new Page<>(timers(results, at), more ? Batch.NONE : null);
        });
    }

    private List<Timer<K>> timers(Results results, int at) {
        return mapped(results.timers(at), timer ->
                new Timer<>(timer.time(), keySerde().read(slice(timer.key())), timer.namespace()));
    }
}
