package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.lang.ref.WeakReference;
import java.lang.reflect.Method;
import java.net.URL;
import java.net.URLClassLoader;
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

    @Test
    void aClassLoaderThatUsedTheClientIsCollected() throws Exception {
        WeakReference<ClassLoader> loader = useInOwnLoader(daemon.socket());
        Eventually.holds("the class loader is collected", Duration.ofSeconds(60), () -> {
            System.gc();
            return loader.get() == null;
        });
    }

    /** Everything of the class path once more, in a loader of its own; the thread that uses it lives on. */
    private static WeakReference<ClassLoader> useInOwnLoader(Path socket) throws Exception {
        List<URL> urls = new ArrayList<>();
        for (String entry : System.getProperty("java.class.path").split(File.pathSeparator)) {
            urls.add(Path.of(entry).toUri().toURL());
        }
        URLClassLoader loader = new URLClassLoader(urls.toArray(new URL[0]), ClassLoader.getPlatformClassLoader());
        Method use = loader.loadClass(LifecycleTest.class.getName()).getDeclaredMethod("use", Path.class);
        assertThat(use.getDeclaringClass()).isNotSameAs(LifecycleTest.class);
        use.setAccessible(true);
        use.invoke(null, socket);
        loader.close();
        return new WeakReference<>(loader);
    }

    static void use(Path socket) throws Exception {
        DstlClient client = DstlClient.connect(socket);
        Backend backend = client.open(OpenOptions.of("loader", "op").attempt(System.nanoTime()).empty().build()).await();
        ValueState<String, Long> state = backend.valueState("v", Serdes.string(), Serdes.int64(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT.withSpin(Duration.ofMillis(1))).await();
        Batch batch = session.batch();
        state.put(batch, "k", 7L);
        session.send(batch).future().get(10, TimeUnit.SECONDS);
        assertThat(state.get(session, "k")).isEqualTo(7);
        session.barrier(1, Batch.NONE).await();
        // Left open: closing the client ends it.
        client.close();
    }
}
