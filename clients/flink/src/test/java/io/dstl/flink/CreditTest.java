package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.dstl.client.Batch;
import io.dstl.client.DstlClient;
import io.dstl.client.DstlException;
import io.dstl.client.Session;
import io.dstl.client.SessionLostException;
import io.dstl.proto.v1.Limits;
import java.lang.reflect.Proxy;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.LongSupplier;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ReducingStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.runtime.state.internal.InternalReducingState;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A task waits for credit only as long as an idle session may be without it. */
class CreditTest {
    private final List<Integer> sent = new ArrayList<>();
    private final AtomicReference<DstlException> failure = new AtomicReference<>();

    /** A session whose credit the test plays; {@code send} notes the length of the batch. */
    private Session session(LongSupplier credit) {
        return (Session) Proxy.newProxyInstance(Session.class.getClassLoader(), new Class<?>[] {Session.class},
                (proxy, method, arguments) -> switch (method.getName()) {
                    case "credit" -> credit.getAsLong();
                    case "failure" -> Optional.ofNullable(failure.get());
                    case "send" -> {
                        sent.add(((Batch) arguments[0]).encodedLength());
                        yield null;
                    }
                    default -> throw new UnsupportedOperationException(method.getName());
                });
    }

    private static WriteBehind writeBehind(Session session, long largest) {
        return new WriteBehind(session, new DstlMetrics(),
                Limits.newBuilder().setMaxMessageBytes(largest).setMaxBatchOperations(100).build());
    }

    private static Batch put(Batch batch, int bytes) {
        batch.put(1, 0, new byte[] {1}, Batch.NONE, new byte[bytes]);
        return batch;
    }

    @ParameterizedTest
    @ValueSource(ints = {128 << 10, 1 << 20, 4 << 20})
    void a_session_that_has_credit_for_the_largest_batch_and_no_more_takes_every_batch_at_once(int largest) {
        for (int bytes : new int[] {1, largest / 8, largest / 4, largest / 2, largest - (64 << 10), largest - 300, largest - 64}) {
            AtomicLong looks = new AtomicLong();
            WriteBehind out = writeBehind(session(() -> {
                assertThat(looks.incrementAndGet()).as("looks for credit that never grows").isLessThan(3);
                return largest;
            }), largest);
            put(out.next(true, bytes), bytes);
            out.send(true);
        }
        assertThat(sent).hasSize(7);
    }

    @Test
    void the_reserve_is_left_alone_where_the_largest_message_has_room_for_it() {
        AtomicLong credit = new AtomicLong(300 << 10);
        WriteBehind out = writeBehind(session(() -> credit.getAndAdd(8 << 10)), 4 << 20);
        put(out.next(true, 1000), 1000);
        out.send(true);
        assertThat(credit.get()).as("credit when it was sent").isGreaterThan((256 + 64) << 10);
    }

    @Test
    void a_batch_beyond_the_largest_is_handed_over_to_be_refused_and_waits_for_no_credit() {
        WriteBehind out = writeBehind(session(() -> {
            throw new AssertionError("credit for it may never come");
        }), 128 << 10);
        put(out.next(true, 1), 200 << 10);
        out.send(true);
        assertThat(sent).hasSize(1);
    }

    @Test
    void a_batch_has_no_more_operations_than_the_daemon_takes() {
        WriteBehind out = writeBehind(session(() -> 4 << 20), 4 << 20);
        for (int i = 0; i < 250; i++) {
            put(out.next(true, 1), 1);
        }
        out.send(true);
        assertThat(sent).hasSize(3);
    }

    @Test
    void a_session_that_ends_ends_the_wait() throws Exception {
        try (Daemon daemon = Daemon.start(); DstlClient client = DstlClient.connect(daemon.socket())) {
            Session ended = client.open(io.dstl.client.OpenOptions.of("ended", "op").attempt(1).build()).await()
                    .session(io.dstl.client.SessionOptions.DEFAULT).await();
            ended.close();
            while (ended.failure().isEmpty()) {
                Thread.sleep(1);
            }
            failure.set(ended.failure().get());
        }
        assertThat(failure.get()).isInstanceOf(SessionLostException.class);
        WriteBehind out = writeBehind(session(() -> 0), 128 << 10);
        put(out.next(true, 1), 1);
        assertThatThrownBy(() -> out.send(true)).isInstanceOf(DaemonFailure.class).hasCause(failure.get());
        assertThat(out.failed()).isSameAs(failure.get());
    }

