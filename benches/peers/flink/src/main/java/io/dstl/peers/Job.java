package io.dstl.peers;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.checkpoint.AbstractCheckpointStats;
import org.apache.flink.runtime.checkpoint.CompletedCheckpointStats;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * A saturated job of one task in a cluster of one process, with a checkpoint each second: {@code work=update} writes
 * values of random bytes under 8-byte keys, {@code work=rmw} reads counters and writes them. Every key is filled first;
 * then keys are uniform. One window is measured, after a warm-up, and printed as one line of JSON.
 *
 * <p>The changelog materializes nothing: dstl does, under the same work. Flink does not sync checkpoints on a local
 * disk.
 *
 * <pre>{@code
 * Job folder=PATH [work=update|rmw] [backend=hashmap|rocksdb] [changelog=true|false] [keys=1000000] [valueBytes=100]
 *     [warmUp=4] [seconds=10] [managed=512 mb]
 * }</pre>
 */
public final class Job {
    /** How often the job is looked at. */
    private static final long POLL_MS = 50;
    /** After so long, the last checkpoint that a window triggered has ended. */
    private static final long LAST_CHECKPOINT_MS = 1500;
    /** The operations that the one task of this process has done, in steps of {@link #STEP}. */
    private static volatile long done;
    private static final int STEP = 32;

    private Job() {}

    /**
     * Measures one configuration.
     *
     * @param arguments pairs of name and value, as above
     */
    public static void main(String[] arguments) {
        Run.main(arguments, Job::measure);
    }

    private static String measure(Run run) throws Exception {
        Configuration configuration = run.configuration();
        configuration.setString("taskmanager.memory.managed.size", run.argument("managed", "512 mb"));
        configuration.setString("taskmanager.memory.network.min", "64m");
        configuration.setString("taskmanager.memory.network.max", "64m");
        MiniCluster cluster = new MiniCluster(new MiniClusterConfiguration.Builder().setConfiguration(configuration)
                .setNumTaskManagers(1).setNumSlotsPerTaskManager(1).withRandomPorts().build());
        cluster.start();
        JobID job = submit(run, cluster, configuration);
        while (done < run.keys) {
            sleep(cluster, job, POLL_MS);
        }
        sleep(cluster, job, run.warmUpNanos / 1_000_000);

        Run.Window window = new Run.Window(done);
        sleep(cluster, job, run.windowNanos / 1_000_000);
        Run.Measured measured = window.end(done);
        long ended = System.currentTimeMillis();
        sleep(cluster, job, LAST_CHECKPOINT_MS);
        return measured.line(checkpoints(cluster, job, window.beganMillis, ended));
    }

    private static JobID submit(Run run, MiniCluster cluster, Configuration configuration) throws Exception {
        StreamExecutionEnvironment environment = new StreamExecutionEnvironment(configuration);
        environment.setParallelism(1);
        environment.setMaxParallelism(128);
        long keys = run.keys;
        var numbers = new NumberSequenceSource(0, Long.MAX_VALUE / 4);
        environment.fromSource(numbers, WatermarkStrategy.noWatermarks(), "numbers")
                .keyBy(number -> Run.key(number, keys), Types.LONG).process(new Task(run.counts, run.valueBytes))
                .returns(Types.LONG);
        var graph = environment.getStreamGraph().getJobGraph();
        cluster.submitJob(graph).get();
        return graph.getJobID();
    }

    /** Sleeps while the job runs, and fails when it does not. */
    private static void sleep(MiniCluster cluster, JobID job, long milliseconds) throws Exception {
        Thread.sleep(milliseconds);
        JobStatus status = cluster.getJobStatus(job).get();
        if (status.isTerminalState() || status == JobStatus.FAILING) {
            throw new IllegalStateException("the job is " + status,
                    cluster.requestJobResult(job).get().getSerializedThrowable().orElse(null));
        }
    }

    /** Durations in milliseconds of the checkpoints that were triggered in this time. */
    private static List<Double> checkpoints(MiniCluster cluster, JobID job, long from, long to) throws Exception {
        List<Double> durations = new ArrayList<>();
        var history = cluster.getExecutionGraph(job).get().getCheckpointStatsSnapshot().getHistory();
        for (AbstractCheckpointStats stats : history.getCheckpoints()) {
            boolean isInside = stats.getTriggerTimestamp() >= from && stats.getTriggerTimestamp() <= to;
            if (stats instanceof CompletedCheckpointStats && isInside) {
                durations.add((double) stats.getEndToEndDuration());
            }
        }
        return durations;
    }

    private static final class Task extends KeyedProcessFunction<Long, Long, Long> {
        private static final long serialVersionUID = 1;
        private final boolean counts;
        private final int valueBytes;
        private transient ValueState<byte[]> value;
        private transient ValueState<Long> counter;
        private transient Run.Values values;
        private transient long count;

        Task(boolean counts, int valueBytes) {
            this.counts = counts;
            this.valueBytes = valueBytes;
        }

        @Override
        public void open(OpenContext context) {
            if (counts) {
                counter = getRuntimeContext().getState(new ValueStateDescriptor<>("counter", Types.LONG));
            } else {
                value = getRuntimeContext().getState(
                        new ValueStateDescriptor<>("value", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
            }
            values = new Run.Values(valueBytes);
        }

        @Override
        public void processElement(Long number, Context context, Collector<Long> out) throws Exception {
            if (counts) {
                Long before = counter.value();
                counter.update(before == null ? 1L : before + 1);
            } else {
                value.update(values.value(number));
            }
            if (++count % STEP == 0) {
                done = count;
            }
        }
    }
}
