package io.dstl.flink;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.RunnableFuture;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.TaskInfo;
import org.apache.flink.api.common.TaskInfoImpl;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.metrics.groups.UnregisteredMetricsGroup;
import org.apache.flink.runtime.checkpoint.CheckpointOptions;
import org.apache.flink.runtime.executiongraph.ExecutionAttemptID;
import org.apache.flink.runtime.executiongraph.ExecutionGraphID;
import org.apache.flink.runtime.jobgraph.JobType;
import org.apache.flink.runtime.jobgraph.JobVertexID;
import org.apache.flink.runtime.operators.testutils.DummyEnvironment;
import org.apache.flink.runtime.scheduler.strategy.ExecutionVertexID;
import org.apache.flink.runtime.state.CheckpointStorageLocationReference;
import org.apache.flink.runtime.state.CheckpointStreamFactory;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyedStateBackendParametersImpl;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.SnapshotResult;
import org.apache.flink.runtime.state.memory.MemCheckpointStreamFactory;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;
import org.apache.flink.util.SimpleUserCodeClassLoader;
import org.apache.flink.util.UserCodeClassLoader;

/** One subtask as Flink would start it: its place, its execution graph and attempt, its configuration, what it restores. */
final class TestTask {
    static final int KEY_GROUPS = 16;

    JobID job = new JobID();
    String operator = "op_" + "ab".repeat(16) + "_(1/1)";
    ExecutionGraphID graph = new ExecutionGraphID();
    int attempt;
    int subtask;
    int parallelism = 1;
    Configuration options;
    final Configuration jobConfiguration = new Configuration();
    TtlTimeProvider clock = TtlTimeProvider.DEFAULT;
    JobType type = JobType.STREAMING;
    ClassLoader userCode = TestTask.class.getClassLoader();
    MetricGroup metrics = new UnregisteredMetricsGroup();
    /** Why the backend failed the task from outside. */
    final List<Throwable> failures = Collections.synchronizedList(new ArrayList<>());
    final CloseableRegistry registry = new CloseableRegistry();

    TestTask() {
        this(Backends.options(Daemon.shared(), DstlOptions.Inner.HASHMAP));
    }

    TestTask(Configuration options) {
        this.options = options;
    }

    /** Another start of the same subtask. */
    TestTask next() {
        TestTask next = new TestTask(options);
        next.job = job;
        next.operator = operator;
        next.graph = graph;
        next.attempt = attempt + 1;
        next.subtask = subtask;
        next.parallelism = parallelism;
        next.jobConfiguration.addAll(jobConfiguration);
        next.clock = clock;
        next.userCode = userCode;
        return next;
    }

    <K> DstlKeyedStateBackend<K> open(TypeSerializer<K> keys, KeyedStateHandle... handles) throws Exception {
        // As the thread of a task has it.
        Thread.currentThread().setContextClassLoader(userCode);
        DstlKeyedStateBackend<K> backend = (DstlKeyedStateBackend<K>) Backends.of(options).createKeyedStateBackend(new KeyedStateBackendParametersImpl<>(
                environment(), job, operator, keys, KEY_GROUPS, range(), environment().getTaskKvStateRegistry(), clock,
                metrics, List.of(handles), registry));
        // As Flink does once a backend is restored.
        registry.close();
        return backend;
    }

    KeyGroupRange range() {
        return KeyGroupRangeAssignment.computeKeyGroupRangeForOperatorIndex(KEY_GROUPS, parallelism, subtask);
    }

    private DummyEnvironment environment() {
        return new DummyEnvironment("test", parallelism, subtask, KEY_GROUPS) {
            @Override
            public ExecutionAttemptID getExecutionId() {
                return new ExecutionAttemptID(graph, new ExecutionVertexID(new JobVertexID(0, 0), subtask), attempt);
            }

            @Override
            public Configuration getJobConfiguration() {
                return jobConfiguration;
            }

            @Override
            public TaskInfo getTaskInfo() {
                return new TaskInfoImpl("test", KEY_GROUPS, subtask, parallelism, attempt);
            }

            @Override
            public JobType getJobType() {
                return type;
            }

            @Override
            public UserCodeClassLoader getUserCodeClassLoader() {
                return SimpleUserCodeClassLoader.create(userCode);
            }

            @Override
            public void failExternally(Throwable cause) {
                failures.add(cause);
            }
        };
    }

    /** A checkpoint, acknowledged; null where there is no state. */
    static KeyedStateHandle snapshot(DstlKeyedStateBackend<?> backend, long id) throws Exception {
        RunnableFuture<SnapshotResult<KeyedStateHandle>> future = trigger(backend, id);
        var executor = Executors.newSingleThreadExecutor();
        executor.submit(future);
        executor.shutdown();
        return future.get().getJobManagerOwnedSnapshot();
    }

    static RunnableFuture<SnapshotResult<KeyedStateHandle>> trigger(DstlKeyedStateBackend<?> backend, long id) throws Exception {
        return backend.snapshot(id, 0, streams(), CheckpointOptions.forCheckpointWithDefaultLocation());
    }

    static CheckpointStreamFactory streams() {
        return new MemCheckpointStreamFactory(4 << 20);
    }

    static CheckpointOptions options(org.apache.flink.runtime.checkpoint.SnapshotType type) {
        return new CheckpointOptions(type, CheckpointStorageLocationReference.getDefault());
    }

    /** A checkpoint that Flink completes. */
    static KeyedStateHandle complete(DstlKeyedStateBackend<?> backend, long id) throws Exception {
        KeyedStateHandle handle = snapshot(backend, id);
        backend.notifyCheckpointComplete(id);
        return handle;
    }
}
