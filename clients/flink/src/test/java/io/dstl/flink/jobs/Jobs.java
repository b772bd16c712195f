package io.dstl.flink.jobs;

import io.dstl.flink.ResultFiles;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BiConsumer;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.CoGroupFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.AggregatingState;
import org.apache.flink.api.common.state.AggregatingStateDescriptor;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.cep.CEP;
import org.apache.flink.cep.functions.PatternProcessFunction;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.conditions.SimpleCondition;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.co.KeyedBroadcastProcessFunction;
import org.apache.flink.streaming.api.functions.co.ProcessJoinFunction;
import org.apache.flink.streaming.api.functions.sink.legacy.RichSinkFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.evictors.CountEvictor;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Jobs whose results do not depend on when they fail: events are numbered, their time is their number, and each result has a key of its
 * own. On Flink's heap, undisturbed, they are the model.
 */
final class Jobs {
    static final int EVENTS = Integer.getInteger("dstl.jobs.events", 24_000);
    private static final int KEYS = 150;
    private static final int MANY_KEYS = 2000;
    private static final long BLOCK = 2048;

    private Jobs() {}

    /** All jobs by name; each builds itself for a run, which is a name in {@link Cluster#RESULTS}, or the path of a directory. */
    static Map<String, BiConsumer<StreamExecutionEnvironment, String>> all() {
        Map<String, BiConsumer<StreamExecutionEnvironment, String>> jobs = new TreeMap<>();
        jobs.put("count", Jobs::count);
        jobs.put("windows", Jobs::windows);
        jobs.put("sessions", Jobs::sessions);
        jobs.put("large sessions", Jobs::largeSessions);
        jobs.put("joins", Jobs::joins);
        jobs.put("patterns", Jobs::patterns);
        jobs.put("broadcast", Jobs::broadcast);
        jobs.put("process", Jobs::process);
        jobs.put("triggers", TriggerJob::build);
        jobs.put("async", AsyncJob::build);
        jobs.put("clock", ClockJob::build);
        return jobs;
    }

    /** Events (key, number), about 4 seconds of them. */
    static DataStream<Tuple2<String, Long>> events(StreamExecutionEnvironment environment, String run, String job) {
        return environment
                .fromSource(new NumberSequenceSource(0, EVENTS - 1), WatermarkStrategy.noWatermarks(), "numbers").uid(job + "-numbers")
                .map(new Pace(run)).returns(Types.LONG).uid(job + "-pace")
                .map(number -> Tuple2.of(key(number), number)).returns(Types.TUPLE(Types.STRING, Types.LONG)).uid(job + "-key")
                .assignTimestampsAndWatermarks(WatermarkStrategy.<Tuple2<String, Long>>forMonotonousTimestamps()
                        .withTimestampAssigner((event, before) -> event.f1)).uid(job + "-time");
    }

    /** The same in one order, with a watermark behind each: for functions that are sensitive to order. */
    static DataStream<Tuple2<String, Long>> ordered(StreamExecutionEnvironment environment, String run, String job) {
        return environment
                .fromSource(new NumberSequenceSource(0, EVENTS - 1), WatermarkStrategy.noWatermarks(), "numbers").setParallelism(1)
                .uid(job + "-numbers")
                .map(new Pace(run)).returns(Types.LONG).setParallelism(1).uid(job + "-pace")
                .map(number -> Tuple2.of(key(number), number)).returns(Types.TUPLE(Types.STRING, Types.LONG))
                .setParallelism(1).uid(job + "-key")
                .assignTimestampsAndWatermarks(WatermarkStrategy.<Tuple2<String, Long>>forGenerator(context -> new EachEvent())
                        .withTimestampAssigner((event, before) -> event.f1)).setParallelism(1).uid(job + "-time");
    }

    static final class EachEvent implements WatermarkGenerator<Tuple2<String, Long>> {
        @Override
        public void onEvent(Tuple2<String, Long> event, long time, WatermarkOutput output) {
            output.emitWatermark(new Watermark(time));
        }

        @Override
        public void onPeriodicEmit(WatermarkOutput output) {}
    }

