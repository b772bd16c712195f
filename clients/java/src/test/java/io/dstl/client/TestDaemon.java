package io.dstl.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.ProcessBuilder.Redirect;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** A `dstl serve` process of a test, with folder, socket and store of its own. The binary is that of `DSTL_BIN`. */
final class TestDaemon implements AutoCloseable {
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private final Path folder;
    private final String[] settings;
    private Process process;

    private TestDaemon(Path folder, String... settings) {
        this.folder = folder;
        this.settings = settings;
    }

    /** Starts one; {@code settings} are options, as {@code state.backend=rocksdb}. */
    static TestDaemon start(String... settings) {
        try {
            Path parent = Path.of("/dev/shm");
            Path folder = Files.isWritable(parent)
                    ? Files.createTempDirectory(parent, "dstl-java-")
                    : Files.createTempDirectory("dstl-java-");
            TestDaemon daemon = new TestDaemon(folder, settings);
            daemon.launch();
            return daemon;
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
    }

    private void launch() throws IOException {
        String binary = System.getenv("DSTL_BIN");
        if (binary == null) {
            throw new AssertionError("DSTL_BIN must name the daemon's binary: run `make test-java`");
        }
        List<String> command = new ArrayList<>(List.of(binary, "serve", "--socket", socket().toString(), "--store",
                folder.resolve("store").toString(), "--set", "dstl.data-dir=" + folder.resolve("data"), "--set",
                "queryable-state.enabled=true", "--admin", "127.0.0.1:" + Ports.free()));
        for (String setting : settings) {
            command.addAll(List.of("--set", setting));
        }
        ProcessBuilder builder = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(Redirect.appendTo(log().toFile()));
        builder.environment().keySet().removeIf(name -> name.startsWith("DSTL_"));
        process = builder.start();
        Eventually.holds("the daemon serves; its log is " + log(), PATIENCE, this::answers);
    }

    private boolean answers() {
        if (!process.isAlive()) {
            throw new AssertionError("the daemon ended: " + text(log()));
        }
        try (SocketChannel probe = SocketChannel.open(StandardProtocolFamily.UNIX)) {
            return probe.connect(UnixDomainSocketAddress.of(socket()));
        } catch (IOException notYet) {
            return false;
        }
    }

    private static String text(Path file) {
        try {
            return Files.readString(file);
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
    }

    Path socket() {
        return folder.resolve("s");
    }

    Path folder() {
        return folder;
    }

    private Path log() {
        return folder.resolve("log");
    }

    DstlClient connect() throws InterruptedException {
        return connect(socket());
    }

    /** Patiently: on a busy machine the classes alone take long to load. */
    static DstlClient connect(Path socket) throws InterruptedException {
        return DstlClient.connect(ConnectOptions.of(socket).withConnectTimeout(Duration.ofMinutes(2)));
    }

    /** As `kill -9`. */
    void kill() throws InterruptedException {
        process.destroyForcibly();
        if (!process.waitFor(PATIENCE.toSeconds(), TimeUnit.SECONDS)) {
            throw new AssertionError("the daemon does not end");
        }
    }

    /** A new process on the same folder. */
    void restart() throws InterruptedException {
        kill();
        try {
            launch();
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
    }

    /** Stops it as a host does that swaps; {@link #resume} lets it go on. */
    void suspend() {
        signal("STOP");
    }

    void resume() {
        signal("CONT");
    }

    private void signal(String name) {
        try {
            int code = new ProcessBuilder("kill", "-" + name, Long.toString(process.pid())).start().waitFor();
            if (code != 0) {
                throw new AssertionError("kill -" + name + " failed");
            }
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        } catch (InterruptedException interrupt) {
            throw new AssertionError(interrupt);
        }
    }

    @Override
    public void close() {
        process.destroyForcibly();
        try {
            process.waitFor();
            try (Stream<Path> files = Files.walk(folder)) {
                for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(file);
                }
            }
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
        }
    }
}
