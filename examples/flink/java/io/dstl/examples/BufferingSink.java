package io.dstl.examples;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.legacy.RichSinkFunction;
import org.apache.flink.util.ParameterTool;

/**
 * A sink that gathers rows and writes fifty at once. What it has gathered is operator state, which Flink keeps itself on any keyed state
 * backend. Each row is written at least once.
 */
public final class BufferingSink {
    private BufferingSink() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        environment.enableCheckpointing(500);
        Common.events(environment, options).keyBy(event -> event.f1)
                .addSink(new Buffer(50, options.getRequired("output"))).setParallelism(2);
        environment.execute("buffering sink");
    }

    private static final class Buffer extends RichSinkFunction<Tuple3<Long, String, Long>> implements CheckpointedFunction {
        private final int threshold;
        private final String directory;
        private transient List<Tuple3<Long, String, Long>> gathered;
        private transient ListState<Tuple3<Long, String, Long>> kept;

        Buffer(int threshold, String directory) {
            this.threshold = threshold;
            this.directory = directory;
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            kept = context.getOperatorStateStore().getListState(
                    new ListStateDescriptor<>("gathered", Types.TUPLE(Types.LONG, Types.STRING, Types.LONG)));
            // Empty, unless the job was restored.
            gathered = new ArrayList<>();
            kept.get().forEach(gathered::add);
        }

        @Override
        public void invoke(Tuple3<Long, String, Long> row, Context context) throws IOException {
            gathered.add(row);
            if (gathered.size() >= threshold) {
                write();
            }
        }

        @Override
        public void finish() throws IOException {
            write();
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            kept.update(gathered);
        }

        private void write() throws IOException {
            StringBuilder lines = new StringBuilder();
            gathered.forEach(row -> lines.append(row.f0).append(' ').append(row.f1).append(' ').append(row.f2).append('\n'));
            Path file = Path.of(directory, "rows-" + getRuntimeContext().getTaskInfo().getIndexOfThisSubtask());
            Files.createDirectories(file.getParent());
            Files.writeString(file, lines, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            gathered.clear();
        }
    }
}