    /** The key of an event. */
    static String key(long number) {
        return "k" + mix(number) % KEYS;
    }

    static long mix(long z) {
        long x = z + 0x9E3779B97F4A7C15L;
        x = (x ^ (x >>> 30)) * 0xBF58476D1CE4E5B9L;
        x = (x ^ (x >>> 27)) * 0x94D049BB133111EBL;
        return (x ^ (x >>> 31)) >>> 1;
    }

    static void sink(DataStream<Tuple2<String, String>> results, String run) {
        results.addSink(run.startsWith("/") ? new ResultFiles(run, true) : new Sink(run)).uid("sink-" + results.getId());
    }

    /** How many results a run has so far. */
    static int results(String run) throws IOException {
        return run.startsWith("/") ? ResultFiles.read(Path.of(run)).size() : Cluster.RESULTS.getOrDefault(run, Map.of()).size();
    }

    static void count(StreamExecutionEnvironment environment, String run) {
        sink(events(environment, run, "count").keyBy(event -> event.f0).process(new CountFunction()).uid("count"), run);
    }

    private static void windows(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = events(environment, run, "windows");
        sink(events.keyBy(event -> event.f0).window(TumblingEventTimeWindows.of(Duration.ofMillis(500)))
                .aggregate(new Count(), new Label<>("tumbling")).uid("tumbling"), run);
        sink(events.keyBy(event -> event.f0).window(SlidingEventTimeWindows.of(Duration.ofMillis(900), Duration.ofMillis(300)))
                .reduce((a, b) -> Tuple2.of(a.f0, a.f1 + b.f1), new Label<>("sliding")).uid("sliding"), run);
        sink(events.keyBy(event -> event.f0).window(TumblingEventTimeWindows.of(Duration.ofMillis(700)))
                .process(new Label<>("list")).uid("list"), run);
        sink(events.keyBy(event -> event.f0).window(TumblingEventTimeWindows.of(Duration.ofMillis(1100)))
                .evictor(CountEvictor.of(3)).process(new Label<>("evicting")).uid("evicting"), run);
    }

    /** Sessions that merge: events of one key come in bursts, out of order between the two sources. */
    private static void sessions(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = events(environment, run, "sessions");
        sink(events.keyBy(event -> event.f0).window(EventTimeSessionWindows.withGap(Duration.ofMillis(160)))
                .aggregate(new Count(), new Label<>("aggregate")).uid("session-aggregate"), run);
        sink(events.keyBy(event -> event.f0).window(EventTimeSessionWindows.withGap(Duration.ofMillis(220)))
                .reduce((a, b) -> Tuple2.of(a.f0, a.f1 ^ b.f1), new Label<>("reduce")).uid("session-reduce"), run);
        sink(events.keyBy(event -> event.f0).window(EventTimeSessionWindows.withGap(Duration.ofMillis(190)))
                .process(new Label<>("list")).uid("session-list"), run);
        sink(events.keyBy(event -> event.f0).window(EventTimeSessionWindows.withGap(Duration.ofMillis(170)))
                .process(new Ordinal()).uid("session-ordinal"), run);
    }

    /** Events of 1 KB out of order, so that sessions merge again and again; far more than a cache of 1 MiB. */
    private static void largeSessions(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = events(environment, run, "large")
                .map(event -> Tuple2.of("k" + mix(event.f1) % MANY_KEYS + "." + "x".repeat(1000), shuffled(event.f1)))
                .returns(Types.TUPLE(Types.STRING, Types.LONG)).uid("large-shuffled")
                .assignTimestampsAndWatermarks(WatermarkStrategy.<Tuple2<String, Long>>forBoundedOutOfOrderness(Duration.ofMillis(BLOCK))
                        .withTimestampAssigner((event, before) -> event.f1)).uid("large-times");
        sink(events.keyBy(Jobs::name).window(EventTimeSessionWindows.withGap(Duration.ofMillis(1500)))
                .process(new Large()).uid("large-list"), run);
    }

