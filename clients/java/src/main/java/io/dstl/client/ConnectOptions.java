package io.dstl.client;

import java.nio.file.Path;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.Executor;

/**
 * How to reach a daemon.
 *
 * @param socket the daemon's Unix socket
 * @param name name and version of the caller, for the daemon's log; may be empty
 * @param connectTimeout how long {@code DstlClient.connect} waits for the daemon to answer
 * @param sessionsPerConnection how many sessions share one HTTP/2 connection and its thread; a further one opens
 *      another
 * @param callbacks where futures and listeners run; null: a daemon thread of the connection, which ends when it is idle
 */
public record ConnectOptions(
        Path socket, String name, Duration connectTimeout, int sessionsPerConnection, Executor callbacks) {
    /**
     * Checks the values.
     *
     * @param socket see above
     * @param name see above
     * @param connectTimeout see above
     * @param sessionsPerConnection see above
     * @param callbacks see above
     */
    public ConnectOptions {
        Objects.requireNonNull(socket, "socket");
        Objects.requireNonNull(name, "name");
        Objects.requireNonNull(connectTimeout, "connectTimeout");
        if (sessionsPerConnection < 1) {
            throw new IllegalArgumentException(
                    "sessionsPerConnection is " + sessionsPerConnection + ", must be at least 1");
        }
    }

    /**
     * Thirty seconds to connect, 32 sessions per connection, callbacks on a thread of the connection.
     *
     * @param socket the daemon's Unix socket
     * @return the options
     */
    public static ConnectOptions of(Path socket) {
        return new ConnectOptions(socket, "", Duration.ofSeconds(30), 32, null);
    }

    /**
     * With another name.
     *
     * @param name name and version of the caller
     * @return a copy
     */
    public ConnectOptions withName(String name) {
        return new ConnectOptions(socket, name, connectTimeout, sessionsPerConnection, callbacks);
    }

    /**
     * With another timeout.
     *
     * @param timeout how long to wait for the daemon
     * @return a copy
     */
    public ConnectOptions withConnectTimeout(Duration timeout) {
        return new ConnectOptions(socket, name, timeout, sessionsPerConnection, callbacks);
    }

    /**
     * With another number of sessions per connection.
     *
     * @param sessions at least 1
     * @return a copy
     */
    public ConnectOptions withSessionsPerConnection(int sessions) {
        return new ConnectOptions(socket, name, connectTimeout, sessions, callbacks);
    }

    /**
     * With another executor of callbacks.
     *
     * @param executor where futures and listeners run
     * @return a copy
     */
    public ConnectOptions withCallbacks(Executor executor) {
        return new ConnectOptions(socket, name, connectTimeout, sessionsPerConnection, executor);
    }
}
