package io.dstl.flink.jobs;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.Daemon;
import io.dstl.flink.Processes;
import io.dstl.flink.ResultFiles;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.streaming.api.environment.RemoteStreamEnvironment;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.CleanupMode;
import org.junit.jupiter.api.io.TempDir;

/**
 * All jobs at once on a cluster of processes, two TaskManagers and a daemon beside each, which are killed and stopped at random. Flink's
 * heap, undisturbed, is the model. {@code DSTL_KILLS_SEED} and {@code DSTL_KILLS} (how many) choose.
 */
@Tag("long")
class KillsTest {
    private static final int KILLS = Integer.parseInt(System.getenv().getOrDefault("DSTL_KILLS", "8"));

    @TempDir(cleanup = CleanupMode.ON_SUCCESS)
    Path directory;

    private final List<Daemon> daemons = new ArrayList<>();
    private final Process[] taskManagers = new Process[2];
    private Processes cluster;
    private String job;
    private int starts;

    @Test
    void jobs_of_all_kinds_have_the_results_of_the_heap_though_processes_are_killed_at_random() throws Exception {
        String given = System.getenv("DSTL_KILLS_SEED");
        long seed = given == null ? System.nanoTime() % 1_000_000 : Long.parseLong(given);
        List<String> done = new ArrayList<>(List.of("seed " + seed));
        Path results = Files.createDirectories(directory.resolve("results"));
        cluster = new Processes(directory, settings());
        try {
            cluster.startJobManager();
            for (int i = 0; i < taskManagers.length; i++) {
                daemons.add(Daemon.startIn(Files.createDirectories(directory.resolve("d" + i)), directory.resolve("store")));
                startTaskManager(i);
                cluster.awaitTaskManagers(i + 1);
            }
            submit(results);
            Random random = new Random(seed);
            for (int kill = 0; kill < KILLS; kill++) {
                if (random.nextInt(3) > 0) {
                    await("running, after " + done, this::running);
                }
                Thread.sleep(1000 + random.nextInt(5000));
                done.add(disturb(random));
            }
            Files.createFile(results.resolve("go"));
            await("finished, after " + done, () -> state().equals("FINISHED"));
        } finally {
            cluster.close();
            daemons.forEach(Daemon::kill);
        }
        compare(results, done);
    }

    private Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put("state.backend.type", "io.dstl.flink.DstlStateBackendFactory");
        settings.put("state.backend.dstl.cache.size", "1 mb");
        settings.put("execution.checkpointing.dir", directory.resolve("checkpoints").toUri().toString());
        settings.put("execution.checkpointing.interval", "500 ms");
        settings.put("execution.checkpointing.tolerable-failed-checkpoints", "100");
        settings.put("restart-strategy.type", "fixed-delay");
        // Without a TaskManager, each of some dozen regions tries twice a second.
        settings.put("restart-strategy.fixed-delay.attempts", Integer.toString(Integer.MAX_VALUE));
        settings.put("restart-strategy.fixed-delay.delay", "500 ms");
        settings.put("web.refresh-interval", "200 ms");
        return settings;
    }

    private void submit(Path results) throws Exception {
        StreamExecutionEnvironment environment = new RemoteStreamEnvironment("127.0.0.1", cluster.restPort(),
                Configuration.fromMap(settings()), null, null);
        environment.setParallelism(2);
        environment.setMaxParallelism(32);
        for (String name : Jobs.all().keySet()) {
            Path run = Files.createDirectories(results.resolve(name.replace(' ', '-')));
            Jobs.all().get(name).accept(environment, run.toString());
        }
        job = environment.executeAsync("all").getJobID().toHexString();
    }

    private void startTaskManager(int index) throws Exception {
        taskManagers[index] = cluster.startTaskManager("taskmanager-" + index + "-" + starts++,
                Map.of("state.backend.dstl.socket", daemons.get(index).socket().toString()));
    }

    /** One of them; what was done. */
    private String disturb(Random random) throws Exception {
        int index = random.nextInt(taskManagers.length);
        switch (random.nextInt(5)) {
            case 0 -> {
                taskManagers[index].destroyForcibly().waitFor();
                startTaskManager(index);
                return "TaskManager " + index + " killed";
            }
            case 1 -> {
                daemons.get(index).kill();
                daemons.get(index).start(true);
                return "daemon " + index + " killed";
            }
            case 2 -> {
                daemons.get(index).kill();
                taskManagers[index].destroyForcibly().waitFor();
                daemons.get(index).start(true);
                startTaskManager(index);
                return "both " + index + " killed";
            }
            case 3 -> {
                // Longer than the JobManager waits: it restarts the tasks, and the old ones wake up beside them.
                Daemon.signal(taskManagers[index].pid(), "STOP");
                replaceStopped(index);
                return "TaskManager " + index + " stopped, replaced and continued";
            }
            default -> {
                daemons.get(index).signal("STOP");
                Thread.sleep(random.nextInt(4000));
                daemons.get(index).signal("CONT");
                return "daemon " + index + " stopped for a while";
            }
        }
    }

    /** Another one on the same daemon, in the place of one that is stopped; that one goes on once nobody waits for it, and is ended. */
    private void replaceStopped(int index) throws Exception {
        Process stopped = taskManagers[index];
        startTaskManager(index);
        await("running without the stopped TaskManager", () -> running() && taskManagerCount() == taskManagers.length);
        Daemon.signal(stopped.pid(), "CONT");
        Thread.sleep(3000);
        stopped.destroyForcibly().waitFor();
    }

    private int taskManagerCount() throws Exception {
        return cluster.get("/overview").get("taskmanagers").asInt();
    }

    private String state() throws Exception {
        return cluster.get("/jobs/" + job).get("state").asText();
    }

    private boolean running() throws Exception {
        JsonNode status = cluster.get("/jobs/" + job);
        boolean running = status.get("state").asText().equals("RUNNING");
        for (JsonNode vertex : status.get("vertices")) {
            running &= List.of("RUNNING", "FINISHED").contains(vertex.get("status").asText());
        }
        return running;
    }

    private void await(String what, Callable<Boolean> condition) throws Exception {
        long until = System.nanoTime() + TimeUnit.MINUTES.toNanos(8);
        while (!condition.call()) {
            if (state().equals("FAILED") || System.nanoTime() > until) {
                cluster.explain(job);
                throw new IllegalStateException("not within 8 minutes: " + what + "; the job is " + state() + "; logs are in "
                        + directory + ": " + cluster.get("/jobs/" + job + "/exceptions?maxExceptions=3"));
            }
            Thread.sleep(100);
        }
    }

    private void compare(Path results, List<String> done) throws Exception {
        try (Cluster heap = Cluster.start(new Configuration())) {
            for (String name : Jobs.all().keySet()) {
                String run = "heap of kills " + name;
                heap.run(Cluster.onHeap(directory), 2, environment -> Jobs.all().get(name).accept(environment, run), () -> { });
                assertThat(ResultFiles.read(results.resolve(name.replace(' ', '-')))).as(name + " after " + done)
                        .isNotEmpty().isEqualTo(Cluster.RESULTS.get(run));
            }
        }
    }
}