    /** Tasks that share a daemon with the shortest messages, room for few changes, and a log whose limit they meet all the time. */
    @Test
    void tasks_on_a_daemon_with_little_room_write_on_and_merge_many_long_namespaces() throws Exception {
        try (Daemon daemon = Daemon.start("rpc.max-message-size = \"128 KiB\"", "rpc.max-value-size = \"16 KiB\"",
                "state.changelog.dstl.dfs.upload.max-in-flight = \"1 MiB\"",
                "state.changelog.dstl.dfs.preemptive-persist-threshold = \"512 KiB\"",
                "state.changelog.dstl.dfs.batch.persist-size-threshold = \"512 KiB\"",
                "recovery.max-replay-time = \"1 s\"", "recovery.replay-rate = 1000")) {
            List<AtomicReference<Throwable>> ends = new ArrayList<>();
            List<Thread> tasks = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                AtomicReference<Throwable> end = new AtomicReference<>();
                Thread task = new Thread(() -> {
                    try {
                        merges(daemon);
                    } catch (Throwable e) {
                        end.set(e);
                    }
                });
                task.start();
                tasks.add(task);
                ends.add(end);
            }
            for (int i = 0; i < tasks.size(); i++) {
                tasks.get(i).join(Duration.ofMinutes(5).toMillis());
                assertThat(tasks.get(i).isAlive()).as("a task waits for ever").isFalse();
                assertThat(ends.get(i).get()).isNull();
            }
        }
    }

    /** Merges more bytes of names of namespaces at once than one message holds, of lists and of values. */
    private static void merges(Daemon daemon) throws Exception {
        TestTask task = new TestTask(Backends.options(daemon, DstlOptions.Inner.HASHMAP));
        task.options.set(DstlOptions.CACHE_SIZE, MemorySize.ZERO);
        task.options.set(DstlOptions.FILTER_SIZE, MemorySize.ZERO);
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        List<String> names = new ArrayList<>();
        for (int i = 0; i < 60; i++) {
            names.add(i + "n".repeat(5000));
        }
        KeyedStateHandle handle = null;
        for (int round = 1; round <= 5; round++) {
            for (String name : names) {
                list(backend).setCurrentNamespace(name);
                sum(backend).setCurrentNamespace(name);
                backend.setCurrentKey(round);
                list(backend).add((long) round);
                sum(backend).add((long) round);
            }
            handle = TestTask.complete(backend, round);
            backend.setCurrentKey(round);
            list(backend).mergeNamespaces("target", names);
            sum(backend).mergeNamespaces("target", names);
            check(backend, round, names.size());
        }
        backend.dispose();
        DstlKeyedStateBackend<Integer> restored = task.next().open(IntSerializer.INSTANCE, handle);
        check(restored, 4, names.size());
        restored.dispose();
    }

    private static void check(DstlKeyedStateBackend<Integer> backend, int key, int count) throws Exception {
        backend.setCurrentKey(key);
        list(backend).setCurrentNamespace("target");
        assertThat(list(backend).get()).hasSize(count).containsOnly((long) key);
        sum(backend).setCurrentNamespace("target");
        assertThat(sum(backend).get()).isEqualTo((long) key * count);
    }

    @SuppressWarnings("unchecked")
    private static InternalListState<Integer, String, Long> list(DstlKeyedStateBackend<Integer> backend) throws Exception {
        return (InternalListState<Integer, String, Long>) (Object) backend.getOrCreateKeyedState(StringSerializer.INSTANCE,
                new ListStateDescriptor<>("list", LongSerializer.INSTANCE));
    }

    @SuppressWarnings("unchecked")
    private static InternalReducingState<Integer, String, Long> sum(DstlKeyedStateBackend<Integer> backend) throws Exception {
        return (InternalReducingState<Integer, String, Long>) (Object) backend.getOrCreateKeyedState(StringSerializer.INSTANCE,
                new ReducingStateDescriptor<>("sum", Long::sum, LongSerializer.INSTANCE));
    }
}
