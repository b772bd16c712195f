package io.dstl.examples;

import java.time.Duration;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFlatMapFunction;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/** The average of every two pairs of a key; one that waits alone for longer than {@code --ttl-ms} is forgotten. */
public final class CountWindowAverage {
    private CountWindowAverage() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Duration ttl = Duration.ofMillis(options.getLong("ttl-ms", 60_000));
        Common.write(Common.pairs(environment, options).keyBy(pair -> pair.f0).flatMap(new Average(ttl))
                .map(average -> average.f0 + " " + average.f1).returns(Types.STRING), options);
        environment.execute("count window average");
    }

    private static final class Average extends RichFlatMapFunction<Tuple2<Long, Long>, Tuple2<Long, Long>> {
        private static final int WINDOW = 2;

        private final Duration ttl;
        private transient ValueState<Tuple2<Long, Long>> countAndSum;

        Average(Duration ttl) {
            this.ttl = ttl;
        }

        @Override
        public void open(OpenContext context) {
            ValueStateDescriptor<Tuple2<Long, Long>> descriptor =
                    new ValueStateDescriptor<>("count and sum", Types.TUPLE(Types.LONG, Types.LONG));
            descriptor.enableTimeToLive(StateTtlConfig.newBuilder(ttl)
                    .setUpdateType(StateTtlConfig.UpdateType.OnCreateAndWrite)
                    .setStateVisibility(StateTtlConfig.StateVisibility.NeverReturnExpired)
                    .build());
            countAndSum = getRuntimeContext().getState(descriptor);
        }

        @Override
        public void flatMap(Tuple2<Long, Long> pair, Collector<Tuple2<Long, Long>> averages) throws Exception {
            // A state with TTL has no default value.
            Tuple2<Long, Long> before = countAndSum.value();
            Tuple2<Long, Long> now = before == null ? Tuple2.of(1L, pair.f1) : Tuple2.of(before.f0 + 1, before.f1 + pair.f1);
            if (now.f0 < WINDOW) {
                countAndSum.update(now);
            } else {
                averages.collect(Tuple2.of(pair.f0, now.f1 / now.f0));
                countAndSum.clear();
            }
        }
    }
}
