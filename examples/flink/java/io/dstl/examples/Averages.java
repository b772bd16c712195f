package io.dstl.examples;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichFlatMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/**
 * Running averages of the pairs of a socket, from the second one of a key on, with a checkpoint every 2 seconds. What was once
 * {@code env.setStateBackend(new FsStateBackend(uri))} is configuration in Flink 2, and here it names dstl.
 */
public final class Averages {
    private Averages() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        Configuration configuration = new Configuration();
        configuration.set(StateBackendOptions.STATE_BACKEND, "io.dstl.flink.DstlStateBackendFactory");
        configuration.setString("state.backend.dstl.inner", "hashmap");
        options.toMap().forEach((key, value) -> {
            if (key.startsWith("state.backend.dstl.") || key.equals(CheckpointingOptions.CHECKPOINTS_DIRECTORY.key())) {
                configuration.setString(key, value);
            }
        });
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        environment.enableCheckpointing(2000);
        Common.write(Common.pairs(environment, options).keyBy(pair -> pair.f0).flatMap(new Average())
                .map(average -> average.f0 + " " + average.f1).returns(Types.STRING), options);
        environment.execute("averages");
    }

    /** Count and sum of each key. */
    private static final class Average extends RichFlatMapFunction<Tuple2<Long, Long>, Tuple2<Long, Long>> {
        private transient ValueState<Tuple2<Long, Long>> countAndSum;

        @Override
        public void open(OpenContext context) {
            countAndSum = getRuntimeContext().getState(
                    new ValueStateDescriptor<>("count and sum", Types.TUPLE(Types.LONG, Types.LONG)));
        }

        @Override
        public void flatMap(Tuple2<Long, Long> pair, Collector<Tuple2<Long, Long>> averages) throws Exception {
            Tuple2<Long, Long> before = countAndSum.value();
            Tuple2<Long, Long> now = before == null ? Tuple2.of(1L, pair.f1) : Tuple2.of(before.f0 + 1, before.f1 + pair.f1);
            countAndSum.update(now);
            if (now.f0 >= 2) {
                averages.collect(Tuple2.of(pair.f0, now.f1 / now.f0));
            }
        }
    }
}