    /** A permutation of each block of numbers: its lower half is interleaved with its upper one, backwards. */
    private static long shuffled(long number) {
        long block = number / BLOCK * BLOCK;
        long in = number % BLOCK;
        return block + (in % 2 == 0 ? in / 2 : BLOCK - 1 - in / 2);
    }

    private static String name(Tuple2<String, Long> event) {
        return event.f0.substring(0, event.f0.indexOf('.'));
    }

    private static void joins(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = events(environment, run, "joins");
        DataStream<Tuple2<String, Long>> even = events.filter(event -> event.f1 % 2 == 0);
        DataStream<Tuple2<String, Long>> odd = events.filter(event -> event.f1 % 2 == 1);
        sink(even.keyBy(event -> event.f0).intervalJoin(odd.keyBy(event -> event.f0))
                .between(Duration.ofMillis(-100), Duration.ofMillis(100))
                .process(new ProcessJoinFunction<Tuple2<String, Long>, Tuple2<String, Long>, Tuple2<String, String>>() {
                    @Override
                    public void processElement(Tuple2<String, Long> left, Tuple2<String, Long> right, Context context,
                            Collector<Tuple2<String, String>> out) {
                        out.collect(Tuple2.of("interval " + left.f1 + " " + right.f1, left.f0));
                    }
                }).uid("interval"), run);
        sink(even.join(odd).where(event -> event.f0).equalTo(event -> event.f0)
                .window(TumblingEventTimeWindows.of(Duration.ofMillis(400)))
                .apply((left, right) -> Tuple2.of("window " + left.f1 + " " + right.f1, left.f0),
                        Types.TUPLE(Types.STRING, Types.STRING)), run);
        sink(even.coGroup(odd).where(event -> event.f0).equalTo(event -> event.f0)
                .window(TumblingEventTimeWindows.of(Duration.ofMillis(300)))
                .apply(new Sides(), Types.TUPLE(Types.STRING, Types.STRING)), run);
    }

    /** All of both sides, also where one has none. */
    private static final class Sides implements CoGroupFunction<Tuple2<String, Long>, Tuple2<String, Long>, Tuple2<String, String>> {
        @Override
        public void coGroup(Iterable<Tuple2<String, Long>> left, Iterable<Tuple2<String, Long>> right,
                Collector<Tuple2<String, String>> out) {
            TreeMap<Long, String> all = new TreeMap<>();
            left.forEach(event -> all.put(event.f1, "left of " + event.f0));
            right.forEach(event -> all.put(event.f1, "right of " + event.f0));
            out.collect(Tuple2.of("sides " + all.firstKey(), all.toString()));
        }
    }

    private static void patterns(StreamExecutionEnvironment environment, String run) {
        Pattern<Tuple2<String, Long>, ?> pattern = Pattern.<Tuple2<String, Long>>begin("first")
                .where(SimpleCondition.of(event -> event.f1 % 3 == 0))
                .followedBy("second").where(SimpleCondition.of(event -> event.f1 % 3 == 1))
                .within(Duration.ofMillis(300));
        sink(CEP.pattern(events(environment, run, "patterns").keyBy(event -> event.f0), pattern)
                .process(new PatternProcessFunction<Tuple2<String, Long>, Tuple2<String, String>>() {
                    @Override
                    public void processMatch(Map<String, List<Tuple2<String, Long>>> match, Context context,
                            Collector<Tuple2<String, String>> out) {
                        out.collect(Tuple2.of("match " + match.get("first").get(0).f1, match.get("second").get(0).f1.toString()));
                    }
                }).uid("cep"), run);
    }

    private static void broadcast(StreamExecutionEnvironment environment, String run) {
        MapStateDescriptor<String, Long> rules = new MapStateDescriptor<>("rules", Types.STRING, Types.LONG);
        var control = environment.fromData(1L, 2L, 3L).uid("rules").broadcast(rules);
        sink(events(environment, run, "broadcast").keyBy(event -> event.f0).connect(control)
                .process(new Ruled(rules)).uid("ruled"), run);
    }

