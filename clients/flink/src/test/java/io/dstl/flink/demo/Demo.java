package io.dstl.flink.demo;

import io.dstl.flink.Daemon;
import io.dstl.flink.Processes;
import io.dstl.flink.ResultFiles;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.runtime.jobgraph.SavepointRestoreSettings;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.streaming.api.environment.RemoteStreamEnvironment;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * A small cluster as processes, whose TaskManagers and daemons are killed with -9 while it counts words: each alone, then both. One
 * TaskManager is stopped (SIGSTOP), replaced, and goes on when nobody wants it any more. The job is rescaled 2 -> 3 -> 2, and started again
 * from a retained checkpoint, with NO_CLAIM and with CLAIM. Every result is compared at the end. The same on Flink's own backends follows,
 * where there are no daemons to kill, and NO_CLAIM is not possible with a changelog; wrong results of theirs are counted, and are no error.
 *
 * <p>Arguments: the text, lines in all, lines per second; then names of {@link Backend}s in lower case, in the order in which they run: those of
 * {@code dstl} and {@code changelog} where none is named.
 */
public final class Demo implements AutoCloseable {
    /** Where the job's state is. */
    enum Backend {
        DSTL("dstl", Map.of("state.backend.type", "io.dstl.flink.DstlStateBackendFactory")),
        CHANGELOG("RocksDB + changelog", Map.of("state.backend.type", "rocksdb", "execution.checkpointing.incremental", "true",
                "state.changelog.enabled", "true", "state.changelog.storage", "filesystem")),
        ROCKSDB("RocksDB", Map.of("state.backend.type", "rocksdb", "execution.checkpointing.incremental", "true")),
        HEAP("heap", Map.of("state.backend.type", "hashmap"));

        private final String title;
        private final Map<String, String> settings;

        Backend(String title, Map<String, String> settings) {
            this.title = title;
            this.settings = settings;
        }
    }

    private final Backend backend;
    private final boolean dstl;
    private final Path directory;
    private final Path text;
    private final Path results;
    private final long lines;
    private final int perSecond;
    private final Processes cluster;
    private final List<Daemon> daemons = new ArrayList<>();
    private final Process[] taskManagers = new Process[3];
    private final String[] names = new String[3];
    private final List<Long> recoveries = new ArrayList<>();
    private final List<Long> checkpoints = new ArrayList<>();
    private double wordsPerSecond;
    private String job;
    private int starts;
    private boolean right;

    private Demo(Backend backend, Path text, long lines, int perSecond) throws Exception {
        this.backend = backend;
        this.dstl = backend == Backend.DSTL;
        this.text = text;
        this.lines = lines;
        this.perSecond = perSecond;
        this.directory = Files.createTempDirectory("demo-flink-" + backend.name().toLowerCase(Locale.ROOT));
        this.results = Files.createDirectories(directory.resolve("results"));
        this.cluster = new Processes(directory, settings());
        // Nothing runs on when somebody interrupts the demo.
        Runtime.getRuntime().addShutdownHook(new Thread(this::stop));
    }

    /**
     * Runs all that are named and prints the table.
     *
     * @param arguments see above
     */
    public static void main(String[] arguments) {
        int code = 0;
        try {
            Path text = Path.of(arguments[0]);
            long lines = Long.parseLong(arguments[1]);
            int perSecond = Integer.parseInt(arguments[2]);
            List<Backend> backends = arguments.length == 3
                    ? List.of(Backend.DSTL, Backend.CHANGELOG)
                    : Stream.of(arguments).skip(3).map(name -> Backend.valueOf(name.toUpperCase(Locale.ROOT))).toList();
            List<String> table = new ArrayList<>(List.of(
                    "| state backend | words/s at the end | checkpoint p50 / p99 ms (n) | recoveries ms | results |",
                    "| --- | --- | --- | --- | --- |"));
            for (Backend backend : backends) {
                try {
                    table.add(run(backend, text, lines, perSecond));
                } catch (IllegalStateException e) {
                    if (backend == Backend.DSTL) {
                        throw e;
                    }
                    table.add("| " + backend.title + " | | | | FAILED: " + e.getMessage() + " |");
                }
            }
            table.forEach(System.out::println);
            if (backends.contains(Backend.DSTL)) {
                System.out.println("demo: every result of dstl is right, none is missing, none is there twice with two values");
            }
        } catch (Exception e) {
            e.printStackTrace();
            System.out.println("demo: FAILED, " + e.getMessage());
            code = 1;
        }
        System.exit(code);
    }

