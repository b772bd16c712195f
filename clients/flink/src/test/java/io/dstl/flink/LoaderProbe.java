package io.dstl.flink;

import java.lang.ref.WeakReference;
import java.lang.reflect.Method;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.FutureTask;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.slf4j.LoggerFactory;

/**
 * Two jobs that have the plug-in in their own jars, on one TaskManager: each has classes of its own, while Flink's are shared. Both use
 * their backends at once; once they have ended, their classes are collected and no thread is left.
 */
final class LoaderProbe {
    private LoaderProbe() {}

    public static void main(String[] arguments) throws Exception {
        // As in a TaskManager, the process logs before any job does; the hook that ends the log keeps the classes on the stack.
        LoggerFactory.getLogger(LoaderProbe.class).info("two jobs with the plug-in in their jars");
        List<WeakReference<ClassLoader>> loaders = runJobs(arguments[0]);
        long until = System.nanoTime() + Duration.ofMinutes(2).toNanos();
        while (loaders.stream().anyMatch(loader -> loader.get() != null) || !threads().isEmpty()) {
            if (System.nanoTime() > until) {
                throw new AssertionError("left: " + loaders.stream().map(WeakReference::get).toList() + ", threads " + threads());
            }
            System.gc();
            Thread.sleep(50);
        }
        System.out.println("collected");
        System.exit(0);
    }

    private static List<String> threads() {
        return Thread.getAllStackTraces().keySet().stream().map(Thread::getName)
                .filter(name -> name.startsWith("dstl-") || name.contains("grpc")).toList();
    }

    private static List<WeakReference<ClassLoader>> runJobs(String socket) throws Exception {
        List<WeakReference<ClassLoader>> loaders = new ArrayList<>();
        List<AutoCloseable> running = new ArrayList<>();
        for (int job = 0; job < 2; job++) {
            JobLoader loader = new JobLoader();
            Class<?> inside = loader.loadClass(LoaderProbe.class.getName());
            Method start = inside.getDeclaredMethod("start", String.class);
            start.setAccessible(true);
            running.add(onThread(() -> (AutoCloseable) start.invoke(null, socket)));
            loaders.add(new WeakReference<>(loader));
        }
        for (AutoCloseable job : running) {
            onThread(() -> {
                job.close();
                return null;
            });
        }
        return loaders;
    }

    /** On a thread that ends with it, as a task has one: its context class loader is that of the job. */
    private static <T> T onThread(Callable<T> step) throws Exception {
        FutureTask<T> task = new FutureTask<>(step);
        new Thread(task, "task").start();
        return task.get();
    }

    /** Starts a task; ending it looks at its state, and takes a checkpoint that another start restores. */
    static AutoCloseable start(String socket) throws Exception {
        if (LoaderProbe.class.getClassLoader() == ClassLoader.getSystemClassLoader()) {
            throw new AssertionError("the job's classes are those of the class path");
        }
        Configuration options = new Configuration();
        options.set(DstlOptions.SOCKET, socket);
        options.set(DstlOptions.CONNECT, Duration.ofMinutes(3));
        TestTask task = new TestTask(options);
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        backend.setCurrentKey(1);
        state(backend).update("one");
        return () -> {
            KeyedStateHandle handle = TestTask.complete(backend, 1);
            backend.dispose();
            DstlKeyedStateBackend<Integer> again = task.next().open(IntSerializer.INSTANCE, handle);
            again.setCurrentKey(1);
            String found = state(again).value();
            again.dispose();
            if (!"one".equals(found)) {
                throw new AssertionError("found " + found);
            }
        };
    }

    @SuppressWarnings("unchecked")
    private static InternalValueState<Integer, VoidNamespace, String> state(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, String> state = (InternalValueState<Integer, VoidNamespace, String>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("text", StringSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    /** As Flink loads what is in a job's jars: before what is on its own class path. */
    private static final class JobLoader extends URLClassLoader {
        JobLoader() throws Exception {
            super(urls(), LoaderProbe.class.getClassLoader());
        }

        private static URL[] urls() throws Exception {
            List<URL> urls = new ArrayList<>();
            for (String entry : System.getProperty("java.class.path").split(java.io.File.pathSeparator)) {
                urls.add(Path.of(entry).toUri().toURL());
            }
            return urls.toArray(new URL[0]);
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            if (!name.startsWith("io.dstl.") && !name.startsWith("io.grpc.") && !name.startsWith("com.google.protobuf.")) {
                return super.loadClass(name, resolve);
            }
            synchronized (getClassLoadingLock(name)) {
                Class<?> loaded = findLoadedClass(name);
                return loaded == null ? findClass(name) : loaded;
            }
        }
    }
}
