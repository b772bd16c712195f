package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.UUID;
import java.util.stream.Stream;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.IllegalConfigurationException;
import org.apache.flink.configuration.StateChangelogOptions;
import org.apache.flink.runtime.jobgraph.JobType;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsSavepointStateHandle;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;
import org.apache.flink.util.ExceptionUtils;
import org.junit.jupiter.api.Test;

/** Each mistake has a message that names the setting to change, and no task goes on with wrong or empty state. */
class BadInputTest {
    private static InternalValueState<Integer, VoidNamespace, String> text(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, String> state = (InternalValueState<Integer, VoidNamespace, String>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("text", StringSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    private static TestTask on(Daemon daemon) {
        TestTask task = new TestTask();
        task.options = Backends.options(daemon, DstlOptions.Inner.HASHMAP);
        return task;
    }

    private static String message(Throwable thrown) {
        return ExceptionUtils.stringifyException(thrown);
    }

    @Test
    void no_daemon_at_the_socket() {
        TestTask task = new TestTask();
        task.options.set(DstlOptions.SOCKET, "/nonexistent/dstl.sock");
        task.options.set(DstlOptions.CONNECT, Duration.ofMillis(300));
        assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE))
                .hasMessageContaining("/nonexistent/dstl.sock").hasMessageContaining("state.backend.dstl.socket");
    }

    @Test
    void a_user_who_may_not_connect() {
        try (Daemon daemon = Daemon.start("rpc.allowed-uids = [54321]", "rpc.socket-mode = \"0666\"")) {
            TestTask task = on(daemon);
            task.options.set(DstlOptions.CONNECT, Duration.ofSeconds(1));
            assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE)).hasMessageContaining("rpc.allowed-uids");
        }
    }

    @Test
    void a_daemon_that_is_too_old() throws Exception {
        try (Daemon daemon = Daemon.start(); OlderDaemon older = OlderDaemon.before(daemon, "open.attempt-token", "open.peer-group")) {
            TestTask task = on(daemon);
            task.options.set(DstlOptions.SOCKET, older.socket().toString());
            assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE))
                    .hasMessageContaining("too old").hasMessageContaining("upgrade it")
                    .hasMessageContaining("open.attempt-token").hasMessageContaining("open.peer-group");
        }
    }

    @Test
    void a_job_in_batch_execution() {
        TestTask task = new TestTask();
        task.type = JobType.BATCH;
        assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE))
                .hasMessageContaining("execution.batch-state-backend.enabled");
    }

    @Test
    void a_savepoint() {
        KeyedStateHandle savepoint = new KeyGroupsSavepointStateHandle(
                new KeyGroupRangeOffsets(0, TestTask.KEY_GROUPS - 1), new ByteStreamStateHandle("savepoint", new byte[1]));
        assertThatThrownBy(() -> new TestTask().open(IntSerializer.INSTANCE, savepoint))
                .hasMessageContaining("execution.state-recovery.path");
    }

    @Test
    void a_checkpoint_of_another_backend() throws Exception {
        KeyedStateHandle foreign = new IncrementalRemoteKeyedStateHandle(UUID.randomUUID(),
                KeyGroupRange.of(0, TestTask.KEY_GROUPS - 1), 1, List.of(), List.of(),
                new ByteStreamStateHandle("meta", new byte[1]));
        assertThatThrownBy(() -> new TestTask().open(IntSerializer.INSTANCE, foreign))
                .hasMessageContaining("state.backend.type").hasMessageContaining("native form");
    }

    @Test
    void a_changelog_around_the_changelog() {
        Configuration configuration = new Configuration();
        configuration.set(StateChangelogOptions.ENABLE_STATE_CHANGE_LOG, true);
        assertThatThrownBy(() -> new DstlStateBackendFactory().createFromConfig(configuration, getClass().getClassLoader()))
                .isInstanceOf(IllegalConfigurationException.class).hasMessageContaining("state.changelog.enabled: false");
    }

    @Test
    void options_out_of_range() {
        Configuration page = new Configuration();
        page.set(DstlOptions.TIMER_PAGE, 0);
        assertThatThrownBy(() -> Backends.of(page)).hasMessageContaining("state.backend.dstl.timer-page");
        Configuration name = new Configuration();
        name.set(DstlOptions.JOB_NAME, "a/b");
        assertThatThrownBy(() -> Backends.of(name)).hasMessageContaining("state.backend.dstl.job-name");
    }

    @Test
    void a_value_beyond_the_limit() throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-value-size = \"64 KiB\"")) {
            DstlKeyedStateBackend<Integer> backend = on(daemon).open(IntSerializer.INSTANCE);
            backend.setCurrentKey(1);
            InternalValueState<Integer, VoidNamespace, String> state = text(backend);
            assertThatThrownBy(() -> state.update("x".repeat(70_000)))
                    .hasMessageContaining("state `text`").hasMessageContaining("rpc.max-value-size");
            backend.dispose();
        }
    }

    @Test
    void a_key_beyond_the_limit() throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-key-size = \"1 KiB\"")) {
            DstlKeyedStateBackend<String> backend = on(daemon).open(StringSerializer.INSTANCE);
            InternalValueState<String, VoidNamespace, String> state = (InternalValueState<String, VoidNamespace, String>) (Object)
                    backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                            new ValueStateDescriptor<>("text", StringSerializer.INSTANCE));
            state.setCurrentNamespace(VoidNamespace.INSTANCE);
            backend.setCurrentKey("k".repeat(2000));
            assertThatThrownBy(() -> state.update("x"))
                    .hasMessageContaining("state `text`").hasMessageContaining("rpc.max-key-size");
            backend.dispose();
        }
    }

    @Test
    void more_tasks_than_the_daemon_has_memory_for_their_changes() throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-message-size = \"512 KiB\"", "rpc.max-value-size = \"64 KiB\"",
                "state.changelog.dstl.dfs.upload.max-in-flight = \"1 MiB\"",
                "state.changelog.dstl.dfs.preemptive-persist-threshold = \"512 KiB\"",
                "state.changelog.dstl.dfs.batch.persist-size-threshold = \"512 KiB\"")) {
            List<DstlKeyedStateBackend<Integer>> backends = new ArrayList<>();
            assertThatThrownBy(() -> {
                while (backends.size() < 3) {
                    backends.add(on(daemon).open(IntSerializer.INSTANCE));
                }
            }).hasMessageContaining("state.changelog.dstl.dfs.upload.max-in-flight")
                    .hasMessageContaining("taskmanager.numberOfTaskSlots");
            assertThat(backends).isNotEmpty();
            backends.forEach(DstlKeyedStateBackend::dispose);
        }
    }

    @Test
    void full_state_memory() throws Exception {
        try (Daemon daemon = Daemon.start("memory.state = \"8 MiB\"")) {
            TestTask task = on(daemon);
            DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
            InternalValueState<Integer, VoidNamespace, String> state = text(backend);
            assertThatThrownBy(() -> {
                for (int key = 0; key < 10_000; key++) {
                    backend.setCurrentKey(key);
                    state.update("x".repeat(2000));
                }
                TestTask.snapshot(backend, 1);
            }).satisfies(thrown -> assertThat(message(thrown)).contains("memory.state"));
            for (int tries = 0; task.failures.isEmpty() && tries < 100; tries++) {
                Thread.sleep(20);
            }
            assertThat(task.failures).isNotEmpty();
            backend.dispose();
        }
    }

    @Test
    void a_daemon_on_another_store_than_the_handles() throws Exception {
        try (Daemon one = Daemon.start(); Daemon other = Daemon.start()) {
            KeyedStateHandle handle = checkpoint(one);
            TestTask task = on(other);
            assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE, handle)).hasMessageContaining("--store");
        }
    }

    @Test
    void handles_of_a_lost_store() throws Exception {
        try (Daemon daemon = Daemon.start()) {
            KeyedStateHandle handle = checkpoint(daemon);
            daemon.kill();
            try (Stream<Path> all = Files.walk(daemon.store())) {
                all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            }
            daemon.start(true);
            TestTask task = on(daemon);
            assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE, handle)).hasMessageContaining("execution.state-recovery.path");
        }
    }

    @Test
    void a_store_that_lost_a_part_of_the_checkpoint() throws Exception {
        try (Daemon daemon = Daemon.start()) {
            // More than a manifest takes in.
            KeyedStateHandle handle = checkpoint(daemon, 3000);
            daemon.kill();
            // What holds changes or entries; what names them stays.
            List<Path> lost;
            try (Stream<Path> all = Files.walk(daemon.store())) {
                lost = all.filter(path -> Files.isRegularFile(path) && !path.toString().contains("manifest")).toList();
            }
            assertThat(lost).isNotEmpty();
            for (Path path : lost) {
                Files.delete(path);
            }
            daemon.start(true);
            TestTask task = on(daemon);
            assertThatThrownBy(() -> task.open(IntSerializer.INSTANCE, handle)).hasMessageContaining("execution.state-recovery.path");
        }
    }

    private static KeyedStateHandle checkpoint(Daemon daemon) throws Exception {
        return checkpoint(daemon, 1);
    }

    private static KeyedStateHandle checkpoint(Daemon daemon, int keys) throws Exception {
        DstlKeyedStateBackend<Integer> backend = on(daemon).open(IntSerializer.INSTANCE);
        InternalValueState<Integer, VoidNamespace, String> state = text(backend);
        for (int key = 1; key <= keys; key++) {
            backend.setCurrentKey(key);
            state.update("one".repeat(200));
        }
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        backend.dispose();
        return handle;
    }

    @Test
    void a_daemon_that_dies_fails_the_task_and_no_checkpoint_is_handed_over() throws Exception {
        try (Daemon daemon = Daemon.start()) {
            TestTask task = on(daemon);
            task.options.set(DstlOptions.RECONNECT, Duration.ofMillis(500));
            DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
            InternalValueState<Integer, VoidNamespace, String> state = text(backend);
            backend.setCurrentKey(1);
            state.update("one");
            daemon.kill();
            daemon.start(true);
            assertThatThrownBy(() -> TestTask.snapshot(backend, 1)).isInstanceOf(Exception.class);
            for (int tries = 0; task.failures.isEmpty() && tries < 200; tries++) {
                Thread.sleep(20);
            }
            assertThat(task.failures).isNotEmpty();
            backend.setCurrentKey(2);
            assertThatThrownBy(() -> {
                state.value();
                TestTask.snapshot(backend, 2);
            }).isInstanceOf(Exception.class);
            backend.dispose();
        }
    }

    /** However many failed checkpoints a job tolerates: it must not go on without the writes of a batch that was refused. */
    @Test
    void a_batch_that_the_daemon_refuses_fails_the_task_before_it_fails_the_checkpoint_behind_it() throws Exception {
        TestTask task = on(Daemon.shared());
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        backend.setCurrentKey(1);
        text(backend).update("one");
        int unknown = 9999;
        backend.path().write(10, batch -> batch.put(unknown, 1, new byte[] {1}, new byte[0], new byte[] {1}));
        var future = TestTask.trigger(backend, 1);
        future.run();
        assertThatThrownBy(future::get).satisfies(thrown -> assertThat(task.failures).isNotEmpty());
        assertThatThrownBy(() -> TestTask.snapshot(backend, 2)).isInstanceOf(Exception.class);
        assertThatThrownBy(() -> {
            text(backend).update("two");
            backend.path().flush(true);
        }).isInstanceOf(DaemonFailure.class);
        backend.dispose();
    }
}
