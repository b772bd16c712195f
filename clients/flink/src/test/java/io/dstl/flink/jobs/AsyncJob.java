package io.dstl.flink.jobs;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.v2.AggregatingState;
import org.apache.flink.api.common.state.v2.AggregatingStateDescriptor;
import org.apache.flink.api.common.state.v2.ListState;
import org.apache.flink.api.common.state.v2.ListStateDescriptor;
import org.apache.flink.api.common.state.v2.MapState;
import org.apache.flink.api.common.state.v2.MapStateDescriptor;
import org.apache.flink.api.common.state.v2.ReducingState;
import org.apache.flink.api.common.state.v2.ReducingStateDescriptor;
import org.apache.flink.api.common.state.v2.ValueState;
import org.apache.flink.api.common.state.v2.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.util.Collector;

/** Operators of the asynchronous state API: a function with states of all kinds and timers, and windows. */
final class AsyncJob {
    private AsyncJob() {}

    static void build(StreamExecutionEnvironment environment, String run) {
        DataStream<Tuple2<String, Long>> events = Jobs.ordered(environment, run, "async");
        Jobs.sink(events.keyBy(event -> event.f0).enableAsyncState().process(new Everything()).uid("async-everything"), run);
        Jobs.sink(events.keyBy(event -> event.f0).enableAsyncState().window(TumblingEventTimeWindows.of(Duration.ofMillis(700)))
                .aggregate(new Jobs.Count(), new Jobs.Label<>("async")).uid("async-windows"), run);
    }

    /** Tells every 400 ms of a key all that its states have. */
    private static final class Everything extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private static final long TELL = 400;
        private transient ValueState<Long> count;
        private transient MapState<Long, String> map;
        private transient ListState<Long> list;
        private transient ReducingState<Long> sum;
        private transient AggregatingState<Tuple2<String, Long>, Tuple2<String, Long>> counted;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
            map = getRuntimeContext().getMapState(new MapStateDescriptor<>("map", Types.LONG, Types.STRING));
            list = getRuntimeContext().getListState(new ListStateDescriptor<>("list", Types.LONG));
            sum = getRuntimeContext().getReducingState(new ReducingStateDescriptor<>("sum", Long::sum, Types.LONG));
            counted = getRuntimeContext().getAggregatingState(
                    new AggregatingStateDescriptor<>("counted", new Jobs.Count(), Types.LONG));
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Tuple2<String, String>> out) {
            context.timerService().registerEventTimeTimer(event.f1 / TELL * TELL + TELL);
            count.asyncValue().thenCompose(before -> count.asyncUpdate(before == null ? 1 : before + 1));
            map.asyncPut(event.f1 % 20, "v" + event.f1);
            if (event.f1 % 7 == 0) {
                map.asyncRemove(event.f1 % 13);
            }
            list.asyncAdd(event.f1);
            sum.asyncAdd(event.f1);
            counted.asyncAdd(event);
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) {
            String key = context.getCurrentKey();
            TreeMap<Long, String> entries = new TreeMap<>();
            List<Long> numbers = new ArrayList<>();
            map.asyncEntries()
                    .thenCompose(all -> all.onNext((Map.Entry<Long, String> entry) -> {
                        entries.put(entry.getKey(), entry.getValue());
                    }))
                    .thenCompose(done -> list.asyncGet())
                    .thenCompose(all -> all.onNext((Long number) -> {
                        numbers.add(number);
                    }))
                    .thenCompose(done -> count.asyncValue())
                    .thenCombine(sum.asyncGet(), (number, total) -> number + " with sum " + total)
                    .thenCombine(counted.asyncGet(), (text, all) -> text + " of " + all.f1)
                    .thenAccept(text -> {
                        out.collect(Tuple2.of("everything " + key + " at " + timestamp, entries + " " + numbers + " " + text));
                        list.asyncUpdate(List.of());
                    });
        }
    }
}
