package io.dstl.client;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadPoolExecutor;

/**
 * What all clients of one socket share in this class loader: its {@link Lane}s, and the thread of callbacks. Counted:
 * the last
 * client that releases it ends it.
 */
final class Connection {
    /** By socket; guarded by itself. */
    private static final Map<Path, Connection> OPEN = new HashMap<>();

    private final Path socket;
    private final int sessionsPerLane;
    private final ThreadPoolExecutor callbacks;
    /** Guarded by {@code OPEN}, as is {@code holders}. The first one has the calls. */
    private final List<Lane> lanes = new ArrayList<>();
    private int holders;

    private Connection(Path socket, int sessionsPerLane) {
        this.socket = socket;
        this.sessionsPerLane = sessionsPerLane;
        this.callbacks = Callbacks.own("dstl-callbacks");
        lanes.add(Lane.open(socket));
    }

    static Connection acquire(ConnectOptions options) {
        Path socket = options.socket().toAbsolutePath().normalize();
        synchronized (OPEN) {
            Connection connection = OPEN.get(socket);
            if (connection == null) {
                connection = new Connection(socket, options.sessionsPerConnection());
                OPEN.put(socket, connection);
            }
            connection.holders++;
            return connection;
        }
    }

    /** Gives it up; the last one waits until its threads have ended. */
    void release() {
        List<Lane> ended;
        synchronized (OPEN) {
            if (--holders > 0) {
                return;
            }
            OPEN.remove(socket);
            ended = List.copyOf(lanes);
        }
        for (Lane lane : ended) {
            lane.close();
        }
        callbacks.shutdown();
    }

    /** Where calls go. */
    Lane lane() {
        return lanes.get(0);
    }

    /** A lane for one more session; to be given back by {@link #leave}. */
    Lane enter() {
        synchronized (OPEN) {
            for (Lane lane : lanes) {
                if (lane.sessions < sessionsPerLane) {
                    lane.sessions++;
                    return lane;
                }
            }
            Lane lane = Lane.open(socket);
            lane.sessions = 1;
            lanes.add(lane);
            return lane;
        }
    }

    /** A session has ended. A lane beyond the first one ends with its last session. */
    void leave(Lane lane) {
        synchronized (OPEN) {
            if (--lane.sessions > 0 || lane == lanes.get(0)) {
                return;
            }
            lanes.remove(lane);
        }
        lane.beginClose();
    }

    Path socket() {
        return socket;
    }

    ThreadPoolExecutor callbacks() {
        return callbacks;
    }
}
