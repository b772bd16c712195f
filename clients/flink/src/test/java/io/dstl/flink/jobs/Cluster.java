package io.dstl.flink.jobs;

import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** A Flink cluster in this process, and what jobs on it leave behind. */
final class Cluster implements AutoCloseable {
    /** Results by the name of the run: jobs put each key's final value, so that putting it twice changes nothing. */
    static final Map<String, Map<String, String>> RESULTS = new ConcurrentHashMap<>();
    /** Records that were processed, by run. */
    static final Map<String, AtomicLong> PROCESSED = new ConcurrentHashMap<>();
    /** Runs that shall fail at their next record. */
    static final Map<String, Boolean> FAIL = new ConcurrentHashMap<>();

    final MiniCluster cluster;

    private Cluster(MiniCluster cluster) {
        this.cluster = cluster;
    }

    /** Two TaskManagers of two slots. */
    static Cluster start(Configuration more) throws Exception {
        Configuration configuration = new Configuration();
        configuration.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(64));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(32));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(32));
        configuration.addAll(more);
        MiniCluster cluster = new MiniCluster(new MiniClusterConfiguration.Builder()
                .setConfiguration(configuration)
                .setNumTaskManagers(2)
                .setNumSlotsPerTaskManager(2)
                .withRandomPorts()
                .build());
        cluster.start();
        return new Cluster(cluster);
    }

    /** The configuration of a job on dstl. */
    static Configuration onDstl(Daemon daemon, DstlOptions.Inner inner, Path checkpoints) {
        Configuration configuration = onHeap(checkpoints);
        configuration.set(StateBackendOptions.STATE_BACKEND, "io.dstl.flink.DstlStateBackendFactory");
        configuration.set(DstlOptions.SOCKET, daemon.socket().toString());
        configuration.set(DstlOptions.INNER, inner);
        configuration.set(DstlOptions.CACHE_SIZE, MemorySize.ofMebiBytes(1));
        return configuration;
    }

    /** The same on Flink's heap. */
    static Configuration onHeap(Path checkpoints) {
        Configuration configuration = new Configuration();
        configuration.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        configuration.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, checkpoints.toUri().toString());
        configuration.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofMillis(200));
        configuration.set(CheckpointingOptions.TOLERABLE_FAILURE_NUMBER, 100);
        configuration.set(CheckpointingOptions.EXTERNALIZED_CHECKPOINT_RETENTION,
                ExternalizedCheckpointRetention.RETAIN_ON_CANCELLATION);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY, "fixed-delay");
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_ATTEMPTS, 1000);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_DELAY, Duration.ofMillis(300));
        return configuration;
    }

    /** Submits what {@code job} builds. */
    JobID submit(Configuration configuration, int parallelism, Consumer<StreamExecutionEnvironment> job) throws Exception {
        StreamExecutionEnvironment environment = new StreamExecutionEnvironment(configuration);
        environment.setParallelism(parallelism);
        environment.setMaxParallelism(32);
        job.accept(environment);
        JobGraph graph = environment.getStreamGraph().getJobGraph();
        cluster.submitJob(graph).get();
        return graph.getJobID();
    }

    /** Runs a job to its end; {@code disturb} is called again and again meanwhile. */
    void run(Configuration configuration, int parallelism, Consumer<StreamExecutionEnvironment> job, Runnable disturb)
            throws Exception {
        JobID id = submit(configuration, parallelism, job);
        finish(id, disturb);
    }

    void finish(JobID id, Runnable disturb) throws Exception {
        long until = System.nanoTime() + TimeUnit.MINUTES.toNanos(5);
        while (!cluster.getJobStatus(id).get().isGloballyTerminalState()) {
            disturb.run();
            Thread.sleep(50);
            if (System.nanoTime() > until) {
                throw new IllegalStateException("the job does not end: " + cluster.getExecutionGraph(id).get().getFailureInfo());
            }
        }
        if (cluster.getJobStatus(id).get() != JobStatus.FINISHED) {
            throw new IllegalStateException("the job ended as " + cluster.getJobStatus(id).get(),
                    cluster.requestJobResult(id).get().getSerializedThrowable().orElse(null));
        }
    }

    /** The path of a job's newest completed checkpoint. */
    String cancelAndGetCheckpoint(JobID id) throws Exception {
        String path = cluster.triggerCheckpoint(id).get();
        cluster.cancelJob(id).get();
        while (!cluster.getJobStatus(id).get().isGloballyTerminalState()) {
            Thread.sleep(20);
        }
        return path;
    }

    @Override
    public void close() throws Exception {
        cluster.close();
    }
}