    private static void process(StreamExecutionEnvironment environment, String run) {
        sink(ordered(environment, run, "process").keyBy(event -> event.f0).process(new Everything()).uid("everything"), run);
    }

    /** Slows the numbers down, counts them, and fails where a run is told to. Runs in files are slow until a file {@code go} is beside. */
    private static final class Pace implements org.apache.flink.api.common.functions.MapFunction<Long, Long> {
        private final String run;
        private boolean go;

        Pace(String run) {
            this.run = run;
        }

        @Override
        public Long map(Long number) {
            AtomicLong processed = Cluster.PROCESSED.computeIfAbsent(run, any -> new AtomicLong());
            long count = processed.incrementAndGet();
            if (run.startsWith("/") && !go) {
                if (count % 10 == 0) {
                    LockSupport.parkNanos(100_000_000);
                    go = Files.exists(Path.of(run).resolveSibling("go"));
                }
            } else if (count % 50 == 0 && !run.startsWith("heap")) {
                LockSupport.parkNanos(8_000_000);
            }
            if (Cluster.FAIL.remove(run) != null) {
                throw new IllegalStateException("failing on purpose");
            }
            return number;
        }
    }

    private static final class Sink extends RichSinkFunction<Tuple2<String, String>> {
        private final String run;

        Sink(String run) {
            this.run = run;
        }

        @Override
        public void invoke(Tuple2<String, String> result, Context context) {
            Cluster.RESULTS.computeIfAbsent(run, any -> new ConcurrentHashMap<>()).put(result.f0, result.f1);
        }
    }

