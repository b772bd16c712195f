package io.dstl.flink.jobs;

import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.LockSupport;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingProcessingTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Timers and windows of processing time. When they fire depends on the clock, how often does not: each event waits for one timer, and
 * belongs to one window. The last event comes when all results of the others are there, since Flink drops the timers that have not fired
 * when the job ends.
 */
final class ClockJob {
    /** How long the last event waits at most: then results are missing, which the test tells. */
    private static final long MOST_NANOS = 60_000_000_000L;

    private ClockJob() {}

    static void build(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = Jobs.ordered(environment, run, "clock")
                .map(event -> late(event, run)).returns(Types.TUPLE(Types.STRING, Types.LONG)).setParallelism(1).uid("clock-rest");
        Jobs.sink(events.keyBy(event -> event.f0).process(new Waiting()).uid("clock-timers"), run);
        Jobs.sink(events.filter(ClockJob::fires).uid("clock-windowed").keyBy(event -> event.f0)
                .window(TumblingProcessingTimeWindows.of(Duration.ofMillis(70))).aggregate(new Jobs.Count(), new OfKey())
                .returns(Types.TUPLE(Types.STRING, Types.LONG)).uid("clock-windows")
                .keyBy(count -> count.f0).process(new Total()).uid("clock-total"), run);
    }

    /** All but the last. */
    private static boolean fires(Tuple2<String, Long> event) {
        return event.f1 < Jobs.EVENTS - 1;
    }

    private static Tuple2<String, Long> late(Tuple2<String, Long> event, String run) throws IOException {
        long until = System.nanoTime() + MOST_NANOS;
        // Of each other event there is one result of its timer, and one of its window.
        while (!fires(event) && Jobs.results(run) < 2 * (Jobs.EVENTS - 1) && System.nanoTime() < until) {
            LockSupport.parkNanos(200_000_000);
        }
        return event;
    }

    /** Each event waits for a timer of its own time, which others may share. A timer that fires twice, or for no event, is told. */
    private static final class Waiting extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private transient MapState<Long, Long> dueByEvent;

        @Override
        public void open(OpenContext context) {
            dueByEvent = getRuntimeContext().getMapState(new MapStateDescriptor<>("due by event", Types.LONG, Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            long due = context.timerService().currentProcessingTime() + 5 + event.f1 % 90;
            if (fires(event)) {
                dueByEvent.put(event.f1, due);
                context.timerService().registerProcessingTimeTimer(due);
            }
            // Deleted again: it must never fire.
            context.timerService().registerProcessingTimeTimer(due + 1_000_000);
            context.timerService().deleteProcessingTimeTimer(due + 1_000_000);
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            List<Long> events = new ArrayList<>();
            for (Map.Entry<Long, Long> entry : dueByEvent.entries()) {
                if (entry.getValue() == timestamp) {
                    events.add(entry.getKey());
                }
            }
            for (Long event : events) {
                dueByEvent.remove(event);
                out.collect(Tuple2.of("timer of " + event, context.getCurrentKey()));
            }
            if (events.isEmpty()) {
                out.collect(Tuple2.of("timer for no event at " + timestamp, context.getCurrentKey()));
            }
        }
    }

    private static final class OfKey extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, Long>, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Tuple2<String, Long>> counts, Collector<Tuple2<String, Long>> out) {
            counts.forEach(count -> out.collect(Tuple2.of(key, count.f1)));
        }
    }

    /** Numbers the events that the windows of a key had together. */
    private static final class Total extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private transient ValueState<Long> total;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> count, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            long before = total.value() == null ? 0 : total.value();
            total.update(before + count.f1);
            for (long number = before + 1; number <= before + count.f1; number++) {
                out.collect(Tuple2.of("in windows " + count.f0 + ": " + number, ""));
            }
        }
    }
}
