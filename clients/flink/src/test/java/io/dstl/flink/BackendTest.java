package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.dstl.flink.DstlOptions.Inner;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.RunnableFuture;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.runtime.checkpoint.CheckpointType;
import org.apache.flink.runtime.checkpoint.SavepointType;
import org.apache.flink.runtime.executiongraph.ExecutionGraphID;
import org.apache.flink.runtime.state.InternalPriorityQueue;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.runtime.state.internal.InternalMapState;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.apache.flink.streaming.api.operators.TimerHeapInternalTimer;
import org.apache.flink.streaming.api.operators.TimerSerializer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** One backend on a real daemon, driven as Flink does. */
class BackendTest {
    private final List<DstlKeyedStateBackend<?>> open = new ArrayList<>();

    @AfterEach
    void close() {
        open.forEach(DstlKeyedStateBackend::dispose);
    }

    private DstlKeyedStateBackend<Integer> open(TestTask task, KeyedStateHandle... handles) throws Exception {
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE, handles);
        open.add(backend);
        return backend;
    }

    private static InternalValueState<Integer, VoidNamespace, Long> value(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, Long> state = (InternalValueState<Integer, VoidNamespace, Long>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("count", LongSerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    @SuppressWarnings("unchecked")
    private static InternalListState<Integer, Integer, String> list(DstlKeyedStateBackend<Integer> backend) throws Exception {
        return (InternalListState<Integer, Integer, String>) (Object) backend.getOrCreateKeyedState(IntSerializer.INSTANCE,
                new ListStateDescriptor<>("list", StringSerializer.INSTANCE));
    }

    private static void put(DstlKeyedStateBackend<Integer> backend, int key, long to) throws Exception {
        InternalValueState<Integer, VoidNamespace, Long> state = value(backend);
        backend.setCurrentKey(key);
        state.update(to);
    }

    private static Long get(DstlKeyedStateBackend<Integer> backend, int key) throws Exception {
        InternalValueState<Integer, VoidNamespace, Long> state = value(backend);
        backend.setCurrentKey(key);
        return state.value();
    }

    @Test
    void a_checkpoint_has_what_was_written_before_it() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 10);
        RunnableFuture<?> future = TestTask.trigger(backend, 1);
        put(backend, 1, 11);
        future.run();
        KeyedStateHandle handle = ((org.apache.flink.runtime.state.SnapshotResult<KeyedStateHandle>) future.get())
                .getJobManagerOwnedSnapshot();

        assertThat(get(open(task.next(), handle), 1)).isEqualTo(10);
    }

    @Test
    void an_equal_attempt_of_another_execution_graph_restores() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 10);
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        put(backend, 1, 99);
        backend.path().flush(true);

        TestTask again = task.next();
        again.attempt = task.attempt;
        again.graph = new ExecutionGraphID();
        assertThat(get(open(again, handle), 1)).isEqualTo(10);
    }

    @Test
    void an_equal_attempt_of_the_same_graph_restores_too() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 10);
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        put(backend, 1, 99);
        backend.path().flush(true);

        TestTask again = task.next();
        again.attempt = task.attempt;
        assertThat(get(open(again, handle), 1)).isEqualTo(10);
    }

    @Test
    void a_stale_owner_fails_its_task_before_a_checkpoint_is_handed_over() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> stale = open(task);
        put(stale, 1, 10);
        KeyedStateHandle handle = TestTask.complete(stale, 1);
        open(task.next(), handle);

        assertThatThrownBy(() -> {
            put(stale, 1, 11);
            TestTask.snapshot(stale, 2);
        }).isInstanceOf(Exception.class);
        for (int tries = 0; task.failures.isEmpty() && tries < 100; tries++) {
            Thread.sleep(20);
        }
        assertThat(task.failures).isNotEmpty();
        assertThatThrownBy(() -> TestTask.snapshot(stale, 3)).isInstanceOf(Exception.class);
    }

    @Test
    void merging_namespaces_leaves_nothing_stale_in_cache_overlay_or_filter() throws Exception {
        DstlKeyedStateBackend<Integer> backend = open(new TestTask());
        InternalListState<Integer, Integer, String> list = list(backend);
        backend.setCurrentKey(1);
        list.setCurrentNamespace(9);
        assertThat(list.get()).isNull();
        list.setCurrentNamespace(1);
        list.add("a");
        assertThat(list.get()).containsExactly("a");
        list.setCurrentNamespace(2);
        list.add("b");

        list.mergeNamespaces(9, List.of(1, 2));

        list.setCurrentNamespace(9);
        assertThat(list.get()).containsExactly("a", "b");
        list.setCurrentNamespace(1);
        assertThat(list.get()).isNull();
        list.add("c");
        list.setCurrentNamespace(9);
        list.add("d");
        list.mergeNamespaces(9, List.of(1, 2));
        assertThat(list.get()).containsExactly("a", "b", "d", "c");
    }

    @Test
    void a_deleted_timer_beyond_the_page_does_not_come_back() throws Exception {
        TestTask task = new TestTask();
        task.options.set(DstlOptions.TIMER_PAGE, 2);
        DstlKeyedStateBackend<Integer> backend = open(task);
        InternalPriorityQueue<TimerHeapInternalTimer<Integer, VoidNamespace>> timers = timers(backend);
        for (int time = 0; time < 100; time++) {
            timers.add(timer(time));
        }
        timers.remove(timer(50));
        timers.remove(timer(0));
        timers.add(timer(-5));
        assertThat(timers.size()).isEqualTo(99);
        for (int time = -5; time < 100; time++) {
            if (time == -5 || time > 0 && time != 50) {
                assertThat(timers.peek()).isEqualTo(timer(time));
                assertThat(timers.poll()).isEqualTo(timer(time));
            }
        }
        assertThat(timers.isEmpty()).isTrue();
    }

    @Test
    void timers_of_one_time_that_a_page_cuts_fire_once_each_after_a_restore() throws Exception {
        TestTask task = new TestTask();
        task.options.set(DstlOptions.TIMER_PAGE, 3);
        DstlKeyedStateBackend<Integer> backend = open(task);
        InternalPriorityQueue<TimerHeapInternalTimer<Integer, VoidNamespace>> timers = timers(backend);
        for (int key = 0; key < 20; key++) {
            timers.add(new TimerHeapInternalTimer<>(7, key, VoidNamespace.INSTANCE));
        }
        KeyedStateHandle handle = TestTask.complete(backend, 1);

        timers = timers(open(task.next(), handle));
        List<Integer> fired = new ArrayList<>();
        timers.add(new TimerHeapInternalTimer<>(7, 3, VoidNamespace.INSTANCE));
        while (!timers.isEmpty()) {
            fired.add(timers.poll().getKey());
            if (fired.size() == 5) {
                timers.add(new TimerHeapInternalTimer<>(7, 100, VoidNamespace.INSTANCE));
            }
        }
        assertThat(fired).hasSize(21).doesNotHaveDuplicates();
    }

    private static InternalPriorityQueue<TimerHeapInternalTimer<Integer, VoidNamespace>> timers(
            DstlKeyedStateBackend<Integer> backend) {
        return backend.create("_timer_state/event_x",
                new TimerSerializer<>(IntSerializer.INSTANCE, VoidNamespaceSerializer.INSTANCE));
    }

    private static TimerHeapInternalTimer<Integer, VoidNamespace> timer(long time) {
        return new TimerHeapInternalTimer<>(time, 1, VoidNamespace.INSTANCE);
    }

    /** Three checkpoints of a run are there, and 3 are kept within a run; another run begins, and completes five. */
    @ParameterizedTest
    @CsvSource({"5, NO_CLAIM, false", "5, CLAIM, false", "7, CLAIM, false", "6, CLAIM, true", "6, NO_CLAIM, true", "0, NO_CLAIM, false"})
    void a_new_run_lets_go_of_nothing_of_the_run_before_but_what_it_claims(long from, RecoveryClaimMode claim, boolean otherJob)
            throws Exception {
        TestTask task = new TestTask();
        task.jobConfiguration.set(CheckpointingOptions.MAX_RETAINED_CHECKPOINTS, 3);
        DstlKeyedStateBackend<Integer> backend = open(task);
        Map<Long, KeyedStateHandle> kept = new TreeMap<>();
        for (long id = 5; id <= 7; id++) {
            put(backend, 1, id);
            kept.put(id, TestTask.complete(backend, id));
        }

        TestTask again = task.next();
        again.graph = new ExecutionGraphID();
        again.attempt = 0;
        again.job = otherJob ? new JobID() : task.job;
        again.jobConfiguration.set(StateRecoveryOptions.SAVEPOINT_PATH, from == 0 ? "" : "chk-" + from);
        again.jobConfiguration.set(StateRecoveryOptions.RESTORE_MODE, claim);
        DstlKeyedStateBackend<Integer> other = from == 0 ? open(again) : open(again, kept.get(from));
        for (long id = 8; id <= 12; id++) {
            put(other, 1, 100 + id);
            TestTask.complete(other, id);
        }

        if (claim == RecoveryClaimMode.CLAIM) {
            kept.remove(from);
        }
        for (Map.Entry<Long, KeyedStateHandle> one : kept.entrySet()) {
            TestTask reader = new TestTask();
            reader.jobConfiguration.set(StateRecoveryOptions.SAVEPOINT_PATH, "read");
            assertThat(get(open(reader, one.getValue()), 1)).isEqualTo(one.getKey());
        }
    }

    @Test
    void within_a_run_only_so_many_checkpoints_are_kept_through_fail_overs() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle first = TestTask.complete(backend, 1);
        TestTask next = task.next();
        DstlKeyedStateBackend<Integer> second = open(next, first);
        put(second, 1, 2);
        TestTask.complete(second, 2);
        put(second, 1, 3);
        KeyedStateHandle third = TestTask.complete(second, 3);
        Thread.sleep(500);

        assertThatThrownBy(() -> open(new TestTask(), first)).hasMessageContaining("state-recovery.path");
        assertThat(get(open(new TestTask(), third), 1)).isEqualTo(3);
    }

    @Test
    void a_checkpoint_that_flink_aborts_after_its_acknowledgement_can_still_be_restored() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle aborted = TestTask.snapshot(backend, 1);
        backend.notifyCheckpointAborted(1);
        backend.notifyCheckpointAborted(77);
        Thread.sleep(300);
        assertThat(get(open(task.next(), aborted), 1)).isEqualTo(1);
    }

    @Test
    void of_checkpoints_aborted_after_their_acknowledgement_the_newest_16_are_kept() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        List<KeyedStateHandle> aborted = new ArrayList<>();
        for (long id = 1; id <= 17; id++) {
            put(backend, 1, id);
            aborted.add(TestTask.snapshot(backend, id));
            backend.notifyCheckpointAborted(id);
        }
        Thread.sleep(500);
        assertThatThrownBy(() -> open(new TestTask(), aborted.get(0))).hasMessageContaining("checkpoint");
        assertThat(get(open(new TestTask(), aborted.get(1)), 1)).isEqualTo(2);
    }

    @Test
    void a_cancelled_snapshot_is_given_up_and_the_next_one_has_its_changes() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        TestTask.trigger(backend, 1).cancel(true);
        KeyedStateHandle handle = TestTask.complete(backend, 2);
        assertThat(get(open(task.next(), handle), 1)).isEqualTo(1);
    }

    @Test
    void a_backend_without_state_has_no_handle() throws Exception {
        assertThat(TestTask.snapshot(open(new TestTask()), 1)).isNull();
    }

    @Test
    void states_that_nobody_registered_again_are_in_the_next_checkpoint() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle first = TestTask.complete(backend, 1);
        DstlKeyedStateBackend<Integer> untouched = open(task.next(), first);
        KeyedStateHandle second = TestTask.complete(untouched, 2);
        TestTask last = task.next().next();
        assertThat(get(open(last, second), 1)).isEqualTo(1);
    }

    @Test
    void claim_of_another_job_goes_on_with_its_chain() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle first = TestTask.complete(backend, 1);

        TestTask claims = claiming(RecoveryClaimMode.CLAIM);
        DstlKeyedStateBackend<Integer> second = open(claims, first);
        put(second, 2, 2);
        KeyedStateHandle own = TestTask.complete(second, 2);
        DstlKeyedStateBackend<Integer> third = open(claims.next(), own);
        assertThat(get(third, 1)).isEqualTo(1);
        assertThat(get(third, 2)).isEqualTo(2);
    }

    @Test
    void no_claim_leaves_the_source_to_its_owner() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle first = TestTask.complete(backend, 1);

        TestTask copies = claiming(RecoveryClaimMode.NO_CLAIM);
        DstlKeyedStateBackend<Integer> copy = open(copies, first);
        put(copy, 1, 7);
        KeyedStateHandle own = TestTask.complete(copy, 2);
        put(backend, 1, 5);
        KeyedStateHandle next = TestTask.complete(backend, 2);

        assertThat(get(open(task.next(), next), 1)).isEqualTo(5);
        assertThat(get(open(copies.next(), own), 1)).isEqualTo(7);
    }

    private static TestTask claiming(RecoveryClaimMode mode) {
        TestTask task = new TestTask();
        task.job = new JobID();
        task.jobConfiguration.set(StateRecoveryOptions.SAVEPOINT_PATH, "chk");
        task.jobConfiguration.set(StateRecoveryOptions.RESTORE_MODE, mode);
        return task;
    }

    @Test
    void a_claim_that_only_the_task_manager_knows_of_fails_before_a_checkpoint_depends_on_it() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        put(backend, 1, 1);
        KeyedStateHandle first = TestTask.complete(backend, 1);
        DstlKeyedStateBackend<Integer> second = open(claiming(RecoveryClaimMode.CLAIM), first);
        assertThatThrownBy(() -> second.snapshot(2, 0, TestTask.streams(), TestTask.options(CheckpointType.FULL_CHECKPOINT)))
                .hasMessageContaining("execution.state-recovery.claim-mode");
    }

    @Test
    void savepoints_are_refused_by_name() throws Exception {
        DstlKeyedStateBackend<Integer> backend = open(new TestTask());
        assertThatThrownBy(backend::savepoint).hasMessageContaining("externalized-checkpoint-retention");
        assertThatThrownBy(() -> backend.snapshot(1, 0, TestTask.streams(), TestTask.options(
                SavepointType.savepoint(org.apache.flink.core.execution.SavepointFormatType.NATIVE))))
                .hasMessageContaining("externalized-checkpoint-retention");
    }

    @Test
    void rescaling_by_subtasks_with_unequal_attempts_keeps_every_key() throws Exception {
        TestTask task = new TestTask();
        List<KeyedStateHandle> handles = new ArrayList<>();
        List<DstlKeyedStateBackend<Integer>> before = new ArrayList<>();
        for (int subtask = 0; subtask < 2; subtask++) {
            TestTask one = task.next();
            one.attempt = 1;
            one.subtask = subtask;
            one.parallelism = 2;
            DstlKeyedStateBackend<Integer> backend = open(one);
            before.add(backend);
            for (int key = 0; key < 100; key++) {
                if (one.range().contains(org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup(key,
                        TestTask.KEY_GROUPS))) {
                    put(backend, key, key);
                }
            }
            handles.add(TestTask.complete(backend, 1));
        }
        ExecutionGraphID graph = new ExecutionGraphID();
        int found = 0;
        for (int subtask : new int[] {2, 1, 3, 0}) {
            TestTask one = task.next();
            one.graph = graph;
            one.attempt = subtask < 2 ? 1 : 0;
            one.subtask = subtask;
            one.parallelism = 4;
            DstlKeyedStateBackend<Integer> backend = open(one, handles.stream()
                    .filter(handle -> handle.getIntersection(one.range()) != null).toArray(KeyedStateHandle[]::new));
            for (int key = 0; key < 100; key++) {
                if (one.range().contains(org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup(key,
                        TestTask.KEY_GROUPS))) {
                    assertThat(get(backend, key)).isEqualTo(key);
                    found++;
                }
            }
            TestTask.complete(backend, 2);
        }
        assertThat(found).isEqualTo(100);
    }

    @Test
    void the_filter_learns_every_key_after_a_restore() throws Exception {
        TestTask task = new TestTask();
        DstlKeyedStateBackend<Integer> backend = open(task);
        for (int key = 0; key < 5000; key++) {
            put(backend, key, key);
        }
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        TestTask next = task.next();
        next.options.set(DstlOptions.CACHE_SIZE, MemorySize.ZERO);
        DstlKeyedStateBackend<Integer> restored = open(next, handle);
        for (int round = 0; round < 3; round++) {
            for (int key = 0; key < 10_000; key++) {
                if (round == 1 && key % 3 == 0) {
                    put(restored, 20_000 + key, key);
                }
                assertThat(get(restored, key)).isEqualTo(key < 5000 ? (Long) (long) key : null);
            }
        }
        assertThat(get(restored, 20_003)).isEqualTo(3);
    }

    @Test
    void a_map_of_many_pages_is_read_while_it_is_changed() throws Exception {
        DstlKeyedStateBackend<Integer> backend = open(new TestTask());
        @SuppressWarnings("unchecked")
        InternalMapState<Integer, VoidNamespace, Integer, String> map = (InternalMapState<Integer, VoidNamespace, Integer, String>)
                (Object) backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new MapStateDescriptor<>("map", IntSerializer.INSTANCE, StringSerializer.INSTANCE));
        map.setCurrentNamespace(VoidNamespace.INSTANCE);
        backend.setCurrentKey(1);
        for (int key = 0; key < 5000; key++) {
            map.put(key, key % 7 == 0 ? null : "v" + key);
        }
        int seen = 0;
        for (var entries = map.iterator(); entries.hasNext();) {
            Map.Entry<Integer, String> entry = entries.next();
            assertThat(entry.getValue()).isEqualTo(entry.getKey() % 7 == 0 ? null : "v" + entry.getKey());
            if (entry.getKey() % 2 == 0) {
                entries.remove();
            } else {
                entry.setValue("w");
            }
            seen++;
        }
        assertThat(seen).isEqualTo(5000);
        int left = 0;
        for (Map.Entry<Integer, String> entry : map.entries()) {
            assertThat(entry.getValue()).isEqualTo("w");
            left++;
        }
        assertThat(left).isEqualTo(2500);
        map.clear();
        assertThat(map.isEmpty()).isTrue();
    }

    @Test
    void both_inner_backends_keep_values_beyond_one_batch() throws Exception {
        for (Inner inner : new Inner[] {Inner.HASHMAP, Inner.ROCKSDB}) {
            TestTask task = new TestTask();
            task.options = Backends.options(Daemon.shared(), inner);
            DstlKeyedStateBackend<Integer> backend = open(task);
            InternalListState<Integer, Integer, String> list = list(backend);
            backend.setCurrentKey(1);
            list.setCurrentNamespace(1);
            List<String> all = new ArrayList<>();
            for (int i = 0; i < 3000; i++) {
                all.add(i + "x".repeat(300));
            }
            list.addAll(all);
            assertThat(list.get()).containsExactlyElementsOf(all);
            list.update(all.subList(0, 2999));
            assertThat(list.get()).hasSize(2999);
        }
    }
}