    /** Counts each key, and tells at the end of time. */
    private static final class CountFunction extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            Long before = count.value();
            count.update(before == null ? 1 : before + 1);
            context.timerService().registerEventTimeTimer(Long.MAX_VALUE);
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            out.collect(Tuple2.of(context.getCurrentKey(), count.value().toString()));
        }
    }

    static final class Count implements AggregateFunction<Tuple2<String, Long>, Long, Tuple2<String, Long>> {
        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(Tuple2<String, Long> event, Long count) {
            return count + 1;
        }

        @Override
        public Tuple2<String, Long> getResult(Long count) {
            return Tuple2.of("", count);
        }

        @Override
        public Long merge(Long a, Long b) {
            return a + b;
        }
    }

    /** Names what a window has. */
    static final class Label<T> extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, String, TimeWindow> {
        private final String name;

        Label(String name) {
            this.name = name;
        }

        @Override
        public void process(String key, Context context, Iterable<Tuple2<String, Long>> elements,
                Collector<Tuple2<String, String>> out) {
            List<Long> numbers = new ArrayList<>();
            elements.forEach(element -> numbers.add(element.f1));
            if (!name.equals("evicting")) {
                numbers.sort(null);
            }
            out.collect(Tuple2.of(name + " " + key + " " + context.window(),
                    name.equals("evicting") ? Integer.toString(numbers.size()) : numbers.toString()));
        }
    }

    /** Numbers the sessions of a key, by state beside the windows, with a TTL that never comes to pass. */
    private static final class Ordinal extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Tuple2<String, Long>> elements,
                Collector<Tuple2<String, String>> out) throws Exception {
            ValueStateDescriptor<Long> descriptor = new ValueStateDescriptor<>("ordinal", Types.LONG);
            descriptor.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofHours(2)).build());
            ValueState<Long> ordinal = context.globalState().getState(descriptor);
            long next = ordinal.value() == null ? 1 : ordinal.value() + 1;
            ordinal.update(next);
            out.collect(Tuple2.of("ordinal " + key + " " + context.window(), Long.toString(next)));
        }
    }

    /** What a session has, and what the sessions of its key had before, by state of 1 KB and more with a TTL that never comes to pass. */
    private static final class Large extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Tuple2<String, Long>> elements,
                Collector<Tuple2<String, String>> out) throws Exception {
            ValueStateDescriptor<String> descriptor = new ValueStateDescriptor<>("before", Types.STRING);
            descriptor.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofHours(2)).build());
            ValueState<String> before = context.globalState().getState(descriptor);
            List<Long> numbers = new ArrayList<>();
            long bytes = 0;
            for (Tuple2<String, Long> element : elements) {
                numbers.add(element.f1);
                bytes += element.f0.length();
            }
            numbers.sort(null);
            String was = before.value() == null ? "" : before.value().strip();
            before.update(was + " " + context.window().getStart() + " ".repeat(1000));
            out.collect(Tuple2.of("large " + key + " " + context.window(), numbers + " " + bytes + " after " + was));
        }
    }

    /** Counts by rules that are broadcast; the rules are all there before the end of time. */
    private static final class Ruled
            extends KeyedBroadcastProcessFunction<String, Tuple2<String, Long>, Long, Tuple2<String, String>> {
        private final MapStateDescriptor<String, Long> rules;
        private transient ValueState<Long> sum;

        Ruled(MapStateDescriptor<String, Long> rules) {
            this.rules = rules;
        }

        @Override
        public void open(OpenContext context) {
            sum = getRuntimeContext().getState(new ValueStateDescriptor<>("sum", Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> event, ReadOnlyContext context, Collector<Tuple2<String, String>> out)
                throws Exception {
            Long before = sum.value();
            sum.update((before == null ? 0 : before) + event.f1);
            context.timerService().registerEventTimeTimer(Long.MAX_VALUE);
        }

        @Override
        public void processBroadcastElement(Long rule, Context context, Collector<Tuple2<String, String>> out) throws Exception {
            context.getBroadcastState(rules).put("rule" + rule, rule);
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            long total = 0;
            for (Map.Entry<String, Long> rule : context.getBroadcastState(rules).immutableEntries()) {
                total += rule.getValue();
            }
            out.collect(Tuple2.of(context.getCurrentKey(), sum.value() + " by rules " + total));
        }
    }

    /** All kinds of state in one function, with timers that are moved, a map with null values, and TTL that never comes to pass. */
    private static final class Everything extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private transient MapState<Long, String> map;
        private transient ListState<Long> list;
        private transient AggregatingState<Tuple2<String, Long>, Tuple2<String, Long>> counted;
        private transient ValueState<Long> timer;

        @Override
        public void open(OpenContext context) {
            StateTtlConfig ttl = StateTtlConfig.newBuilder(Duration.ofHours(2)).cleanupFullSnapshot().build();
            map = getRuntimeContext().getMapState(new MapStateDescriptor<>("map", Types.LONG, Types.STRING));
            ListStateDescriptor<Long> lists = new ListStateDescriptor<>("list", Types.LONG);
            lists.enableTimeToLive(ttl);
            list = getRuntimeContext().getListState(lists);
            counted = getRuntimeContext().getAggregatingState(
                    new AggregatingStateDescriptor<>("counted", new Count(), Types.LONG));
            ValueStateDescriptor<Long> timers = new ValueStateDescriptor<>("timer", Types.LONG);
            timers.enableTimeToLive(ttl);
            timer = getRuntimeContext().getState(timers);
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            counted.add(event);
            map.put(event.f1 % 20, event.f1 % 3 == 0 ? null : "v" + event.f1);
            if (event.f1 % 7 == 0) {
                map.remove(event.f1 % 13);
            }
            list.add(event.f1);
            Long before = timer.value();
            if (before != null) {
                context.timerService().deleteEventTimeTimer(before);
            }
            long at = event.f1 + 150;
            context.timerService().registerEventTimeTimer(at);
            timer.update(at);
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            TreeMap<Long, String> entries = new TreeMap<>();
            for (Map.Entry<Long, String> entry : map.entries()) {
                entries.put(entry.getKey(), String.valueOf(entry.getValue()));
            }
            List<Long> numbers = new ArrayList<>();
            list.get().forEach(numbers::add);
            numbers.sort(null);
            out.collect(Tuple2.of(context.getCurrentKey() + " at " + timestamp, entries + " " + numbers + " " + counted.get().f1));
            list.clear();
            timer.clear();
            if (timestamp % 2 == 0) {
                map.clear();
            }
        }
    }
}
