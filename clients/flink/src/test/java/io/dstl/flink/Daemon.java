package io.dstl.flink;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** A real daemon in a directory of its own; {@code DSTL_BIN} names the program. */
public final class Daemon implements AutoCloseable {
    private static Daemon shared;

    private final Path directory;
    private final Path store;
    private final List<String> settings;
    private Process process;

    private Daemon(Path directory, Path store, List<String> settings) {
        this.directory = directory;
        this.store = store;
        this.settings = settings;
    }

    /** One daemon for all tests of the process. */
    public static synchronized Daemon shared() {
        if (shared == null) {
            // Suites leave a backend a test behind, for as long as they linger.
            shared = start("memory.budget = \"8 GiB\"", "state.changelog.dstl.dfs.upload.max-in-flight = \"1900 MiB\"");
            Runtime.getRuntime().addShutdownHook(new Thread(shared::close));
        }
        return shared;
    }

    /**
     * A new daemon with a store of its own.
     *
     * @param settings lines of its configuration, as {@code rpc.max-value-size = "64 KiB"}
     */
    public static Daemon start(String... settings) {
        try {
            Path directory = directoryOfItsOwn();
            return startIn(directory, directory.resolve("store"), settings);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A daemon on the store of another one. */
    public Daemon beside(String... more) {
        try {
            return startIn(directoryOfItsOwn(), store, more);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** In memory, if the property {@code dstl.parent} names no other place: tests open hundreds of backends, and need no disk. */
    private static Path directoryOfItsOwn() throws IOException {
        String parent = System.getProperty("dstl.parent", "/dev/shm");
        return Files.isWritable(Path.of(parent))
                ? Files.createTempDirectory(Path.of(parent), "dstl-test")
                : Files.createTempDirectory("dstl-test");
    }

    /** A daemon in this directory, which is there. Its socket's path must not be longer than the system allows: some 100 bytes. */
    public static Daemon startIn(Path directory, Path store, String... settings) {
        Daemon daemon = new Daemon(directory, store, List.of(settings));
        daemon.start(true);
        return daemon;
    }

    public Path socket() {
        return directory.resolve("s");
    }

    public Path directory() {
        return directory;
    }

    public Path store() {
        return store;
    }

    public Process process() {
        return process;
    }

    /** Starts it again where it was killed. */
    public void start(boolean wait) {
        try {
            Path config = directory.resolve("dstl.toml");
            List<String> lines = new ArrayList<>(List.of(
                    "\"rpc.socket\" = \"" + socket() + "\"",
                    "\"state.changelog.dstl.dfs.base-path\" = \"" + store + "\"",
                    "\"dstl.data-dir\" = \"" + directory.resolve("data") + "\"",
                    "\"admin.address\" = \"off\""));
            settings.forEach(line -> lines.add('"' + line.substring(0, line.indexOf(' ')) + '"' + line.substring(line.indexOf(' '))));
            Files.write(config, lines);
            String binary = System.getenv("DSTL_BIN");
            if (binary == null) {
                throw new IllegalStateException("DSTL_BIN is not set: it names the daemon's program, `make test-flink` sets it");
            }
            ProcessBuilder builder = new ProcessBuilder(binary, "serve", "--config", config.toString())
                    .redirectErrorStream(true)
                    .redirectOutput(ProcessBuilder.Redirect.appendTo(directory.resolve("log").toFile()));
            // The daemon takes variables with its prefix for options.
            builder.environment().keySet().removeIf(name -> name.startsWith("DSTL_"));
            process = builder.start();
            if (wait) {
                awaitSocket();
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private void awaitSocket() throws IOException {
        for (int tries = 0; tries < 600; tries++) {
            if (!process.isAlive()) {
                throw new IllegalStateException("the daemon ended:\n" + log());
            }
            if (Files.exists(socket())) {
                return;
            }
            try {
                Thread.sleep(50);
            } catch (InterruptedException e) {
                throw new IllegalStateException(e);
            }
        }
        throw new IllegalStateException("the daemon does not listen:\n" + log());
    }

    public String log() throws IOException {
        return Files.readString(directory.resolve("log"));
    }

    /** As {@code kill -9}. */
    public void kill() {
        process.destroyForcibly();
        try {
            process.waitFor(10, TimeUnit.SECONDS);
            Files.deleteIfExists(socket());
        } catch (InterruptedException | IOException e) {
            throw new IllegalStateException(e);
        }
    }

    /** As {@code kill -STOP} or {@code -CONT}. */
    public void signal(String name) {
        signal(process.pid(), name);
    }

    /** Sends a signal to a process. One that is to stop has stopped then. */
    public static void signal(long pid, String name) {
        try {
            new ProcessBuilder("kill", "-" + name, Long.toString(pid)).inheritIO().start().waitFor();
            // Each thread runs on until it meets the signal.
            while (name.equals("STOP") && ProcessHandle.of(pid).isPresent() && !isStopped(pid)) {
                Thread.sleep(1);
            }
        } catch (IOException | InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private static boolean isStopped(long pid) throws IOException {
        try (Stream<Path> threads = Files.list(Path.of("/proc", Long.toString(pid), "task"))) {
            for (Path thread : threads.toList()) {
                String stat = Files.readString(thread.resolve("stat"));
                if (stat.charAt(stat.lastIndexOf(')') + 2) != 'T') {
                    return false;
                }
            }
            return true;
        } catch (NoSuchFileException e) {
            // A thread has ended meanwhile.
            return false;
        }
    }

    @Override
    public void close() {
        process.destroyForcibly();
        try (Stream<Path> all = Files.walk(directory)) {
            process.waitFor(10, TimeUnit.SECONDS);
            all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        } catch (IOException | UncheckedIOException | InterruptedException e) {
            // A directory is left behind.
        }
    }
}
