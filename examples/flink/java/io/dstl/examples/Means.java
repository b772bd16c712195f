package io.dstl.examples;

import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.AggregatingState;
import org.apache.flink.api.common.state.AggregatingStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/** Aggregating state: the mean amount of each user, in thousandths; what is kept is a sum and a count. */
public final class Means {
    private Means() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Common.write(Common.events(environment, options).keyBy(event -> event.f1).process(new Mean()), options);
        environment.execute("means");
    }

    private static final class Mean extends KeyedProcessFunction<String, Tuple3<Long, String, Long>, String> {
        private transient AggregatingState<Long, Long> mean;

        @Override
        public void open(OpenContext context) {
            mean = getRuntimeContext().getAggregatingState(
                    new AggregatingStateDescriptor<>("mean", new Thousandths(), Types.TUPLE(Types.LONG, Types.LONG)));
        }

        @Override
        public void processElement(Tuple3<Long, String, Long> event, Context context, Collector<String> lines) throws Exception {
            mean.add(event.f2);
            lines.collect(event.f0 + " " + event.f1 + " mean " + mean.get());
        }
    }

    private static final class Thousandths implements AggregateFunction<Long, Tuple2<Long, Long>, Long> {
        @Override
        public Tuple2<Long, Long> createAccumulator() {
            return Tuple2.of(0L, 0L);
        }

        @Override
        public Tuple2<Long, Long> add(Long amount, Tuple2<Long, Long> sumAndCount) {
            return Tuple2.of(sumAndCount.f0 + amount, sumAndCount.f1 + 1);
        }

        @Override
        public Long getResult(Tuple2<Long, Long> sumAndCount) {
            return 1000 * sumAndCount.f0 / sumAndCount.f1;
        }

        @Override
        public Tuple2<Long, Long> merge(Tuple2<Long, Long> one, Tuple2<Long, Long> other) {
            return Tuple2.of(one.f0 + other.f0, one.f1 + other.f1);
        }
    }
}
