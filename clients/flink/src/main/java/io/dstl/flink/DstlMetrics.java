package io.dstl.flink;

import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;

/**
 * What a backend tells Flink's metrics, in group {@code dstl} of its operator. The fields are written by whoever holds the lock of the
 * data path, and read by reporters as they are.
 */
final class DstlMetrics {
    long accesses;
    /** Reads that the cache and the filter could not answer. */
    long misses;
    /** Accesses of keys that the filter knew to be new. */
    long absent;
    long roundTrips;
    long backPressuredNanos;
    volatile long incrementalBytes;
    volatile long fullBytes;

    void register(MetricGroup parent, EntryCache cache) {
        MetricGroup group = parent.addGroup("dstl");
        group.gauge("accesses", (Gauge<Long>) () -> accesses);
        group.gauge("cacheMisses", (Gauge<Long>) () -> misses);
        group.gauge("absentKeys", (Gauge<Long>) () -> absent);
        group.gauge("hitRate", (Gauge<Double>) () -> accesses == 0 ? 1.0 : 1.0 - (double) misses / accesses);
        group.gauge("roundTrips", (Gauge<Long>) () -> roundTrips);
        group.gauge("backPressuredMs", (Gauge<Long>) () -> backPressuredNanos / 1_000_000);
        group.gauge("cacheBytes", (Gauge<Long>) cache::bytes);
        group.gauge("lastCheckpointIncrementalBytes", (Gauge<Long>) () -> incrementalBytes);
        group.gauge("lastCheckpointFullBytes", (Gauge<Long>) () -> fullBytes);
    }
}
