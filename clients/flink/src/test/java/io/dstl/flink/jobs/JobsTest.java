package io.dstl.flink.jobs;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions.Inner;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.flink.configuration.Configuration;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Whole jobs on dstl, whose tasks and daemon fail meanwhile, beside the same jobs on Flink's heap, undisturbed. */
class JobsTest {
    private static Cluster cluster;
    @TempDir
    Path directory;

    @BeforeAll
    static void start() throws Exception {
        cluster = Cluster.start(new Configuration());
    }

    @AfterAll
    static void stop() throws Exception {
        cluster.close();
    }

    static Stream<String> jobs() {
        return Jobs.all().keySet().stream();
    }

    @ParameterizedTest
    @MethodSource("jobs")
    void results_are_those_of_the_heap_though_tasks_and_daemon_fail(String job) throws Exception {
        cluster.run(Cluster.onHeap(directory), 2, environment -> Jobs.all().get(job).accept(environment, "heap " + job), () -> { });
        Inner inner = Math.floorMod(job.hashCode(), 2) == 0 ? Inner.HASHMAP : Inner.ROCKSDB;
        String run = "dstl " + job;
        try (Daemon daemon = Daemon.start()) {
            Disturbance disturbance = new Disturbance(daemon, run);
            cluster.run(Cluster.onDstl(daemon, inner, directory), 2, environment -> Jobs.all().get(job).accept(environment, run),
                    disturbance);
            assertThat(disturbance.done()).as("disturbances").isGreaterThanOrEqualTo(2);
        }
        Map<String, String> expected = Cluster.RESULTS.get("heap " + job);
        assertThat(expected).isNotEmpty();
        Map<String, String> differing = new TreeMap<>(expected);
        Map<String, String> found = Cluster.RESULTS.get(run);
        found.forEach((key, value) -> differing.merge(key, value, (wanted, had) -> wanted.equals(had) ? null : wanted + ", but was " + had));
        assertThat(differing).as("results of one alone, or that differ").isEmpty();
    }
}
