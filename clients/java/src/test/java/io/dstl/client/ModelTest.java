package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.InnerBackend;
import io.dstl.proto.v1.MergeFunction;
import io.dstl.proto.v1.NoticeKind;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Random operations on every kind of keyed state, compared with {@link Model}: each read when it is answered, all of
 * it after
 * each restore. Some restores follow a kill of the daemon, some a break of the connection. `DSTL_MODEL_SEED` sets the
 * seed.
 */
class ModelTest {
    private static final int KEYS = 6;
    private static final List<String> NAMESPACES = List.of("", "a", "b");
    private static final int ROUNDS = 12;
    private static final int BATCHES = 60;

    private Random random;
    private Model model;
    private ValueState<String, Long> values;
    private AggregatingState<String, Long, Long> sums;
    private ListState<String, Long> lists;
    private MapState<String, Long, Long> maps;
    private MapState<String, Long, Long> counts;
    private TimerState<String> timers;

    @ParameterizedTest
    @EnumSource(names = {"INNER_BACKEND_HASHMAP", "INNER_BACKEND_ROCKSDB"})
    void everyReadAgreesWithAPlainModelThroughRestores(InnerBackend inner) throws Exception {
        String given = System.getenv("DSTL_MODEL_SEED");
        long seed = given == null ? System.nanoTime() : Long.parseLong(given);
        System.out.println("model of " + inner + ": seed " + seed);
        random = new Random(seed);
        model = new Model();
        try (TestDaemon daemon = TestDaemon.start();
                SocketProxy proxy = new SocketProxy(daemon);
                DstlClient client = TestDaemon.connect(proxy.path())) {
            String feature = inner == InnerBackend.INNER_BACKEND_HASHMAP ? "inner.hashmap" : "inner.rocksdb";
            Assumptions.assumeTrue(client.daemon().getFeaturesList().contains(feature), "the daemon is built without RocksDB");
            ByteString handle = null;
            Model restorable = new Model();
            for (int round = 0; round < ROUNDS; round++) {
                OpenOptions options = OpenOptions.of("model", "op").attempt(round + 1L).inner(inner).retain(2);
                Backend backend = client.open((handle == null ? options.empty() : options.handles(List.of(handle))).build())
                        .await();
                model = restorable.copy();
                register(backend);
                Session session = backend.session(SessionOptions.DEFAULT).await();
                compareAll(session);
                for (int part = 1; part <= 2; part++) {
                    write(session, part == 2 && round % 3 == 0 ? proxy : null);
                    if (part == 1) {
                        CheckpointCompleted completed = session.barrier(1, Batch.NONE).await();
                        session.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await();
                        handle = completed.getHandle();
                        restorable = model.copy();
                    }
                }
                if (round % 4 == 1) {
                    daemon.restart();
                } else if (round % 4 == 2) {
                    backend.close().await();
                }
            }
        }
    }

    private void register(Backend backend) throws InterruptedException {
        Serde<String> keys = Serdes.string();
        Serde<Long> numbers = Serdes.int64();
        values = backend.valueState("values", keys, numbers, StateOptions.NONE);
        sums = backend.aggregatingState("sums", keys, Aggregation.sum(), StateOptions.NONE);
        lists = backend.listState("lists", keys, numbers, StateOptions.NONE);
        maps = backend.mapState("maps", keys, Serdes.orderedInt64(), numbers, StateOptions.NONE);
        counts = backend.mapState("counts", keys, Serdes.orderedInt64(), numbers,
                StateOptions.merging(MergeFunction.MERGE_FUNCTION_SUM_I64));
        timers = backend.timerState("timers", keys, StateOptions.NONE);
    }

    /** Pipelined batches; where {@code proxy} is given, its connections break in between. */
    private void write(Session session, SocketProxy proxy) throws InterruptedException {
        List<Pending<Results>> pending = new ArrayList<>();
        List<List<Consumer<Results>>> checks = new ArrayList<>();
        for (int at = 0; at < BATCHES; at++) {
            List<Consumer<Results>> expected = new ArrayList<>();
            Batch batch = session.batch();
            for (int operations = random.nextInt(20); operations >= 0; operations--) {
                add(batch, proxy == null ? expected : null);
            }
            pending.add(session.send(batch));
            checks.add(expected);
            if (proxy != null && at % 20 == 10) {
                proxy.breakAll();
            }
        }
        for (int at = 0; at < pending.size(); at++) {
            Results results = pending.get(at).await();
            checks.get(at).forEach(check -> check.accept(results));
        }
    }

    /** One random operation; reads only where {@code expected} is given, which gets the check of its answer. */
    private void add(Batch batch, List<Consumer<Results>> expected) {
        String key = "k" + random.nextInt(KEYS);
        String namespace = NAMESPACES.get(random.nextInt(NAMESPACES.size()));
        String name = key + "/" + namespace;
        byte[] in = namespace.getBytes();
        long number = random.nextInt(40);
        int kind = random.nextInt(expected == null ? 12 : 22);
        switch (kind) {
            case 0, 1 -> {
                values.in(in).put(batch, key, number);
                model.values.put(name, number);
            }
            case 2 -> {
                sums.in(in).add(batch, key, number);
                model.sums.merge(name, number, Long::sum);
            }
            case 3, 4 -> {
                lists.in(in).addAll(batch, key, List.of(number, number + 1));
                model.list(name).addAll(List.of(number, number + 1));
            }
            case 5 -> {
                maps.in(in).put(batch, key, number, number * 2);
                Model.map(model.maps, name).put(number, number * 2);
            }
            case 6 -> {
                maps.in(in).remove(batch, key, number);
                Model.map(model.maps, name).remove(number);
            }
            case 7 -> {
                counts.in(in).merge(batch, key, number % 4, 1L);
                Model.map(model.counts, name).merge(number % 4, 1L, Long::sum);
            }
            case 8 -> {
                timers.in(in).register(batch, key, number);
                model.timers.add(Model.timer(number, key, namespace));
            }
            case 9 -> {
                timers.in(in).delete(batch, key, number);
                model.timers.remove(Model.timer(number, key, namespace));
            }
            case 10 -> rare(batch, key, namespace, name, number);
            case 11 -> {
                lists.in(in).update(batch, key, List.of(number));
                model.lists.put(name, new ArrayList<>(List.of(number)));
            }
            default -> read(batch, expected, key, in, name, number, kind);
        }
    }

