package io.dstl.examples;

import java.time.Duration;
import java.util.List;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.CheckpointListener;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.source.legacy.RichParallelSourceFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.ParameterTool;

/**
 * The state backend and every setting of checkpoints in the program, on a source that keeps its own position (operator state, which Flink
 * keeps itself) and says when a checkpoint has completed.
 */
public final class CheckpointSettings {
    private CheckpointSettings() {}

    public static void main(String[] arguments) throws Exception {
        ParameterTool options = ParameterTool.fromArgs(arguments);
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
        Configuration configuration = new Configuration();
        configuration.set(StateBackendOptions.STATE_BACKEND, "io.dstl.flink.DstlStateBackendFactory");
        configuration.setString("state.backend.dstl.inner", "rocksdb");
        configuration.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofMillis(700));
        configuration.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        configuration.set(CheckpointingOptions.MIN_PAUSE_BETWEEN_CHECKPOINTS, Duration.ofMillis(200));
        configuration.set(CheckpointingOptions.CHECKPOINTING_TIMEOUT, Duration.ofMinutes(1));
        configuration.set(CheckpointingOptions.MAX_CONCURRENT_CHECKPOINTS, 1);
        configuration.set(CheckpointingOptions.TOLERABLE_FAILURE_NUMBER, 10);
        configuration.set(CheckpointingOptions.MAX_RETAINED_CHECKPOINTS, 3);
        configuration.set(CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        environment.configure(configuration);
        long end = options.getLong("events", 20_000);
        Common.write(environment.addSource(new Counter(end, options.getLong("per-second", 2_000)), Types.LONG).setParallelism(2)
                .keyBy(number -> number % 53).process(new Numbering()), options);
        environment.execute("checkpoint settings");
    }

    /** Numbers below {@code end}: each subtask has every second, or third, or so on. */
    private static final class Counter extends RichParallelSourceFunction<Long> implements CheckpointedFunction, CheckpointListener {
        private final long end;
        private final long perSecond;
        private transient ListState<Long> kept;
        private long next;
        private volatile boolean isRunning;

        Counter(long end, long perSecond) {
            this.end = end;
            this.perSecond = perSecond;
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            kept = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("next", Types.LONG));
            next = getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
            for (Long before : kept.get()) {
                next = before;
            }
            isRunning = true;
        }

        @Override
        public void run(SourceContext<Long> context) throws Exception {
            int step = getRuntimeContext().getTaskInfo().getNumberOfParallelSubtasks();
            while (isRunning && next < end) {
                // A checkpoint comes between two numbers, not between a number and its successor.
                synchronized (context.getCheckpointLock()) {
                    context.collect(next);
                    next += step;
                }
                Thread.sleep(0, (int) (step * 1_000_000_000L / perSecond % 1_000_000));
                Thread.sleep(step * 1000L / perSecond);
            }
        }

        @Override
        public void cancel() {
            isRunning = false;
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            kept.update(List.of(next));
        }

        @Override
        public void notifyCheckpointComplete(long checkpoint) {
            System.out.println("checkpoint " + checkpoint + " has completed");
        }
    }

    private static final class Numbering extends KeyedProcessFunction<Long, Long, String> {
        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(Long number, Context context, Collector<String> lines) throws Exception {
            Long before = count.value();
            count.update(before == null ? 1L : before + 1);
            lines.collect(context.getCurrentKey() + " " + count.value());
        }
    }
}
