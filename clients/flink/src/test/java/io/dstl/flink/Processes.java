package io.dstl.flink;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;

/** A Flink cluster as processes on this machine: one JobManager and TaskManagers of one slot. */
public final class Processes implements AutoCloseable {
    private final Path directory;
    private final Map<String, String> settings;
    private final HttpClient http = HttpClient.newHttpClient();
    private final int restPort;
    private final int rpcPort;
    private final List<Process> started = new ArrayList<>();

    /** Nothing runs yet; these settings are those of all processes. */
    public Processes(Path directory, Map<String, String> settings) throws IOException {
        this.directory = directory;
        this.settings = settings;
        this.restPort = freePort();
        this.rpcPort = freePort();
    }

    private static int freePort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0)) {
            return socket.getLocalPort();
        }
    }

    /** Where the JobManager answers. */
    public int restPort() {
        return restPort;
    }

    /** Waits until it answers. */
    public void startJobManager() throws Exception {
        start("jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", Map.of(), "512m");
        for (int tries = 0; tries < 600; tries++) {
            try {
                get("/overview");
                return;
            } catch (IOException e) {
                Thread.sleep(100);
            }
        }
        throw new IllegalStateException("the JobManager does not answer");
    }

    /** Waits until the JobManager has so many TaskManagers. */
    public void awaitTaskManagers(int count) throws Exception {
        for (int tries = 0; tries < 1800; tries++) {
            for (Process process : started) {
                if (!process.isAlive()) {
                    throw new IllegalStateException("a process of Flink ended as it started");
                }
            }
            if (get("/overview").get("taskmanagers").asInt() >= count) {
                return;
            }
            Thread.sleep(100);
        }
        throw new IllegalStateException("not within 3 minutes: " + count + " TaskManagers");
    }

    /** The JobManager knows it by its name. */
    public Process startTaskManager(String name, Map<String, String> more) throws IOException {
        Map<String, String> own = new LinkedHashMap<>(Map.of(
                "taskmanager.resource-id", name,
                "taskmanager.host", "127.0.0.1",
                "taskmanager.cpu.cores", "1",
                "taskmanager.numberOfTaskSlots", "1",
                "taskmanager.memory.task.heap.size", "256m",
                "taskmanager.memory.task.off-heap.size", "0",
                "taskmanager.memory.network.min", "32m",
                "taskmanager.memory.network.max", "32m",
                "taskmanager.memory.managed.size", "128m",
                "io.tmp.dirs", directory.resolve(name + "-tmp").toString()));
        // Flink's shell scripts compute these; a TaskManager that is started without them asks for each.
        own.putAll(Map.of(
                "taskmanager.memory.framework.heap.size", "128m",
                "taskmanager.memory.framework.off-heap.size", "128m",
                "taskmanager.memory.jvm-metaspace.size", "256m",
                "taskmanager.memory.jvm-overhead.min", "192m",
                "taskmanager.memory.jvm-overhead.max", "192m"));
        own.putAll(more);
        return start(name, "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", own, "512m");
    }

    private Process start(String name, String main, Map<String, String> more, String heap) throws IOException {
        Path home = Files.createDirectories(directory.resolve(name));
        Map<String, String> all = new LinkedHashMap<>(settings);
        all.put("jobmanager.rpc.address", "127.0.0.1");
        all.put("jobmanager.rpc.port", Integer.toString(rpcPort));
        all.put("jobmanager.bind-host", "127.0.0.1");
        all.put("rest.address", "127.0.0.1");
        all.put("rest.bind-address", "127.0.0.1");
        all.put("rest.port", Integer.toString(restPort));
        all.put("blob.server.port", "0");
        all.put("heartbeat.interval", "2 s");
        all.put("heartbeat.timeout", "30 s");
        all.put("pekko.ask.timeout", "30 s");
        all.putAll(more);
        List<String> lines = new ArrayList<>();
        all.forEach((key, value) -> lines.add(key + ": " + value));
        Files.write(home.resolve("config.yaml"), lines);
        // A machine that does other work too takes its time to start so many processes; no option of Flink's reaches this timeout.
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-Xmx" + heap,
                "-XX:+UseSerialGC", "-Dpekko.remote.classic.startup-timeout=120s", "-Ddstl.log=INFO"));
        ManagementFactory.getRuntimeMXBean().getInputArguments().stream()
                .filter(argument -> argument.startsWith("--add-opens") || argument.startsWith("-XX:TieredStopAtLevel"))
                .forEach(command::add);
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), main, "--configDir", home.toString()));
        Process process = new ProcessBuilder(command).redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.appendTo(directory.resolve(name + ".log").toFile())).start();
        started.add(process);
        return process;
    }

    /** Of the JobManager's REST interface. */
    public JsonNode get(String path) throws IOException {
        return call(HttpRequest.newBuilder(uri(path)).GET().build());
    }

    /** Of the JobManager's REST interface. */
    public JsonNode put(String path, String body) throws IOException {
        return call(HttpRequest.newBuilder(uri(path)).header("Content-Type", "application/json")
                .PUT(HttpRequest.BodyPublishers.ofString(body)).build());
    }

    /** Of the JobManager's REST interface. */
    public JsonNode patch(String path) throws IOException {
        return call(HttpRequest.newBuilder(uri(path)).method("PATCH", HttpRequest.BodyPublishers.noBody()).build());
    }

    private URI uri(String path) {
        return URI.create("http://127.0.0.1:" + restPort + path);
    }

    private JsonNode call(HttpRequest request) throws IOException {
        try {
            HttpResponse<String> response = http.send(request, HttpResponse.BodyHandlers.ofString());
            // The JobManager's cache of what it shows cancels who waits for an entry that expires meanwhile.
            for (int tries = 0; tries < 20 && response.statusCode() == 500 && request.method().equals("GET"); tries++) {
                Thread.sleep(100);
                response = http.send(request, HttpResponse.BodyHandlers.ofString());
            }
            if (response.statusCode() >= 300) {
                String body = response.body();
                throw new IOException(request.uri() + ": " + response.statusCode() + " " + body.substring(0, Math.min(300, body.length())));
            }
            return new ObjectMapper().readTree(response.body());
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
    }

    /** Writes beside the logs what the JobManager knows of a job and its checkpoints; in the logs, what all threads do. */
    public void explain(String job) {
        started.stream().filter(Process::isAlive).forEach(process -> Daemon.signal(process.pid(), "QUIT"));
        try {
            JsonNode vertices = get("/jobs/" + job).get("vertices");
            for (String of : List.of("", "/exceptions?maxExceptions=20", "/checkpoints")) {
                Files.writeString(directory.resolve("job" + of.replaceAll("\\W", "-") + ".json"),
                        get("/jobs/" + job + of).toPrettyString());
            }
            for (JsonNode checkpoint : get("/jobs/" + job + "/checkpoints").get("history")) {
                if (checkpoint.get("status").asText().equals("IN_PROGRESS")) {
                    String id = checkpoint.get("id").asText();
                    for (JsonNode vertex : vertices) {
                        String name = vertex.get("id").asText();
                        Files.writeString(directory.resolve("checkpoint-" + id + "-" + name + ".json"),
                                get("/jobs/" + job + "/checkpoints/details/" + id + "/subtasks/" + name).toPrettyString());
                    }
                }
            }
        } catch (IOException e) {
            System.err.println("the JobManager cannot be asked what happened: " + e.getMessage());
        }
    }

    @Override
    public void close() {
        for (Process process : started) {
            process.destroyForcibly();
        }
        for (Process process : started) {
            try {
                process.waitFor(10, TimeUnit.SECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
