package io.dstl.examples;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/** List state: the amounts of a user, five at a time, in order of size. */
public final class FivesInOrder {
    private FivesInOrder() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Common.write(Common.events(environment, options).keyBy(event -> event.f1).process(new Fives()), options);
        environment.execute("fives in order");
    }

    private static final class Fives extends KeyedProcessFunction<String, Tuple3<Long, String, Long>, String> {
        private transient ListState<Long> amounts;

        @Override
        public void open(OpenContext context) {
            amounts = getRuntimeContext().getListState(new ListStateDescriptor<>("amounts", Types.LONG));
        }

        @Override
        public void processElement(Tuple3<Long, String, Long> event, Context context, Collector<String> lines) throws Exception {
            amounts.add(event.f2);
            List<Long> five = new ArrayList<>();
            amounts.get().forEach(five::add);
            if (five.size() == 5) {
                five.sort(null);
                lines.collect(event.f1 + " " + five);
                amounts.clear();
            }
        }
    }
}
