package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.DstlOptions.Inner;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.io.ObjectStreamClass;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.runtime.executiongraph.ExecutionGraphID;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.api.Test;

/** Handles between the subtasks of a job: what they are made of, who has none, and what they depend on. */
class HandlesTest {
    private static final int KEYS = 100;

    @SuppressWarnings("unchecked")
    private static InternalValueState<Integer, VoidNamespace, Long> value(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, Long> state = (InternalValueState<Integer, VoidNamespace, Long>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("count", LongSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    private static List<Integer> keys(TestTask task) {
        return Stream.iterate(0, key -> key + 1).limit(KEYS)
                .filter(key -> task.range().contains(KeyGroupRangeAssignment.assignToKeyGroup(key, TestTask.KEY_GROUPS))).toList();
    }

    private static TestTask start(TestTask of, ExecutionGraphID graph, int subtask, int parallelism) {
        TestTask task = of.next();
        task.graph = graph;
        task.subtask = subtask;
        task.parallelism = parallelism;
        return task;
    }

    private static KeyedStateHandle[] parts(TestTask task, List<KeyedStateHandle> handles) {
        return handles.stream().filter(handle -> handle != null && handle.getIntersection(task.range()) != null)
                .toArray(KeyedStateHandle[]::new);
    }

    /** A JobManager deserializes them with the class path of Flink alone. */
    @Test
    void a_handle_is_made_of_classes_of_flink_alone() throws Exception {
        DstlKeyedStateBackend<Integer> backend = new TestTask().open(IntSerializer.INSTANCE);
        backend.setCurrentKey(1);
        value(backend).update(1L);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(TestTask.complete(backend, 1));
        }
        backend.dispose();
        Set<String> classes = new TreeSet<>();
        try (ObjectInputStream in = new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray())) {
            @Override
            protected Class<?> resolveClass(ObjectStreamClass description) throws java.io.IOException, ClassNotFoundException {
                classes.add(description.getName());
                return super.resolveClass(description);
            }
        }) {
            in.readObject();
        }
        assertThat(classes).isNotEmpty().allMatch(name -> name.startsWith("org.apache.flink.") || name.startsWith("java.")
                || name.startsWith("["));
    }

    @ParameterizedTest
    @EnumSource(value = Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void key_groups_of_subtasks_without_handle_begin_empty_and_the_others_keep_every_key(Inner inner) throws Exception {
        TestTask task = new TestTask(Backends.options(Daemon.shared(), inner));
        ExecutionGraphID first = task.graph;
        List<KeyedStateHandle> handles = new ArrayList<>();
        List<Integer> written = new ArrayList<>();
        for (int subtask = 0; subtask < 3; subtask++) {
            TestTask one = start(task, first, subtask, 3);
            DstlKeyedStateBackend<Integer> backend = one.open(IntSerializer.INSTANCE);
            if (subtask != 1) {
                for (int key : keys(one)) {
                    backend.setCurrentKey(key);
                    value(backend).update((long) key);
                    written.add(key);
                }
            }
            handles.add(TestTask.complete(backend, 1));
            backend.dispose();
        }
        assertThat(handles.get(1)).isNull();

        ExecutionGraphID second = new ExecutionGraphID();
        List<KeyedStateHandle> next = new ArrayList<>();
        for (int subtask = 0; subtask < 2; subtask++) {
            TestTask one = start(task, second, subtask, 2);
            DstlKeyedStateBackend<Integer> backend = one.open(IntSerializer.INSTANCE, parts(one, handles));
            for (int key : keys(one)) {
                backend.setCurrentKey(key);
                assertThat(value(backend).value()).as("key " + key).isEqualTo(written.contains(key) ? (Long) (long) key : null);
                value(backend).update(1000L + key);
            }
            next.add(TestTask.complete(backend, 2));
            backend.dispose();
        }

        TestTask last = start(task, new ExecutionGraphID(), 0, 1);
        DstlKeyedStateBackend<Integer> backend = last.open(IntSerializer.INSTANCE, parts(last, next));
        for (int key = 0; key < KEYS; key++) {
            backend.setCurrentKey(key);
            assertThat(value(backend).value()).isEqualTo(1000L + key);
        }
        backend.dispose();
    }

    @ParameterizedTest
    @EnumSource(value = Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void the_first_checkpoint_after_no_claim_needs_nothing_of_its_source(Inner inner) throws Exception {
        try (Daemon daemon = Daemon.start()) {
            TestTask source = new TestTask(Backends.options(daemon, inner));
            DstlKeyedStateBackend<Integer> backend = source.open(IntSerializer.INSTANCE);
            for (int key = 0; key < 2000; key++) {
                backend.setCurrentKey(key);
                value(backend).update((long) key);
            }
            KeyedStateHandle given = TestTask.complete(backend, 1);
            backend.dispose();

            TestTask copies = new TestTask(source.options);
            copies.job = new JobID();
            copies.jobConfiguration.set(StateRecoveryOptions.SAVEPOINT_PATH, "chk-1");
            copies.jobConfiguration.set(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.NO_CLAIM);
            DstlKeyedStateBackend<Integer> copy = copies.open(IntSerializer.INSTANCE, given);
            KeyedStateHandle own = TestTask.complete(copy, 2);
            copy.dispose();

            daemon.kill();
            try (Stream<Path> jobs = Files.list(daemon.store())) {
                Path of = jobs.filter(path -> path.getFileName().toString().startsWith(source.job.toHexString())).findFirst().orElseThrow();
                try (Stream<Path> all = Files.walk(of)) {
                    all.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
                }
            }
            daemon.start(true);
            DstlKeyedStateBackend<Integer> restored = copies.next().open(IntSerializer.INSTANCE, own);
            for (int key = 0; key < 2000; key++) {
                restored.setCurrentKey(key);
                assertThat(value(restored).value()).isEqualTo(key);
            }
            restored.dispose();
        }
    }
}
