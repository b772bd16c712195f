package io.dstl.flink.jobs;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessAllWindowFunction;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.functions.windowing.delta.DeltaFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.GlobalWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.triggers.ContinuousEventTimeTrigger;
import org.apache.flink.streaming.api.windowing.triggers.DeltaTrigger;
import org.apache.flink.streaming.api.windowing.triggers.PurgingTrigger;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.streaming.api.windowing.windows.Window;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/**
 * Windows that end by something else than the end of their time, or fire more than once: by count, by a change of value, again and again
 * while a session grows, for late events; windows over all keys; sessions whose gap is the event's. Triggers keep state beside the windows,
 * and that of sessions merges. Events come in one order, so every firing is determined, and has a key of its own.
 */
final class TriggerJob {
    private TriggerJob() {}

    static void build(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = Jobs.ordered(environment, run, "triggers");
        var keyed = events.keyBy(event -> event.f0);
        Jobs.sink(keyed.countWindow(7).process(new Fired<>("seven")).uid("by-count"), run);
        Jobs.sink(keyed.countWindow(10, 4).process(new Fired<>("ten")).uid("by-sliding-count"), run);
        Jobs.sink(keyed.window(GlobalWindows.create())
                .trigger(PurgingTrigger.of(DeltaTrigger.of(900, new Distance(),
                        events.getType().createSerializer(environment.getConfig().getSerializerConfig()))))
                .process(new Fired<>("delta")).uid("by-delta"), run);
        Jobs.sink(keyed.window(EventTimeSessionWindows.withGap(Duration.ofMillis(210)))
                .trigger(ContinuousEventTimeTrigger.of(Duration.ofMillis(90)))
                .process(new Fired<>("continuous")).uid("continuous"), run);
        Jobs.sink(keyed.window(EventTimeSessionWindows.withDynamicGap(event -> 80 + event.f1 % 200))
                .aggregate(new Jobs.Count(), new Jobs.Label<>("dynamic")).uid("dynamic-gap"), run);
        Jobs.sink(events.windowAll(TumblingEventTimeWindows.of(Duration.ofMillis(800))).process(new All()).uid("all"), run);
        late(events, run);
    }

    /** Some events come behind the end of their window, which fires again for them; some come too late even for that. */
    private static void late(DataStream<Tuple2<String, Long>> events, String run) {
        OutputTag<Tuple2<String, Long>> tooLate = new OutputTag<>("too-late", Types.TUPLE(Types.STRING, Types.LONG));
        SingleOutputStreamOperator<Tuple2<String, String>> windows = events
                .map(event -> Tuple2.of(event.f0, event.f1 - (event.f1 % 31 == 0 ? 2000 : event.f1 % 17 == 0 ? 500 : 0)))
                .returns(Types.TUPLE(Types.STRING, Types.LONG)).setParallelism(1).uid("late")
                .assignTimestampsAndWatermarks(WatermarkStrategy.<Tuple2<String, Long>>forGenerator(context -> new Jobs.EachEvent())
                        .withTimestampAssigner((event, before) -> event.f1)).setParallelism(1).uid("late-time")
                .keyBy(event -> event.f0).window(TumblingEventTimeWindows.of(Duration.ofMillis(600)))
                .allowedLateness(Duration.ofMillis(900)).sideOutputLateData(tooLate)
                .process(new Fired<>("late")).uid("late-windows");
        Jobs.sink(windows, run);
        Jobs.sink(windows.getSideOutput(tooLate).map(event -> Tuple2.of("too late " + event.f1, event.f0))
                .returns(Types.TUPLE(Types.STRING, Types.STRING)).uid("too-late"), run);
    }

    private static final class Distance implements DeltaFunction<Tuple2<String, Long>> {
        @Override
        public double getDelta(Tuple2<String, Long> before, Tuple2<String, Long> now) {
            return now.f1 - before.f1;
        }
    }

    /** What a window has whenever it fires. */
    private static final class Fired<W extends Window>
            extends ProcessWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, String, W> {
        private final String name;

        Fired(String name) {
            this.name = name;
        }

        @Override
        public void process(String key, Context context, Iterable<Tuple2<String, Long>> elements,
                Collector<Tuple2<String, String>> out) {
            List<Long> numbers = new ArrayList<>();
            elements.forEach(element -> numbers.add(element.f1));
            String window = context.window() instanceof TimeWindow time ? " from " + time.getStart() : "";
            out.collect(Tuple2.of(name + " " + key + window + ": " + numbers.size() + " to " + numbers.get(numbers.size() - 1),
                    numbers.toString()));
        }
    }

    private static final class All extends ProcessAllWindowFunction<Tuple2<String, Long>, Tuple2<String, String>, TimeWindow> {
        @Override
        public void process(Context context, Iterable<Tuple2<String, Long>> elements, Collector<Tuple2<String, String>> out) {
            long sum = 0;
            long count = 0;
            for (Tuple2<String, Long> element : elements) {
                sum += element.f1;
                count++;
            }
            out.collect(Tuple2.of("all " + context.window(), count + " with sum " + sum));
        }
    }
}
