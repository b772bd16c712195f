package io.dstl.examples;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ReadOnlyBroadcastState;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.streaming.api.datastream.BroadcastStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.co.KeyedBroadcastProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/**
 * Broadcast state: rules that arrive one after the other, and events that wait, in keyed state, for the rule of their kind. Rules are
 * operator state, which Flink keeps itself; the events that wait, and a timer for each user, are in dstl.
 */
public final class Rules {
    private static final int KINDS = 7;
    private static final MapStateDescriptor<Long, String> RULES = new MapStateDescriptor<>("rules", Types.LONG, Types.STRING);

    private Rules() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        DataGeneratorSource<Long> kinds = new DataGeneratorSource<>(kind -> kind, KINDS, RateLimiterStrategy.perSecond(1), Types.LONG);
        BroadcastStream<Tuple2<Long, String>> rules = environment
                .fromSource(kinds, WatermarkStrategy.noWatermarks(), "kinds").setParallelism(1)
                .map(kind -> Tuple2.of(kind, "rule-" + kind * 10)).returns(Types.TUPLE(Types.LONG, Types.STRING)).setParallelism(1)
                .broadcast(RULES);
        Common.write(Common.events(environment, options).keyBy(event -> event.f1).connect(rules).process(new Apply()), options);
        environment.execute("rules");
    }

    private static final class Apply
            extends KeyedBroadcastProcessFunction<String, Tuple3<Long, String, Long>, Tuple2<Long, String>, String> {
        private transient ListState<Tuple3<Long, String, Long>> waiting;

        @Override
        public void open(OpenContext context) {
            waiting = getRuntimeContext().getListState(
                    new ListStateDescriptor<>("waiting", Types.TUPLE(Types.LONG, Types.STRING, Types.LONG)));
        }

        @Override
        public void processBroadcastElement(Tuple2<Long, String> rule, Context context, Collector<String> lines) throws Exception {
            context.getBroadcastState(RULES).put(rule.f0, rule.f1);
        }

        @Override
        public void processElement(Tuple3<Long, String, Long> event, ReadOnlyContext context, Collector<String> lines)
                throws Exception {
            waiting.add(event);
            apply(context.getBroadcastState(RULES), lines);
            // The end of both inputs: the last events of a user may wait until then.
            context.timerService().registerEventTimeTimer(Long.MAX_VALUE - 1);
        }

        @Override
        public void onTimer(long time, OnTimerContext context, Collector<String> lines) throws Exception {
            apply(context.getBroadcastState(RULES), lines);
        }

        private void apply(ReadOnlyBroadcastState<Long, String> rules, Collector<String> lines) throws Exception {
            List<Tuple3<Long, String, Long>> still = new ArrayList<>();
            for (Tuple3<Long, String, Long> event : waiting.get()) {
                String rule = rules.get(event.f2 % KINDS);
                if (rule == null) {
                    still.add(event);
                } else {
                    lines.collect(event.f0 + " " + event.f1 + " " + rule);
                }
            }
            waiting.update(still);
        }
    }
}
