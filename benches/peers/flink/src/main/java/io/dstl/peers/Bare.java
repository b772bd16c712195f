package io.dstl.peers;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.RunnableFuture;
import org.apache.flink.api.common.ExecutionConfig;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.JobInfoImpl;
import org.apache.flink.api.common.TaskInfoImpl;
import org.apache.flink.api.common.state.CheckpointListener;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.changelog.fs.FsStateChangelogStorageFactory;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.checkpoint.CheckpointOptions;
import org.apache.flink.runtime.execution.Environment;
import org.apache.flink.runtime.io.disk.iomanager.IOManagerAsync;
import org.apache.flink.runtime.jobgraph.JobVertexID;
import org.apache.flink.runtime.memory.MemoryManager;
import org.apache.flink.runtime.memory.SharedResources;
import org.apache.flink.runtime.metrics.groups.UnregisteredMetricGroups;
import org.apache.flink.runtime.query.KvStateRegistry;
import org.apache.flink.runtime.state.CheckpointStreamFactory;
import org.apache.flink.runtime.state.CheckpointableKeyedStateBackend;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyedStateBackendParametersImpl;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.LocalRecoveryConfig;
import org.apache.flink.runtime.state.SnapshotResult;
import org.apache.flink.runtime.state.StateBackendLoader;
import org.apache.flink.runtime.state.TaskStateManager;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.changelog.StateChangelogStorage;
import org.apache.flink.runtime.state.filesystem.FsCheckpointStreamFactory;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;
import org.apache.flink.runtime.taskmanager.TaskManagerRuntimeInfo;
import org.apache.flink.util.SimpleUserCodeClassLoader;

/**
 * Flink's changelog backend without a job: one thread writes state, with no source, no network and no coordinator
 * around it. It is the most that Flink's state can do in its own process. Work, arguments and result are those of
 * {@link Job}.
 */
public final class Bare {
    private static final int KEY_GROUPS = 128;
    /** After so many operations, the thread looks at its mails and at the clock. */
    private static final int STEP = 64;
    private static final long CHECKPOINT_EVERY_NANOS = 1_000_000_000;
    /** As Flink's default: smaller pieces of state travel in the checkpoint's own file. */
    private static final int INLINE_BYTES = 20 << 10;
    private static final int BUFFER_BYTES = 4096;

    private final Run run;
    private final Mailbox mailbox = new Mailbox();
    private final ExecutorService async = Executors.newCachedThreadPool(Bare::daemon);
    private final CheckpointStreamFactory files;
    private final CheckpointableKeyedStateBackend<Long> backend;
    private final ValueState<byte[]> value;
    private final ValueState<Long> counter;
    private final Run.Values values;
    private final List<Double> durations = new ArrayList<>();
    private long done;
    private long checkpoint;
    private long checkpointBegan;
    private long nextCheckpoint = System.nanoTime() + CHECKPOINT_EVERY_NANOS;
    private Future<?> running;

    /**
     * Measures one configuration.
     *
     * @param arguments pairs of name and value, as those of {@link Job}
     */
    public static void main(String[] arguments) {
        Run.main(arguments, run -> new Bare(run).measure());
    }

    private Bare(Run run) throws Exception {
        this.run = run;
        Path shared = new Path(Files.createDirectories(run.folder.resolve("checkpoints/shared")).toUri());
        files = new FsCheckpointStreamFactory(
                FileSystem.getLocalFileSystem(), shared.getParent(), shared, INLINE_BYTES, BUFFER_BYTES);
        ExecutionConfig config = new ExecutionConfig();
        backend = backend(config);
        values = new Run.Values(run.valueBytes);
        value = run.counts ? null : state("value", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO, config);
        counter = run.counts ? state("counter", Types.LONG, config) : null;
    }

    private static Thread daemon(Runnable task) {
        Thread thread = new Thread(task, "async");
        thread.setDaemon(true);
        return thread;
    }

    private <T> ValueState<T> state(String name, TypeInformation<T> type, ExecutionConfig config) throws Exception {
        ValueStateDescriptor<T> descriptor = new ValueStateDescriptor<>(name, type);
        descriptor.initializeSerializerUnlessSet(config);
        return backend.getPartitionedState(VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, descriptor);
    }

    private String measure() throws Exception {
        while (done < run.keys) {
            step();
        }
        Run.Window warmUp = new Run.Window(done);
        while (warmUp.elapsedNanos() < run.warmUpNanos) {
            step();
        }
        durations.clear();
        Run.Window window = new Run.Window(done);
        while (window.elapsedNanos() < run.windowNanos) {
            step();
        }
        Run.Measured measured = window.end(done);
        while (running != null) {
            mailbox.tryYield();
            endCheckpoint(System.nanoTime());
        }
        return measured.line(durations);
    }

    /** Some operations, and a checkpoint when its time has come. */
    private void step() throws Exception {
        for (int i = 0; i < STEP; i++) {
            long number = done++;
            backend.setCurrentKey(Run.key(number, run.keys));
            if (run.counts) {
                Long before = counter.value();
                counter.update(before == null ? 1L : before + 1);
            } else {
                value.update(values.value(number));
            }
        }
        mailbox.tryYield();
        long now = System.nanoTime();
        endCheckpoint(now);
        if (running == null && now >= nextCheckpoint) {
            nextCheckpoint = now + CHECKPOINT_EVERY_NANOS;
            checkpointBegan = now;
            RunnableFuture<SnapshotResult<KeyedStateHandle>> snapshot = backend.snapshot(++checkpoint,
                    System.currentTimeMillis(), files, CheckpointOptions.forCheckpointWithDefaultLocation());
            running = async.submit(() -> {
                if (!snapshot.isDone()) {
                    snapshot.run();
                }
                return snapshot.get();
            });
        }
    }

