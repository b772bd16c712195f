package io.dstl.flink.demo;

import io.dstl.flink.ResultFiles;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.locks.LockSupport;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFlatMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Counts the words of a text that is read again and again, and counts them by sessions: a line's time is its number, and a session of a
 * word ends where the word is missing for {@link #GAP} lines. Results go to files, each under a key of its own; a result that is
 * written twice is the same. Lines come at a pace, until there is a file {@code go} beside the results.
 */
final class DemoJob {
    static final long GAP = 40;

    private DemoJob() {}

    static void build(StreamExecutionEnvironment environment, Path text, Path results, long lines, int perSecond) {
        // One task reads, so lines come in their order and no session stays open for longer than its gap.
        DataStream<Tuple2<String, Long>> words = environment
                .fromSource(new NumberSequenceSource(0, lines - 1), WatermarkStrategy.noWatermarks(), "lines")
                .setParallelism(1).uid("lines")
                .flatMap(new Words(text.toString(), results.resolveSibling("go").toString(), perSecond))
                .returns(Types.TUPLE(Types.STRING, Types.LONG)).setParallelism(1).uid("words")
                .assignTimestampsAndWatermarks(WatermarkStrategy.<Tuple2<String, Long>>forMonotonousTimestamps()
                        .withTimestampAssigner((word, before) -> word.f1)).setParallelism(1).uid("time");
        words.keyBy(word -> word.f0).process(new Count()).uid("count")
                .addSink(new ResultFiles(results.toString())).uid("counts");
        words.keyBy(word -> word.f0).window(EventTimeSessionWindows.withGap(Duration.ofMillis(GAP))).process(new Session())
                .uid("sessions").addSink(new ResultFiles(results.toString())).uid("session-results");
    }

    static List<String> split(String line) {
        List<String> words = new ArrayList<>();
        for (String word : line.toLowerCase(java.util.Locale.ROOT).split("[^a-z0-9_]+")) {
            if (!word.isEmpty()) {
                words.add(word);
            }
        }
        return words;
    }

    /** What the files must say at the end. */
    static Map<String, String> expected(Path text, long lines) throws IOException {
        List<String> all = Files.readAllLines(text);
        Map<String, Long> counts = new HashMap<>();
        Map<String, long[]> open = new HashMap<>();
        Map<String, String> expected = new TreeMap<>();
        for (long number = 0; number < lines; number++) {
            for (String word : split(all.get((int) (number % all.size())))) {
                counts.merge(word, 1L, Long::sum);
                long[] session = open.get(word);
                if (session == null || number > session[1] + GAP) {
                    if (session != null) {
                        expected.put(word + " " + session[0] + ".." + (session[1] + GAP), Long.toString(session[2]));
                    }
                    session = new long[] {number, number, 0};
                    open.put(word, session);
                }
                session[1] = number;
                session[2]++;
            }
        }
        open.forEach((word, session) ->
                expected.put(word + " " + session[0] + ".." + (session[1] + GAP), Long.toString(session[2])));
        counts.forEach((word, count) -> expected.put(word, count.toString()));
        return expected;
    }

    private static final class Words extends RichFlatMapFunction<Long, Tuple2<String, Long>> {
        private static final long serialVersionUID = 1;
        private final String text;
        private final String go;
        private final int perSecond;
        private transient List<String> lines;
        private transient long start;
        private transient long count;
        private transient boolean paced;

        Words(String text, String go, int perSecond) {
            this.text = text;
            this.go = go;
            this.perSecond = perSecond;
        }

        @Override
        public void open(OpenContext context) throws IOException {
            lines = Files.readAllLines(Path.of(text));
            start = System.nanoTime();
            paced = true;
        }

        @Override
        public void flatMap(Long number, Collector<Tuple2<String, Long>> out) {
            for (String word : split(lines.get((int) (number % lines.size())))) {
                out.collect(Tuple2.of(word, number));
            }
            if (++count % 16 == 0 && paced) {
                LockSupport.parkNanos(start + count * 1_000_000_000L / perSecond - System.nanoTime());
                paced = !Files.exists(Path.of(go));
            }
        }
    }

    private static final class Count extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private static final long serialVersionUID = 1;
        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> word, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            Long before = count.value();
            count.update(before == null ? 1 : before + 1);
            if (before == null) {
                context.timerService().registerEventTimeTimer(Long.MAX_VALUE);
            }
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            out.collect(Tuple2.of(context.getCurrentKey(), count.value().toString()));
        }
    }

    private static final class Session
            extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, String, TimeWindow> {
        private static final long serialVersionUID = 1;

        @Override
        public void process(String word, Context context, Iterable<Tuple2<String, Long>> elements,
                Collector<Tuple2<String, String>> out) {
            long count = 0;
            for (Tuple2<String, Long> ignored : elements) {
                count++;
            }
            out.collect(Tuple2.of(word + " " + context.window().getStart() + ".." + context.window().getEnd(), Long.toString(count)));
        }
    }
}