    /** One line of the table. Throws if anything of dstl is not as it must be. */
    static String run(Backend backend, Path text, long lines, int perSecond) throws Exception {
        Map<String, String> expected = DemoJob.expected(text, lines);
        try (Demo demo = new Demo(backend, text, lines, perSecond)) {
            demo.run();
            return demo.compare(expected);
        }
    }

    private Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put("jobmanager.scheduler", "adaptive");
        settings.put("jobmanager.adaptive-scheduler.submission.resource-wait-timeout", "5 min");
        settings.put("jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling", "1 s");
        settings.put("jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout", "1 s");
        settings.put("execution.checkpointing.dir", directory.resolve("checkpoints").toUri().toString());
        settings.put("execution.checkpointing.interval", "500 ms");
        settings.put("execution.checkpointing.num-retained", "3");
        settings.put("execution.checkpointing.tolerable-failed-checkpoints", "10");
        settings.put("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        settings.put("restart-strategy.type", "fixed-delay");
        settings.put("restart-strategy.fixed-delay.attempts", "1000");
        settings.put("restart-strategy.fixed-delay.delay", "500 ms");
        settings.put("web.checkpoints.history", "1000");
        // The demo measures by what is asked here.
        settings.put("web.refresh-interval", "200 ms");
        settings.put("metrics.fetcher.update-interval", "500 ms");
        settings.putAll(backend.settings);
        if (backend == Backend.CHANGELOG) {
            settings.put("state.changelog.dstl.dfs.base-path", directory.resolve("log").toUri().toString());
        }
        return settings;
    }

    private void run() throws Exception {
        say("starts: a JobManager, three TaskManagers of one slot, two of them at first" + (dstl ? ", a daemon each" : ""));
        cluster.startJobManager();
        for (int i = 0; i < 3; i++) {
            if (dstl) {
                daemons.add(Daemon.startIn(Files.createDirectories(directory.resolve("daemon-" + i)), directory.resolve("store")));
            }
            startTaskManager(i);
            cluster.awaitTaskManagers(i + 1);
        }
        submit(null, null);
        disturb("a TaskManager is killed", () -> killTaskManager(busy()));
        if (dstl) {
            disturb("a daemon is killed", () -> killDaemon(busy()));
            disturb("a TaskManager and its daemon are killed", () -> {
                int index = busy();
                daemons.get(index).kill();
                taskManagers[index].destroyForcibly().waitFor();
                daemons.get(index).start(true);
                startTaskManager(index);
            });
        }
        int stopped = busy();
        disturb("a TaskManager is stopped, until the other ones have taken over", () ->
                Daemon.signal(taskManagers[stopped].pid(), "STOP"));
        awaitCheckpoints(1);
        Daemon.signal(taskManagers[stopped].pid(), "CONT");
        rescale(3);
        rescale(2);
        restart(backend == Backend.CHANGELOG ? "CLAIM" : "NO_CLAIM");
        disturb("a TaskManager is killed", () -> killTaskManager(busy()));
        restart("CLAIM");
        finish();
    }

    /** A TaskManager that has a task. */
    private int busy() throws IOException {
        Set<String> busy = new HashSet<>();
        for (JsonNode vertex : cluster.get("/jobs/" + job).get("vertices")) {
            for (JsonNode subtask : cluster.get("/jobs/" + job + "/vertices/" + vertex.get("id").asText()).get("subtasks")) {
                busy.add(subtask.get("taskmanager-id").asText());
            }
        }
        return IntStream.range(0, names.length).filter(index -> busy.contains(names[index])).findFirst()
                .orElseThrow(() -> new IllegalStateException("no TaskManager has a task: " + busy));
    }

