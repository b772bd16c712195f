package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What stays behind when clients are closed: nothing. */
class LifecycleTest {
    private static TestDaemon daemon;

    @BeforeAll
    static void startDaemon() {
        daemon = TestDaemon.start();
    }

    @AfterAll
    static void endDaemon() {
        daemon.close();
    }

    private static List<String> threads() {
        return Thread.getAllStackTraces().keySet().stream().map(Thread::getName)
                .filter(name -> name.startsWith("dstl-") || name.contains("grpc") || name.contains("netty")
                        || name.contains("globalEventExecutor"))
                .sorted().toList();
    }

    @Test
    void clientsOfOneSocketShareOneThreadWhichEndsWithTheLast() throws Exception {
        Eventually.holds("no thread of another test is left", () -> threads().isEmpty());
        DstlClient first = daemon.connect();
        List<String> one = threads();
        assertThat(one).hasSize(1).allSatisfy(name -> assertThat(name).startsWith("dstl-client-"));
        DstlClient second = DstlClient.connect(daemon.folder().resolve("../" + daemon.folder().getFileName()).resolve("s"));
        Backend backend = second.open(OpenOptions.of("threads", "op").attempt(1).build()).await();
        Session session = backend.session(SessionOptions.DEFAULT).await();
        session.persist().future().get(10, TimeUnit.SECONDS);
        first.close();
        first.close();
        assertThat(session.persist().await()).isZero();
        assertThat(threads()).contains(one.get(0));
        second.close();
        Eventually.holds("all threads end: " + threads(), Duration.ofSeconds(15), () -> threads().isEmpty());
    }

    @Test
    void manySessionsHaveMoreConnectionsAndEveryoneEndsWithItsSessions() throws Exception {
        Eventually.holds("no thread of another test is left", () -> threads().isEmpty());
        try (DstlClient client = DstlClient.connect(ConnectOptions.of(daemon.socket()).withSessionsPerConnection(2))) {
            List<Session> sessions = new ArrayList<>();
            for (int subtask = 0; subtask < 5; subtask++) {
                Backend backend = client.open(OpenOptions.of("many", "op").subtask(subtask, 5).attempt(1).build()).await();
                sessions.add(backend.session(SessionOptions.DEFAULT).await());
            }
            assertThat(threads()).hasSize(3);
            for (Session session : sessions) {
                session.finish().await();
            }
            Eventually.holds("one connection is left", () -> threads().stream()
                    .filter(name -> name.startsWith("dstl-client-")).count() == 1);
        }
        Eventually.holds("all threads end", Duration.ofSeconds(15), () -> threads().isEmpty());
    }

    /**
     * In a process of its own, whose class path has no client: when a loader with Netty's library is collected, the library
     * takes its methods away from the class of that name on the class path, too.
     */
    @Test
    void aClassLoaderThatUsedTheClientIsCollected() throws Exception {
        String tests = Path.of(LifecycleTest.class.getProtectionDomain().getCodeSource().getLocation().toURI()).toString();
        Process process = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-cp", tests, ClassLoaderProbe.class.getName(), daemon.socket().toString(),
                System.getProperty("java.class.path")).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes());
        assertThat(process.waitFor()).as(output).isZero();
        assertThat(output).contains("collected");
    }
}
