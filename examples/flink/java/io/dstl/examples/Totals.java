package io.dstl.examples;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ReducingState;
import org.apache.flink.api.common.state.ReducingStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/** Reducing state: the running total and the largest amount of each user. */
public final class Totals {
    private Totals() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Common.write(Common.events(environment, options).keyBy(event -> event.f1).process(new Total()), options);
        environment.execute("totals");
    }

    private static final class Total extends KeyedProcessFunction<String, Tuple3<Long, String, Long>, String> {
        private transient ReducingState<Long> total;
        private transient ReducingState<Long> largest;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getReducingState(new ReducingStateDescriptor<>("total", Long::sum, Types.LONG));
            largest = getRuntimeContext().getReducingState(new ReducingStateDescriptor<>("largest", Math::max, Types.LONG));
        }

        @Override
        public void processElement(Tuple3<Long, String, Long> event, Context context, Collector<String> lines) throws Exception {
            total.add(event.f2);
            largest.add(event.f2);
            lines.collect(event.f0 + " " + event.f1 + " total " + total.get() + " largest " + largest.get());
        }
    }
}
