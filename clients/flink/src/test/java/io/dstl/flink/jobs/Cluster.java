package io.dstl.flink.jobs;

import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import java.util.stream.StreamSupport;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExternalizedCheckpointRetention;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.RestOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.execution.ExecutionState;
import org.apache.flink.runtime.executiongraph.AccessExecutionGraph;
import org.apache.flink.runtime.highavailability.HighAvailabilityServices;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.jobgraph.JobResourceRequirements;
import org.apache.flink.runtime.minicluster.TestingMiniCluster;
import org.apache.flink.runtime.minicluster.TestingMiniClusterConfiguration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** A Flink cluster in this process, and what jobs on it leave behind. */
final class Cluster implements AutoCloseable {
    /** Results by the name of the run: jobs put each key's final value, so that putting it twice changes nothing. */
    static final Map<String, Map<String, String>> RESULTS = new ConcurrentHashMap<>();
    /** Records that were processed, by run. */
    static final Map<String, AtomicLong> PROCESSED = new ConcurrentHashMap<>();
    /** Runs that shall fail at their next record. */
    static final Map<String, Boolean> FAIL = new ConcurrentHashMap<>();

    final TestingMiniCluster cluster;

    private Cluster(TestingMiniCluster cluster) {
        this.cluster = cluster;
    }

    /** Two TaskManagers of two slots. */
    static Cluster start(Configuration more) throws Exception {
        return start(TestingMiniCluster.newBuilder(shape(more)));
    }

    /** The same, with services that can take the leadership away from its JobManager. */
    static Cluster start(Configuration more, HighAvailabilityServices services) throws Exception {
        return start(TestingMiniCluster.newBuilder(shape(more)).setHighAvailabilityServicesSupplier(() -> services));
    }

    private static Cluster start(TestingMiniCluster.Builder builder) throws Exception {
        TestingMiniCluster cluster = builder.build();
        cluster.start();
        return new Cluster(cluster);
    }

    private static TestingMiniClusterConfiguration shape(Configuration more) {
        Configuration configuration = new Configuration();
        configuration.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(64));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(32));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(32));
        configuration.addAll(more);
        configuration.set(RestOptions.BIND_PORT, "0");
        return TestingMiniClusterConfiguration.newBuilder()
                .setConfiguration(configuration)
                .setNumTaskManagers(2)
                .setNumSlotsPerTaskManager(2)
                .build();
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

    /** What {@code job} builds. */
    JobGraph graph(Configuration configuration, int parallelism, Consumer<StreamExecutionEnvironment> job) {
        StreamExecutionEnvironment environment = new StreamExecutionEnvironment(configuration);
        environment.setParallelism(parallelism);
        environment.setMaxParallelism(32);
        job.accept(environment);
        return environment.getStreamGraph().getJobGraph();
    }

    /** Submits what {@code job} builds. */
    JobID submit(Configuration configuration, int parallelism, Consumer<StreamExecutionEnvironment> job) throws Exception {
        JobGraph graph = graph(configuration, parallelism, job);
        cluster.submitJob(graph).get();
        return graph.getJobID();
    }

    /** Tells the adaptive scheduler between which parallelisms it may choose. */
    void require(JobID id, JobResourceRequirements requirements) throws Exception {
        cluster.getDispatcherGatewayFuture().get().updateJobResourceRequirements(id, requirements).get();
    }

    /** Waits until a run has processed so many records. */
    void awaitProcessed(String run, long records) throws Exception {
        await(records + " records", () -> PROCESSED.containsKey(run) && PROCESSED.get(run).get() >= records);
    }

    /** Waits until all tasks of a job run. */
    void awaitRunning(JobID id) throws Exception {
        await("running tasks", () -> {
            AccessExecutionGraph graph = cluster.getExecutionGraph(id).get();
            return graph.getState() == JobStatus.RUNNING && StreamSupport.stream(graph.getAllExecutionVertices().spliterator(), false)
                    .allMatch(vertex -> vertex.getExecutionState() == ExecutionState.RUNNING);
        });
    }

    void await(String what, Callable<Boolean> condition) throws Exception {
        long until = System.nanoTime() + TimeUnit.MINUTES.toNanos(2);
        while (!condition.call()) {
            if (System.nanoTime() > until) {
                throw new IllegalStateException("not within 2 minutes: " + what);
            }
            Thread.sleep(20);
        }
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

    @Override
    public void close() throws Exception {
        cluster.close();
    }
}
