package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.DstlOptions.Inner;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.state.AggregatingStateDescriptor;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ReducingStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.runtime.state.AbstractKeyedStateBackend;
import org.apache.flink.runtime.state.InternalPriorityQueue;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.hashmap.HashMapStateBackend;
import org.apache.flink.runtime.state.internal.InternalAggregatingState;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.runtime.state.internal.InternalMapState;
import org.apache.flink.runtime.state.internal.InternalReducingState;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.apache.flink.streaming.api.operators.TimerHeapInternalTimer;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Random operations on all kinds of state, merges and timers, beside Flink's heap backend: every read must say the same. The cache has 16
 * KiB and pages of timers three, so entries come and go; now and then everything is restored from a checkpoint by another start of the task.
 * {@code DSTL_MODEL_SEED} and {@code DSTL_MODEL_STEPS} choose.
 */
class ModelTest {
    private static final long SEED = Long.parseLong(System.getenv().getOrDefault("DSTL_MODEL_SEED", "1"));
    private static final int STEPS = Integer.parseInt(System.getenv().getOrDefault("DSTL_MODEL_STEPS", "6000"));
    private static final int KEYS = 24;
    private static final int NAMESPACES = 6;

    @ParameterizedTest
    @EnumSource(value = Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void all_kinds_agree_with_the_heap_through_restores(Inner inner) throws Exception {
        run(inner, null);
    }

    @ParameterizedTest
    @EnumSource(value = Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void all_kinds_agree_with_the_heap_with_ttl(Inner inner) throws Exception {
        run(inner, StateTtlConfig.newBuilder(java.time.Duration.ofHours(1)).build());
    }

    private void run(Inner inner, StateTtlConfig ttl) throws Exception {
        Random random = new Random(SEED);
        TestTask task = new TestTask();
        task.options = Backends.options(Daemon.shared(), inner);
        task.options.set(DstlOptions.CACHE_SIZE, MemorySize.ofMebiBytes(0));
        task.options.set(DstlOptions.TIMER_PAGE, 3);
        States model = new States(heap(task), ttl);
        States states = new States(task.open(IntSerializer.INSTANCE), ttl);
        long checkpoint = 0;
        try {
            for (int step = 0; step < STEPS; step++) {
                int key = random.nextInt(KEYS);
                String context = "seed " + SEED + ", step " + step;
                model.backend.setCurrentKey(key);
                states.backend.setCurrentKey(key);
                Object expected = step(model, new Random(SEED * 31 + step));
                Object actual = step(states, new Random(SEED * 31 + step));
                assertThat(actual).as(context).isEqualTo(expected);
                if (random.nextInt(STEPS / 8) == 0) {
                    KeyedStateHandle handle = TestTask.snapshot((DstlKeyedStateBackend<?>) states.backend, ++checkpoint);
                    if (random.nextBoolean()) {
                        // Rolled back, if the restore did not restore.
                        states.backend.setCurrentKey(0);
                        states.value.setCurrentNamespace(0);
                        states.value.update("lost");
                    }
                    states.backend.dispose();
                    task = task.next();
                    states = new States(task.open(IntSerializer.INSTANCE, handle), ttl);
                }
            }
            assertThat(states.everything()).isEqualTo(model.everything());
        } finally {
            states.backend.dispose();
            model.backend.dispose();
        }
    }

    private static AbstractKeyedStateBackend<Integer> heap(TestTask task) throws Exception {
        return new HashMapStateBackend().createKeyedStateBackend(new org.apache.flink.runtime.state.KeyedStateBackendParametersImpl<>(
                new org.apache.flink.runtime.operators.testutils.DummyEnvironment("heap", 1, 0, TestTask.KEY_GROUPS), task.job, "heap",
                IntSerializer.INSTANCE, TestTask.KEY_GROUPS, task.range(), null, task.clock,
                new org.apache.flink.metrics.groups.UnregisteredMetricsGroup(), List.of(),
                new org.apache.flink.core.fs.CloseableRegistry()));
    }

    /** One operation; what it read. */
    private static Object step(States states, Random random) throws Exception {
        int namespace = random.nextInt(NAMESPACES);
        String text = "v" + random.nextInt(1000) + "x".repeat(random.nextInt(60));
        switch (random.nextInt(6)) {
            case 0:
                states.value.setCurrentNamespace(namespace);
                return switch (random.nextInt(4)) {
                    case 0 -> update(() -> states.value.update(text));
                    case 1 -> update(states.value::clear);
                    default -> states.value.value();
                };
            case 1:
                return list(states.list, namespace, text, random);
            case 2:
                return map(states.map, namespace, text, random);
            case 3:
                states.reducing.setCurrentNamespace(namespace);
                return switch (random.nextInt(6)) {
                    case 0, 1 -> update(() -> states.reducing.add(random.nextLong() % 100));
                    case 2 -> update(states.reducing::clear);
                    case 3 -> update(() -> states.reducing.mergeNamespaces(namespace, others(namespace, random)));
                    default -> states.reducing.get();
                };
            case 4:
                states.aggregating.setCurrentNamespace(namespace);
                return switch (random.nextInt(6)) {
                    case 0, 1 -> update(() -> states.aggregating.add(text.substring(0, 2)));
                    case 2 -> update(states.aggregating::clear);
                    case 3 -> update(() -> states.aggregating.mergeNamespaces(namespace, others(namespace, random)));
                    default -> sorted(states.aggregating.get());
                };
            default:
                return timer(states.timers, states.backend.getCurrentKey(), namespace, random);
        }
    }

    private static Object list(InternalListState<Integer, Integer, String> list, int namespace, String text, Random random)
            throws Exception {
        list.setCurrentNamespace(namespace);
        return switch (random.nextInt(8)) {
            case 0, 1, 2 -> update(() -> list.add(text));
            case 3 -> update(() -> list.addAll(List.of(text, "and")));
            case 4 -> update(() -> list.update(random.nextBoolean() ? List.of(text) : List.of()));
            case 5 -> update(() -> list.mergeNamespaces(namespace, others(namespace, random)));
            case 6 -> random.nextInt(4) == 0 ? update(list::clear) : null;
            default -> copy(list.get());
        };
    }

    private static Object map(InternalMapState<Integer, Integer, String, String> map, int namespace, String text, Random random)
            throws Exception {
        map.setCurrentNamespace(namespace);
        String key = "k" + random.nextInt(12);
        return switch (random.nextInt(11)) {
            case 0, 1, 2 -> update(() -> map.put(key, random.nextInt(5) == 0 ? null : text));
            case 3 -> update(() -> map.remove(key));
            case 4 -> map.contains(key);
            case 5 -> map.isEmpty();
            case 6 -> random.nextInt(4) == 0 ? update(map::clear) : null;
            case 7 -> {
                Map<String, String> all = new HashMap<>();
                entries(map).forEach(entry -> all.put(entry.getKey(), entry.getValue()));
                yield all;
            }
            case 8 -> update(() -> {
                var entries = map.iterator();
                while (entries != null && entries.hasNext()) {
                    var entry = entries.next();
                    if (entry.getKey().equals(key)) {
                        entries.remove();
                    } else if (entry.getKey().equals("k1")) {
                        entry.setValue(text);
                    }
                }
            });
            default -> map.get(key);
        };
    }

    /** The heap has null for none. */
    private static Iterable<Map.Entry<String, String>> entries(InternalMapState<Integer, Integer, String, String> map)
            throws Exception {
        Iterable<Map.Entry<String, String>> entries = map.entries();
        return entries == null ? List.of() : entries;
    }

    /** The order of equal times is nobody's promise, so every timer has its own time. */
    private static Object timer(InternalPriorityQueue<TimerHeapInternalTimer<Integer, Integer>> timers, int key, int namespace,
            Random random) {
        TimerHeapInternalTimer<Integer, Integer> timer =
                new TimerHeapInternalTimer<>(1000L * random.nextInt(40) + key * 10 + namespace, key, namespace);
        return switch (random.nextInt(6)) {
            case 0, 1, 2 -> update(() -> timers.add(timer));
            case 3 -> update(() -> timers.remove(timer));
            case 4 -> timers.poll();
            default -> timers.peek();
        };
    }

    private static List<Integer> others(int namespace, Random random) {
        List<Integer> others = new ArrayList<>();
        for (int other = 0; other < NAMESPACES; other++) {
            if (other != namespace && random.nextBoolean()) {
                others.add(other);
            }
        }
        return others;
    }

    private static String sorted(String text) {
        return text == null ? null : text.chars().sorted().mapToObj(c -> "" + (char) c).collect(Collectors.joining());
    }

    private static List<String> copy(Iterable<String> elements) {
        List<String> copy = new ArrayList<>();
        if (elements != null) {
            elements.forEach(copy::add);
        }
        return copy;
    }

    private interface Write {
        void run() throws Exception;
    }

    private static Object update(Write write) {
        try {
            write.run();
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
        return null;
    }

    private static final class Concatenate implements AggregateFunction<String, String, String> {
        @Override
        public String createAccumulator() {
            return "";
        }

        @Override
        public String add(String value, String accumulator) {
            return accumulator + value;
        }

        @Override
        public String getResult(String accumulator) {
            return accumulator;
        }

        @Override
        public String merge(String a, String b) {
            return a + b;
        }
    }

    private static final class States {
        final AbstractKeyedStateBackend<Integer> backend;
        final InternalValueState<Integer, Integer, String> value;
        final InternalListState<Integer, Integer, String> list;
        final InternalMapState<Integer, Integer, String, String> map;
        final InternalReducingState<Integer, Integer, Long> reducing;
        final InternalAggregatingState<Integer, Integer, String, String, String> aggregating;
        final InternalPriorityQueue<TimerHeapInternalTimer<Integer, Integer>> timers;

        States(AbstractKeyedStateBackend<Integer> backend, StateTtlConfig ttl) throws Exception {
            this.backend = backend;
            value = state(new ValueStateDescriptor<>("value", StringSerializer.INSTANCE), ttl);
            list = state(new ListStateDescriptor<>("list", StringSerializer.INSTANCE), ttl);
            // Flink's TTL asks for a serializer of null; without TTL the backend keeps nulls itself.
            map = state(new MapStateDescriptor<>("map", StringSerializer.INSTANCE, StringSerializer.INSTANCE), ttl);
            reducing = state(new ReducingStateDescriptor<>("reducing", Long::sum, LongSerializer.INSTANCE), ttl);
            aggregating = state(new AggregatingStateDescriptor<>("aggregating", new Concatenate(), StringSerializer.INSTANCE), ttl);
            timers = backend.create("_timer_state/event_t", new TimerSerializer<>(IntSerializer.INSTANCE, IntSerializer.INSTANCE));
        }

        private <S extends org.apache.flink.api.common.state.State, T> T state(
                org.apache.flink.api.common.state.StateDescriptor<S, ?> descriptor, StateTtlConfig ttl) throws Exception {
            if (ttl != null) {
                descriptor.enableTimeToLive(ttl);
            }
            @SuppressWarnings("unchecked")
            T state = (T) backend.getOrCreateKeyedState(IntSerializer.INSTANCE, descriptor);
            return state;
        }

        /** All that there is, in one order. */
        List<String> everything() throws Exception {
            TreeSet<String> all = new TreeSet<>();
            for (int key = 0; key < KEYS; key++) {
                backend.setCurrentKey(key);
                for (int namespace = 0; namespace < NAMESPACES; namespace++) {
                    String at = key + "/" + namespace + " ";
                    value.setCurrentNamespace(namespace);
                    all.add(at + "value " + value.value());
                    list.setCurrentNamespace(namespace);
                    all.add(at + "list " + copy(list.get()));
                    map.setCurrentNamespace(namespace);
                    entries(map).forEach(entry -> all.add(at + "map " + entry.getKey() + " " + entry.getValue()));
                    reducing.setCurrentNamespace(namespace);
                    all.add(at + "reducing " + reducing.get());
                    aggregating.setCurrentNamespace(namespace);
                    all.add(at + "aggregating " + sorted(aggregating.get()));
                }
            }
            List<String> lines = new ArrayList<>(all);
            for (var timer = timers.poll(); timer != null; timer = timers.poll()) {
                lines.add(timer.toString());
            }
            for (String state : List.of("value", "list", "map", "reducing", "aggregating")) {
                lines.add(state + " " + new TreeSet<>(backend.<Integer>getKeysAndNamespaces(state)
                        .map(Object::toString).collect(Collectors.toSet())));
            }
            return lines;
        }
    }
}
