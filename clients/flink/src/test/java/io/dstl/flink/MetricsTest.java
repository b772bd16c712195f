package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.metrics.groups.UnregisteredMetricsGroup;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.junit.jupiter.api.Test;

/** Metrics have exact values; the README has every metric and every option. */
class MetricsTest {
    /** Gauges by name. */
    private static final class Gauges extends UnregisteredMetricsGroup {
        private final Map<String, Gauge<?>> gauges = new TreeMap<>();
        private final List<String> groups = new ArrayList<>();

        @Override
        public <T, G extends Gauge<T>> G gauge(String name, G gauge) {
            gauges.put(name, gauge);
            return gauge;
        }

        @Override
        public MetricGroup addGroup(String name) {
            groups.add(name);
            return this;
        }

        Object value(String name) {
            return gauges.get(name).getValue();
        }
    }

    private static InternalValueState<Integer, VoidNamespace, Long> value(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, Long> state = (InternalValueState<Integer, VoidNamespace, Long>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("count", LongSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    @Test
    void a_backend_counts_what_its_cache_its_filter_and_the_daemon_answered() throws Exception {
        TestTask task = new TestTask();
        Gauges fresh = new Gauges();
        task.metrics = fresh;
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        InternalValueState<Integer, VoidNamespace, Long> state = value(backend);
        for (int key = 0; key < 4; key++) {
            backend.setCurrentKey(key);
            assertThat(state.value()).isNull();
            state.update(1L);
        }
        assertThat(fresh.groups).containsExactly("dstl");
        assertThat(fresh.value("accesses")).isEqualTo(8L);
        assertThat(fresh.value("absentKeys")).isEqualTo(4L);
        assertThat(fresh.value("cacheMisses")).isEqualTo(0L);
        assertThat(fresh.value("roundTrips")).isEqualTo(0L);
        assertThat(fresh.value("hitRate")).isEqualTo(1.0);
        assertThat((Long) fresh.value("cacheBytes")).isPositive();
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        assertThat((Long) fresh.value("lastCheckpointIncrementalBytes")).isPositive();
        assertThat((Long) fresh.value("lastCheckpointFullBytes")).isPositive();
        assertThat(fresh.value("backPressuredMs")).isEqualTo(0L);
        backend.dispose();

        TestTask again = task.next();
        Gauges restored = new Gauges();
        again.metrics = restored;
        backend = again.open(IntSerializer.INSTANCE, handle);
        state = value(backend);
        for (int round = 0; round < 2; round++) {
            for (int key = 0; key < 4; key++) {
                backend.setCurrentKey(key);
                assertThat(state.value()).isEqualTo(1L);
            }
        }
        assertThat(restored.value("accesses")).isEqualTo(8L);
        assertThat(restored.value("cacheMisses")).isEqualTo(4L);
        assertThat(restored.value("roundTrips")).isEqualTo(4L);
        assertThat(restored.value("hitRate")).isEqualTo(0.5);
        backend.dispose();
    }

    @Test
    void the_readme_has_every_option_and_every_metric() throws Exception {
        String readme = Files.readString(Path.of("README.md"));
        for (var field : DstlOptions.class.getFields()) {
            if (field.get(null) instanceof ConfigOption<?> option) {
                assertThat(readme).contains("| `" + option.key() + "` |");
            }
        }
        Gauges gauges = new Gauges();
        EntryCache cache = new EntryCache(1);
        new DstlMetrics().register(gauges, cache);
        cache.close();
        for (String name : gauges.gauges.keySet()) {
            assertThat(readme).contains("`" + name + "`");
        }
    }
}
