package io.dstl.flink;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.MemorySize;

/** The options of the backend, all below {@code state.backend.dstl}; set where Flink's own are set. */
public final class DstlOptions {
    /** Where the daemon listens. */
    public static final ConfigOption<String> SOCKET = ConfigOptions.key("state.backend.dstl.socket")
            .stringType()
            .noDefaultValue()
            .withDescription("Unix socket of the dstl daemon beside the TaskManager, as `rpc.socket` of the daemon has it."
                    + " Without it, the daemon's own default: $XDG_RUNTIME_DIR/dstl.sock, else /run/dstl/dstl.sock for root,"
                    + " else /tmp/dstl-<uid>/dstl.sock.");

    /** Where the daemon keeps state while it serves it. */
    public static final ConfigOption<Inner> INNER = ConfigOptions.key("state.backend.dstl.inner")
            .enumType(Inner.class)
            .defaultValue(Inner.DAEMON)
            .withDescription("Where the daemon keeps the state of this job: `hashmap` (memory), `rocksdb` (disk), or `daemon`:"
                    + " as its `state.backend` says. Every restore may choose anew.");

    /** Most bytes of one backend's cache. */
    public static final ConfigOption<MemorySize> CACHE_SIZE = ConfigOptions.key("state.backend.dstl.cache.size")
            .memoryType()
            .defaultValue(MemorySize.ofMebiBytes(32))
            .withDescription("Most heap that the cache of one keyed operator's subtask takes. All caches of a TaskManager together"
                    + " take at most a tenth of its heap, whatever this says.");

    /** Most bytes of one state's filter for absent keys. */
    public static final ConfigOption<MemorySize> FILTER_SIZE = ConfigOptions.key("state.backend.dstl.filter.size")
            .memoryType()
            .defaultValue(MemorySize.ofMebiBytes(16))
            .withDescription("Most heap that the filter of one state takes, which tells new keys without asking the daemon; 10 bits"
                    + " for each key, so the default suits 13 million. Beyond it the filter is given up. 0: no filter.");

    /** How many timers are read at once. */
    public static final ConfigOption<Integer> TIMER_PAGE = ConfigOptions.key("state.backend.dstl.timer-page")
            .intType()
            .defaultValue(512)
            .withDescription("How many timers are read from the daemon at once, the earliest ones first. At least 1.");

    /** Whether the daemon removes what Flink's TTL has expired. */
    public static final ConfigOption<Boolean> TTL_CLEANUP = ConfigOptions.key("state.backend.dstl.ttl-cleanup")
            .booleanType()
            .defaultValue(true)
            .withDescription("Whether the daemon removes entries in the background once their time to live has passed. What reads"
                    + " see is decided by Flink alone, so this changes only how much state there is.");

    /** Another name of the job. */
    public static final ConfigOption<String> JOB_NAME = ConfigOptions.key("state.backend.dstl.job-name")
            .stringType()
            .noDefaultValue()
            .withDescription("Name of the job in the daemon's store: up to 100 ASCII letters, digits, `-`, `_`, `.`. By default"
                    + " Flink's job id and a hash of `execution.checkpointing.dir`. It must be unique in the store.");

    /** How long a backend without task stays open. */
    public static final ConfigOption<Duration> LINGER = ConfigOptions.key("state.backend.dstl.linger")
            .durationType()
            .defaultValue(Duration.ofMinutes(2))
            .withDescription("How long the daemon keeps the state of a task that has ended in memory, for a warm restart on the same"
                    + " host. Checkpoints do not depend on it.");

    /** How long a broken connection is tried again. */
    public static final ConfigOption<Duration> RECONNECT = ConfigOptions.key("state.backend.dstl.reconnect-timeout")
            .durationType()
            .defaultValue(Duration.ofSeconds(10))
            .withDescription("How long a broken connection to a daemon that still runs is tried again before the task fails.");

    /** How long connecting may take. */
    public static final ConfigOption<Duration> CONNECT = ConfigOptions.key("state.backend.dstl.connect-timeout")
            .durationType()
            .defaultValue(Duration.ofSeconds(30))
            .withDescription("How long a task that starts waits for the daemon to listen, for example while it is restarted.");

    /** How long a waiting task spins. */
    public static final ConfigOption<Duration> SPIN = ConfigOptions.key("state.backend.dstl.spin")
            .durationType()
            .defaultValue(Duration.ofNanos(60_000))
            .withDescription("How long a task that waits for an answer of the daemon spins before its thread parks. Spinning halves"
                    + " the time of a read that the cache does not have, and takes a core meanwhile. 0: it parks at once.");

    private DstlOptions() {}

    /** Where the daemon listens unless it is told otherwise. */
    static String defaultSocket() {
        String runtime = System.getenv("XDG_RUNTIME_DIR");
        if (runtime != null && !runtime.isEmpty()) {
            return runtime + "/dstl.sock";
        }
        Object user;
        try {
            user = Files.getAttribute(Path.of("/proc/self"), "unix:uid");
        } catch (java.io.IOException | UnsupportedOperationException | IllegalArgumentException e) {
            user = 0;
        }
        return user.equals(0) ? "/run/dstl/dstl.sock" : "/tmp/dstl-" + user + "/dstl.sock";
    }

    /** The inner backends. */
    public enum Inner {
        /** In memory. */
        HASHMAP,
        /** On disk. */
        ROCKSDB,
        /** As the daemon is configured. */
        DAEMON
    }
}
