package io.dstl.client;

import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/**
 * How a session behaves.
 *
 * @param reconnectTimeout how long a broken stream is tried again, on the same daemon process
 * @param onRejection what becomes of the session where the daemon rejects a batch
 * @param maxUnsentBytes how many bytes may wait for credit before {@link Session#send} waits
 * @param spin how long {@link Pending#await()} spins before it parks; zero: not at all
 * @param callbacks where futures and listeners run; null: as the connection's
 * @param onFailure called once, on {@code callbacks}, when the session is over although nobody closed it,
 *      <em>before</em> the
 *     pending calls fail and after the last one that succeeds; null: nobody
 */
public record SessionOptions(
        Duration reconnectTimeout,
        OnRejection onRejection,
        int maxUnsentBytes,
        Duration spin,
        Executor callbacks,
        Consumer<? super DstlException> onFailure) {
    /** What becomes of a session where the daemon rejects a batch, or does not carry out a write of it. */
    public enum OnRejection {
        /**
         * The caller of that batch gets the error; what was sent behind it (barriers included) is applied without it,
         * in its
         * order. A write that did nothing ({@code OUTCOME_LIMIT_REACHED}) is told by {@link Results#outcome}.
         */
        GO_ON,
        /**
         * The session fails, with all that is pending: no checkpoint completes that lacks a write. Engines whose
         * tasks restart
         * want this.
         */
        FAIL
    }

    /** Goes on after rejections, tries a broken stream for 30 s, holds 4 MiB, parks at once. */
    public static final SessionOptions DEFAULT =
            new SessionOptions(Duration.ofSeconds(30), OnRejection.GO_ON, 4 << 20, Duration.ZERO, null, null);

    /**
     * Checks the values.
     *
     * @param reconnectTimeout see above
     * @param onRejection see above
     * @param maxUnsentBytes see above
     * @param spin see above
     * @param callbacks see above
     * @param onFailure see above
     */
    public SessionOptions {
        Objects.requireNonNull(reconnectTimeout, "reconnectTimeout");
        Objects.requireNonNull(onRejection, "onRejection");
        Objects.requireNonNull(spin, "spin");
        if (maxUnsentBytes < 1) {
            throw new IllegalArgumentException("maxUnsentBytes is " + maxUnsentBytes + ", must be at least 1");
        }
    }

    /**
     * With another time for reconnecting.
     *
     * @param timeout how long a broken stream is tried again
     * @return a copy
     */
    public SessionOptions withReconnectTimeout(Duration timeout) {
        return new SessionOptions(timeout, onRejection, maxUnsentBytes, spin, callbacks, onFailure);
    }

    /**
     * With another answer to rejections.
     *
     * @param behaviour what to do
     * @return a copy
     */
    public SessionOptions withOnRejection(OnRejection behaviour) {
        return new SessionOptions(reconnectTimeout, behaviour, maxUnsentBytes, spin, callbacks, onFailure);
    }

    /**
     * With another bound of what waits for credit.
     *
     * @param bytes at least 1
     * @return a copy
     */
    public SessionOptions withMaxUnsentBytes(int bytes) {
        return new SessionOptions(reconnectTimeout, onRejection, bytes, spin, callbacks, onFailure);
    }

    /**
     * With another time of spinning.
     *
     * @param time how long a waiting thread spins before it parks
     * @return a copy
     */
    public SessionOptions withSpin(Duration time) {
        return new SessionOptions(reconnectTimeout, onRejection, maxUnsentBytes, time, callbacks, onFailure);
    }

    /**
     * With another executor of callbacks.
     *
     * @param executor where futures and listeners run
     * @return a copy
     */
    public SessionOptions withCallbacks(Executor executor) {
        return new SessionOptions(reconnectTimeout, onRejection, maxUnsentBytes, spin, executor, onFailure);
    }

    /**
     * With somebody who is told first when the session fails.
     *
     * @param listener gets why
     * @return a copy
     */
    public SessionOptions withOnFailure(Consumer<? super DstlException> listener) {
        return new SessionOptions(reconnectTimeout, onRejection, maxUnsentBytes, spin, callbacks, listener);
    }
}
