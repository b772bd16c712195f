package io.dstl.flink.jobs;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions.Inner;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import org.apache.flink.api.common.JobID;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.runtime.checkpoint.CheckpointsCleaner;
import org.apache.flink.runtime.checkpoint.CompletedCheckpoint;
import org.apache.flink.runtime.checkpoint.PerJobCheckpointRecoveryFactory;
import org.apache.flink.runtime.checkpoint.StandaloneCompletedCheckpointStore;
import org.apache.flink.runtime.execution.ExecutionState;
import org.apache.flink.runtime.executiongraph.AccessExecutionGraph;
import org.apache.flink.runtime.executiongraph.AccessExecutionVertex;
import org.apache.flink.runtime.highavailability.nonha.embedded.EmbeddedHaServicesWithLeadershipControl;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.jobgraph.JobResourceRequirements;
import org.apache.flink.runtime.jobgraph.JobVertex;
import org.apache.flink.runtime.state.SharedStateRegistryFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A JobManager that is replaced, whose numbers of attempts begin anew; and a scheduler that changes the parallelism as it runs. */
class FailOverTest {
    private static final String JOB = "process";

    @TempDir
    Path directory;

    @Test
    void the_tasks_of_a_new_job_manager_restore_though_their_attempts_are_those_of_the_old_one() throws Exception {
        ScheduledExecutorService executor = Executors.newSingleThreadScheduledExecutor();
        EmbeddedHaServicesWithLeadershipControl services = new EmbeddedHaServicesWithLeadershipControl(executor,
                new PerJobCheckpointRecoveryFactory<Kept>((most, before, registries, io, claim) ->
                        new Kept(most, before, registries, io, claim)));
        String run = "job manager";
        try (Daemon daemon = Daemon.start(); Cluster cluster = Cluster.start(new Configuration(), services)) {
            cluster.run(Cluster.onHeap(directory), 2, environment -> Jobs.all().get(JOB).accept(environment, "heap " + run), () -> { });
            JobID job = cluster.submit(Cluster.onDstl(daemon, Inner.HASHMAP, directory), 2,
                    environment -> Jobs.all().get(JOB).accept(environment, run));
            for (int third = 1; third <= 2; third++) {
                cluster.awaitProcessed(run, (long) Jobs.EVENTS * third / 3);
                assertThat(attempts(cluster, job)).containsOnly(0);
                services.revokeJobMasterLeadership(job).get();
                services.grantJobMasterLeadership(job).get();
                cluster.awaitRunning(job);
            }
            cluster.finish(job, () -> { });
        } finally {
            executor.shutdownNow();
        }
        assertThat(Cluster.RESULTS.get(run)).isEqualTo(Cluster.RESULTS.get("heap " + run));
    }

    private static List<Integer> attempts(Cluster cluster, JobID job) throws Exception {
        AccessExecutionGraph graph = cluster.cluster.getExecutionGraph(job).get();
        return java.util.stream.StreamSupport.stream(graph.getAllExecutionVertices().spliterator(), false)
                .map(vertex -> vertex.getCurrentExecutionAttempt().getAttemptNumber()).distinct().toList();
    }

    /** What a highly available JobManager keeps: the next one finds it. */
    private static final class Kept extends StandaloneCompletedCheckpointStore {
        private final Deque<CompletedCheckpoint> kept = new ArrayDeque<>();

        Kept(int most, Kept before, SharedStateRegistryFactory registries, Executor io, RecoveryClaimMode claim) {
            super(most, registries, io, claim);
            try {
                for (CompletedCheckpoint checkpoint : before == null ? List.<CompletedCheckpoint>of() : List.copyOf(before.kept)) {
                    addCheckpointAndSubsumeOldestOne(checkpoint, new CheckpointsCleaner(), () -> { });
                }
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public CompletedCheckpoint addCheckpointAndSubsumeOldestOne(CompletedCheckpoint checkpoint, CheckpointsCleaner cleaner,
                Runnable then) throws Exception {
            kept.add(checkpoint);
            while (kept.size() > getMaxNumberOfRetainedCheckpoints()) {
                kept.remove();
            }
            return super.addCheckpointAndSubsumeOldestOne(checkpoint, cleaner, then);
        }
    }

    @Test
    void the_adaptive_scheduler_scales_up_and_down_and_every_timer_fires_once() throws Exception {
        Configuration adaptive = new Configuration();
        adaptive.setString("jobmanager.scheduler", "adaptive");
        adaptive.setString("jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling", "0 s");
        adaptive.setString("jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout", "0 s");
        String run = "adaptive";
        try (Daemon daemon = Daemon.start(); Cluster cluster = Cluster.start(adaptive)) {
            cluster.run(Cluster.onHeap(directory), 2, environment -> Jobs.all().get(JOB).accept(environment, "heap " + run), () -> { });
            JobGraph graph = cluster.graph(Cluster.onDstl(daemon, Inner.ROCKSDB, directory), 2,
                    environment -> Jobs.all().get(JOB).accept(environment, run));
            JobID job = graph.getJobID();
            cluster.cluster.submitJob(graph).get();
            int step = 0;
            for (int parallelism : new int[] {4, 1, 3}) {
                cluster.awaitProcessed(run, (long) Jobs.EVENTS * ++step / 4);
                cluster.require(job, requirements(graph, parallelism));
                cluster.await("parallelism " + parallelism, () -> parallelism(cluster, job) == parallelism);
            }
            cluster.finish(job, () -> { });
        }
        assertThat(Cluster.RESULTS.get(run)).isEqualTo(Cluster.RESULTS.get("heap " + run));
    }

    /** Sources, which run alone, stay so. */
    private static JobResourceRequirements requirements(JobGraph graph, int parallelism) {
        JobResourceRequirements.Builder requirements = JobResourceRequirements.newBuilder();
        for (JobVertex vertex : graph.getVertices()) {
            requirements.setParallelismForJobVertex(vertex.getID(), 1, vertex.getParallelism() == 1 ? 1 : parallelism);
        }
        return requirements.build();
    }

    /** Of the keyed operator, once all of its tasks run; else 0. */
    private static int parallelism(Cluster cluster, JobID job) throws Exception {
        int running = 0;
        for (AccessExecutionVertex vertex : cluster.cluster.getExecutionGraph(job).get().getAllExecutionVertices()) {
            if (vertex.getExecutionState() != ExecutionState.RUNNING) {
                return 0;
            }
            running = Math.max(running, vertex.getParallelSubtaskIndex() + 1);
        }
        return running;
    }
}
