package io.dstl.client;

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

/** Uses the client in a class loader of its own, twice, on a thread that lives on, and waits until both are collected. */
final class ClassLoaderProbe {
    private ClassLoaderProbe() {}

    public static void main(String[] arguments) throws Exception {
        Path socket = Path.of(arguments[0]);
        List<WeakReference<ClassLoader>> loaders = new ArrayList<>();
        for (int round = 0; round < 2; round++) {
            loaders.add(use(socket, arguments[1]));
        }
        Eventually.holds("both class loaders are collected", Duration.ofSeconds(60), () -> {
            System.gc();
            return loaders.stream().allMatch(loader -> loader.get() == null);
        });
        System.out.println("collected");
    }

    private static WeakReference<ClassLoader> use(Path socket, String classPath) throws Exception {
        List<URL> urls = new ArrayList<>();
        for (String entry : classPath.split(File.pathSeparator)) {
            urls.add(Path.of(entry).toUri().toURL());
        }
        URLClassLoader loader = new URLClassLoader(urls.toArray(new URL[0]), ClassLoader.getPlatformClassLoader());
        Class<?> inside = loader.loadClass(ClassLoaderProbe.class.getName());
        if (inside == ClassLoaderProbe.class) {
            throw new AssertionError("the loader gives the class of the class path");
        }
        Method use = inside.getDeclaredMethod("use", Path.class);
        use.setAccessible(true);
        use.invoke(null, socket);
        loader.close();
        return new WeakReference<>(loader);
    }

    static void use(Path socket) throws Exception {
        DstlClient client = TestDaemon.connect(socket);
        OpenOptions options = OpenOptions.of("loader", "op").attempt(System.nanoTime()).empty();
        Backend backend = client.open(options.build()).await();
        ValueState<String, Long> state = backend.valueState("v", Serdes.string(), Serdes.int64(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT.withSpin(Duration.ofMillis(1))).await();
        Batch batch = session.batch();
        state.put(batch, "k", 7L);
        session.send(batch).future().get(10, TimeUnit.SECONDS);
        if (state.get(session, "k") != 7) {
            throw new AssertionError("another value");
        }
        session.barrier(1, Batch.NONE).await();
        // Left open: closing the client ends it.
        client.close();
    }
}