    /** Under a new name each time, so that nobody takes it for the one before. */
    private void startTaskManager(int index) throws IOException {
        names[index] = "taskmanager-" + index + "-" + starts++;
        taskManagers[index] = cluster.startTaskManager(names[index],
                dstl ? Map.of("state.backend.dstl.socket", daemons.get(index).socket().toString()) : Map.of());
    }

    private void killTaskManager(int index) throws Exception {
        taskManagers[index].destroyForcibly().waitFor();
        startTaskManager(index);
    }

    private void killDaemon(int index) {
        daemons.get(index).kill();
        daemons.get(index).start(true);
    }

    private void submit(String from, String claim) throws Exception {
        // Checkpoints and restarts are the job's: whoever submits it says how, as `flink run` does by the same file.
        Configuration configuration = Configuration.fromMap(settings());
        // A remote environment takes the claim mode from here alone, whatever the configuration says.
        StreamExecutionEnvironment environment = new RemoteStreamEnvironment("127.0.0.1", cluster.restPort(), configuration, null, null,
                from == null ? SavepointRestoreSettings.none()
                        : SavepointRestoreSettings.forPath(from, false, RecoveryClaimMode.valueOf(claim)));
        environment.setParallelism(2);
        environment.setMaxParallelism(128);
        DemoJob.build(environment, text, results, lines, perSecond);
        job = environment.executeAsync("demo").getJobID().toHexString();
        awaitRunning(2);
    }

    private interface Action {
        void run() throws Exception;
    }

    private void disturb(String what, Action action) throws Exception {
        awaitCheckpoints(2);
        long start = System.currentTimeMillis();
        action.run();
        await("running again", () -> running(-1, start));
        long millis = System.currentTimeMillis() - start;
        recoveries.add(millis);
        say(what + ": runs again after " + millis + " ms");
    }

    private void rescale(int parallelism) throws Exception {
        awaitCheckpoints(2);
        StringBuilder body = new StringBuilder("{");
        for (JsonNode vertex : cluster.get("/jobs/" + job).get("vertices")) {
            body.append(body.length() > 1 ? "," : "").append('"').append(vertex.get("id").asText())
                    .append("\":{\"parallelism\":{\"lowerBound\":1,\"upperBound\":").append(keyed(vertex) ? parallelism : 1).append("}}");
        }
        long start = System.nanoTime();
        cluster.put("/jobs/" + job + "/resource-requirements", body.append('}').toString());
        awaitRunning(parallelism);
        say("rescaled to " + parallelism + ": runs after " + (System.nanoTime() - start) / 1_000_000 + " ms");
    }

    private void restart(String claim) throws Exception {
        awaitCheckpoints(2);
        collectCheckpoints();
        cluster.patch("/jobs/" + job + "?mode=cancel");
        await("cancelled", () -> state().equals("CANCELED"));
        String path = cluster.get("/jobs/" + job + "/checkpoints").get("latest").get("completed").get("external_path").asText();
        submit(path, claim);
        awaitCheckpoints(2);
        say("started again from a retained checkpoint with " + claim);
    }

    /** Whatever is left, as fast as it goes. */
    private void finish() throws Exception {
        awaitCheckpoints(2);
        say("runs to its end, as fast as it can");
        long before = words();
        long start = System.nanoTime();
        Files.createFile(results.resolveSibling("go"));
        for (String state = state(); !state.equals("FINISHED"); state = state()) {
            if (List.of("FAILED", "CANCELED").contains(state)) {
                throw new IllegalStateException("the job ended as " + state);
            }
            if (System.nanoTime() - start > TimeUnit.MINUTES.toNanos(10)) {
                throw new IllegalStateException("not within 10 minutes: the end of the text; the job is " + state);
            }
            Thread.sleep(100);
        }
        wordsPerSecond = (words() - before) * 1e9 / (System.nanoTime() - start);
        collectCheckpoints();
    }

    /** That came to the first keyed operator since the job was started or restored. */
    private long words() throws IOException {
        for (JsonNode vertex : cluster.get("/jobs/" + job).get("vertices")) {
            if (vertex.get("name").asText().contains("counts") || vertex.get("name").asText().contains("KeyedProcess")) {
                return vertex.get("metrics").get("read-records").asLong();
            }
        }
        throw new IllegalStateException("the job has no keyed operator");
    }