    /** Completes the checkpoint that runs, if it is done. */
    private void endCheckpoint(long now) throws Exception {
        if (running == null || !running.isDone()) {
            return;
        }
        running.get();
        running = null;
        durations.add((now - checkpointBegan) / 1e6);
        if (backend instanceof CheckpointListener) {
            ((CheckpointListener) backend).notifyCheckpointComplete(checkpoint);
        }
    }

    private CheckpointableKeyedStateBackend<Long> backend(ExecutionConfig config) throws Exception {
        JobID job = new JobID();
        ClassLoader loader = Bare.class.getClassLoader();
        Configuration configuration = run.configuration();
        configuration.setString("state.backend.rocksdb.memory.managed", "false");
        configuration.setString("state.backend.rocksdb.memory.fixed-per-slot", run.argument("managed", "512 mb"));
        config.configure(configuration, loader);
        var parameters = new KeyedStateBackendParametersImpl<Long>(environment(job, configuration, config), job, "task",
                LongSerializer.INSTANCE, KEY_GROUPS, KeyGroupRange.of(0, KEY_GROUPS - 1),
                new KvStateRegistry().createTaskRegistry(job, new JobVertexID()), TtlTimeProvider.DEFAULT,
                UnregisteredMetricGroups.createUnregisteredOperatorMetricGroup(), Collections.emptyList(),
                new CloseableRegistry());
        return StateBackendLoader.fromApplicationOrConfigOrDefault(null, configuration, configuration, loader, null)
                .createKeyedStateBackend(parameters);
    }

    /** The surroundings of a task, as far as a backend looks at them. */
    private Environment environment(JobID job, Configuration configuration, ExecutionConfig config) throws Exception {
        String temporary = Files.createDirectories(run.folder.resolve("tmp")).toString();
        Map<String, Object> manager = new HashMap<>();
        manager.put("getConfiguration", configuration);
        manager.put("getTmpDirectories", new String[] {temporary});
        manager.put("getTmpWorkingDirectory", new java.io.File(temporary));
        Map<String, Object> state = new HashMap<>();
        state.put("createLocalRecoveryConfig", LocalRecoveryConfig.BACKUP_AND_RECOVERY_DISABLED);
        state.put("getFileMergingSnapshotManager", null);
        state.put("getStateChangelogStorage", run.hasChangelog ? changelog(job, configuration) : null);
        Map<String, Object> environment = new HashMap<>();
        environment.put("getTaskStateManager", stub(TaskStateManager.class, state));
        environment.put("getTaskManagerInfo", stub(TaskManagerRuntimeInfo.class, manager));
        environment.put("getTaskInfo", new TaskInfoImpl("task", KEY_GROUPS, 0, 1, 0));
        environment.put("getExecutionConfig", config);
        environment.put("getJobID", job);
        environment.put("getJobInfo", new JobInfoImpl(job, "job"));
        environment.put("getJobConfiguration", configuration);
        environment.put("getTaskConfiguration", configuration);
        environment.put("getUserCodeClassLoader", SimpleUserCodeClassLoader.create(Bare.class.getClassLoader()));
        environment.put("getMainMailboxExecutor", mailbox);
        environment.put("getAsyncOperationsThreadPool", async);
        environment.put("getIOManager", new IOManagerAsync(temporary));
        environment.put("getMemoryManager", MemoryManager.create(64 << 20, MemoryManager.DEFAULT_PAGE_SIZE));
        environment.put("getSharedResources", new SharedResources());
        environment.put("getMetricGroup", UnregisteredMetricGroups.createUnregisteredTaskMetricGroup());
        environment.put("getCheckpointStorageAccess", null);
        return stub(Environment.class, environment);
    }

    private static StateChangelogStorage<?> changelog(JobID job, Configuration configuration) throws Exception {
        return new FsStateChangelogStorageFactory().createStorage(job, configuration,
                UnregisteredMetricGroups.createUnregisteredTaskManagerJobMetricGroup(),
                LocalRecoveryConfig.BACKUP_AND_RECOVERY_DISABLED);
    }

    /** An interface whose methods return these answers, by name. */
    private static <T> T stub(Class<T> type, Map<String, Object> answers) {
        InvocationHandler handler = (proxy, method, arguments) -> {
            if (answers.containsKey(method.getName())) {
                return answers.get(method.getName());
            }
            if (method.getName().equals("failExternally")) {
                throw new IllegalStateException("the backend failed", (Throwable) arguments[0]);
            }
            if (method.getName().equals("toString")) {
                return "stub of " + type.getSimpleName();
            }
            if (method.isDefault()) {
                return InvocationHandler.invokeDefault(proxy, method, arguments);
            }
            throw new UnsupportedOperationException(type.getSimpleName() + "." + method.getName());
        };
        return type.cast(Proxy.newProxyInstance(Bare.class.getClassLoader(), new Class<?>[] {type}, handler));
    }
}