    private void rare(Batch batch, String key, String namespace, String name, long number) {
        byte[] in = namespace.getBytes();
        if (number % 2 == 0) {
            for (State<String> state : List.of(values, sums, lists, maps, counts)) {
                state.in(in).clear(batch, key);
            }
            model.clear(name);
        } else {
            List<String> others = NAMESPACES.stream().filter(other -> !other.equals(namespace)).toList();
            for (State<String> state : List.of(values, sums, lists, maps, counts)) {
                state.in(in).mergeNamespaces(batch, key, others.stream().map(String::getBytes).toList());
            }
            model.mergeNamespaces(key, namespace, others);
        }
    }

    private void read(Batch batch, List<Consumer<Results>> expected, String key, byte[] in, String name, long number, int kind) {
        switch (kind) {
            case 12, 13 -> expect(expected, values.in(in).get(batch, key), model.values.get(name));
            case 14 -> expect(expected, sums.in(in).get(batch, key), model.sums.get(name));
            case 15 -> {
                Read<Page<Long>> read = lists.in(in).get(batch, key, 1, 5);
                List<Long> all = model.lists.getOrDefault(name, List.of());
                List<Long> page = List.copyOf(all.subList(Math.min(1, all.size()), Math.min(6, all.size())));
                expected.add(results -> assertThat(read.from(results).items()).isEqualTo(page));
            }
            case 16 -> expect(expected, maps.in(in).get(batch, key, number),
                    Model.map(model.maps, name).get(number));
            case 17 -> expect(expected, maps.in(in).contains(batch, key, number),
                    Model.map(model.maps, name).containsKey(number));
            case 18 -> expect(expected, counts.in(in).count(batch, key), (long) Model.map(model.counts, name).size());
            case 19 -> {
                Read<Page<Map.Entry<Long, Long>>> read = maps.in(in).entries(batch, key, Serdes.orderedInt64().write(number), 0);
                List<Map.Entry<Long, Long>> tail = List.copyOf(Model.map(model.maps, name).tailMap(number).entrySet().stream()
                        .map(entry -> Map.entry(entry.getKey(), entry.getValue())).toList());
                expected.add(results -> assertThat(read.from(results).items()).isEqualTo(tail));
            }
            case 20 -> {
                Read<Page<TimerState.Timer<String>>> read = timers.due(batch, number, Batch.NONE, 0);
                List<String> due = model.due(number);
                expected.add(results -> assertThat(names(read.from(results))).isEqualTo(due));
            }
            default -> {
                Read<Page<TimerState.Timer<String>>> read = timers.fire(batch, number / 4, 0);
                List<String> due = model.due(number / 4);
                due.forEach(model.timers::remove);
                expected.add(results -> assertThat(names(read.from(results))).isEqualTo(due));
            }
        }
    }

    private static <T> void expect(List<Consumer<Results>> expected, Read<T> read, T value) {
        expected.add(results -> assertThat(read.from(results)).isEqualTo(value));
    }

    private static List<String> names(Page<TimerState.Timer<String>> page) {
        return page.items().stream()
                .map(timer -> Model.timer(timer.time(), timer.key(), new String(timer.namespace())))
                .toList();
    }

    private void compareAll(Session session) throws InterruptedException {
        for (String namespace : NAMESPACES) {
            byte[] in = namespace.getBytes();
            for (int at = 0; at < KEYS; at++) {
                String key = "k" + at;
                String name = key + "/" + namespace;
                assertThat(values.in(in).get(session, key)).as(name).isEqualTo(model.values.get(name));
                assertThat(sums.in(in).get(session, key)).as(name).isEqualTo(model.sums.get(name));
                assertThat(State.list(lists.in(in).elements(session, key))).as(name)
                        .isEqualTo(model.lists.getOrDefault(name, List.of()));
                assertThat(State.list(maps.in(in).entries(session, key))).as(name)
                        .containsExactlyElementsOf(Model.map(model.maps, name).entrySet());
                assertThat(State.list(counts.in(in).entries(session, key))).as(name)
                        .containsExactlyElementsOf(Model.map(model.counts, name).entrySet());
            }
            List<String> present = model.values.keySet().stream()
                    .filter(name -> name.substring(name.indexOf('/') + 1).equals(namespace))
                    .map(name -> name.substring(0, name.indexOf('/')))
                    .toList();
            assertThat(State.list(values.in(in).keys(session))).containsExactlyInAnyOrderElementsOf(present);
        }
        Page<TimerState.Timer<String>> all = session.ask(batch -> timers.due(batch, Long.MAX_VALUE, Batch.NONE, 0));
        assertThat(names(all)).containsExactlyElementsOf(model.timers);
    }
}
