package io.dstl.examples;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/** Map state: how often each user has seen each page, and how many pages that are. */
public final class PagesVisited {
    private PagesVisited() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Common.write(Common.events(environment, options).keyBy(event -> event.f1).process(new Visits()), options);
        environment.execute("pages visited");
    }

    private static final class Visits extends KeyedProcessFunction<String, Tuple3<Long, String, Long>, String> {
        private transient MapState<Long, Long> visits;

        @Override
        public void open(OpenContext context) {
            visits = getRuntimeContext().getMapState(new MapStateDescriptor<>("visits", Types.LONG, Types.LONG));
        }

        @Override
        public void processElement(Tuple3<Long, String, Long> event, Context context, Collector<String> lines) throws Exception {
            long page = event.f2 % 11;
            long count = visits.contains(page) ? visits.get(page) + 1 : 1;
            visits.put(page, count);
            int pages = 0;
            for (Long ignored : visits.keys()) {
                pages++;
            }
            lines.collect(event.f0 + " " + event.f1 + " page " + page + " visit " + count + " of " + pages + " pages");
        }
    }
}