    private String compare(Map<String, String> expected) throws IOException {
        Map<String, String> found = ResultFiles.read(results);
        Set<String> keys = new TreeSet<>(expected.keySet());
        keys.addAll(found.keySet());
        keys.removeIf(key -> Objects.equals(expected.get(key), found.get(key)));
        keys.stream().limit(20).forEach(key ->
                System.err.println("wrong: " + key + " is " + found.get(key) + ", must be " + expected.get(key)));
        right = keys.isEmpty();
        // The figures of Flink's own backend are of interest with wrong results too; they are not what is tested here.
        if (!right && dstl) {
            throw new IllegalStateException(keys.size() + " of " + expected.size() + " results are wrong");
        }
        checkpoints.sort(null);
        return String.format(Locale.ROOT, "| %s | %.0f | %d / %d (%d) | %s | %d, %s |",
                backend.title, wordsPerSecond,
                checkpoints.get(checkpoints.size() / 2), checkpoints.get(checkpoints.size() * 99 / 100), checkpoints.size(),
                recoveries, found.size(), right ? "all equal" : keys.size() + " WRONG");
    }

    private void collectCheckpoints() throws IOException {
        for (JsonNode checkpoint : cluster.get("/jobs/" + job + "/checkpoints").get("history")) {
            if (checkpoint.get("status").asText().equals("COMPLETED")) {
                checkpoints.add(checkpoint.get("end_to_end_duration").asLong());
            }
        }
    }

    private void awaitCheckpoints(int more) throws Exception {
        long before = completed();
        await(more + " checkpoints more", () -> completed() >= before + more);
    }

    private long completed() throws IOException {
        return cluster.get("/jobs/" + job + "/checkpoints").get("counts").get("completed").asLong();
    }

    private void awaitRunning(int parallelism) throws Exception {
        await("running with parallelism " + parallelism, () -> running(parallelism, 0));
    }

    /** Nothing here takes as long as that: the slowest is a TaskManager that is missed after {@code heartbeat.timeout}. */
    private void await(String what, Callable<Boolean> condition) throws Exception {
        long until = System.nanoTime() + TimeUnit.MINUTES.toNanos(5);
        while (!condition.call()) {
            String state = state();
            if (List.of("FAILED", "FINISHED").contains(state)) {
                throw new IllegalStateException("the job is " + state + " already, and not " + what + ": it needs more lines, or failed");
            }
            if (System.nanoTime() > until) {
                throw new IllegalStateException("not within 5 minutes: " + what + "; the job is " + state);
            }
            Thread.sleep(50);
        }
    }

    private String state() throws IOException {
        return cluster.get("/jobs/" + job).get("state").asText();
    }

    private static boolean keyed(JsonNode vertex) {
        return !vertex.get("name").asText().startsWith("Source");
    }

    /** Whether all tasks run, keyed ones with this parallelism (negative: any), and were started at this time or later. */
    private boolean running(int parallelism, long since) throws IOException {
        JsonNode status = cluster.get("/jobs/" + job);
        boolean running = status.get("state").asText().equals("RUNNING");
        for (JsonNode vertex : status.get("vertices")) {
            running &= vertex.get("status").asText().equals("RUNNING")
                    && (parallelism < 0 || !keyed(vertex) || vertex.get("parallelism").asInt() == parallelism)
                    && vertex.get("start-time").asLong() >= since;
        }
        return running;
    }

    private void say(String what) {
        System.out.println(backend.title + ": " + what);
    }

    private synchronized void stop() {
        cluster.close();
        daemons.forEach(Daemon::kill);
    }

    @Override
    public void close() throws Exception {
        if (!right && job != null) {
            cluster.explain(job);
        }
        stop();
        if (!right || System.getenv("KEEP") != null) {
            say("its logs and all that it wrote are in " + directory);
        } else {
            try (Stream<Path> all = Files.walk(directory)) {
                all.sorted(java.util.Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            }
        }
    }
}
