package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.client.DstlClient;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.RunnableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.BooleanSupplier;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.api.common.typeutils.base.array.BytePrimitiveArraySerializer;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.SnapshotResult;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Tasks that wait: for an answer, for credit while the store is out; and what the daemon does with those that are gone. */
class WaitTest {
    /** Room for changes of the daemon. */
    private static final int IN_FLIGHT_MIB = 16;

    private Daemon daemon;
    private TestTask task;
    private DstlKeyedStateBackend<Integer> backend;
    private InternalValueState<Integer, VoidNamespace, byte[]> state;

    @BeforeEach
    void open() throws Exception {
        daemon = Daemon.start("state.changelog.dstl.dfs.upload.max-in-flight = \"" + IN_FLIGHT_MIB + " MiB\"");
        task = new TestTask(Backends.options(daemon, DstlOptions.Inner.HASHMAP));
        task.options.set(DstlOptions.CACHE_SIZE, MemorySize.ZERO);
        task.options.set(DstlOptions.FILTER_SIZE, MemorySize.ZERO);
        backend = task.open(IntSerializer.INSTANCE);
        state = state(backend);
    }

    @AfterEach
    void close() {
        daemon.signal("CONT");
        backend.dispose();
        daemon.close();
    }

    @SuppressWarnings("unchecked")
    private static InternalValueState<Integer, VoidNamespace, byte[]> state(DstlKeyedStateBackend<Integer> backend) throws Exception {
        InternalValueState<Integer, VoidNamespace, byte[]> state = (InternalValueState<Integer, VoidNamespace, byte[]>) (Object)
                backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE,
                        new ValueStateDescriptor<>("value", BytePrimitiveArraySerializer.INSTANCE));
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    private void put(int key, int bytes) throws Exception {
        backend.setCurrentKey(key);
        state.update(new byte[bytes]);
    }

    private static void eventually(String what, BooleanSupplier condition) throws InterruptedException {
        long until = System.nanoTime() + Duration.ofSeconds(60).toNanos();
        while (!condition.getAsBoolean()) {
            assertThat(System.nanoTime()).as(what).isLessThan(until);
            Thread.sleep(20);
        }
    }

    /** A file where the store's directory was: every write fails until {@link #mend}. */
    private void breakStore() throws Exception {
        Files.move(daemon.store(), aside());
        Files.createFile(daemon.store());
    }

    private void mend() throws Exception {
        Files.delete(daemon.store());
        Files.move(aside(), daemon.store());
    }

    private Path aside() {
        return daemon.directory().resolve("aside");
    }

    @Test
    void while_the_store_is_out_writes_wait_for_credit_but_no_snapshot_does_and_nothing_is_lost() throws Exception {
        int records = 40_000;
        int bytes = 1000;
        put(0, bytes);
        TestTask.complete(backend, 1);
        breakStore();
        AtomicInteger written = new AtomicInteger();
        AtomicInteger slowestMs = new AtomicInteger();
        AtomicReference<Throwable> failed = new AtomicReference<>();
        List<RunnableFuture<SnapshotResult<KeyedStateHandle>>> snapshots = new ArrayList<>();
        Thread writer = new Thread(() -> {
            try {
                for (int key = 0; key < records; key++) {
                    put(key, bytes);
                    written.set(key + 1);
                    if (key % 500 == 499 && snapshots.size() < 40) {
                        long start = System.nanoTime();
                        snapshots.add(TestTask.trigger(backend, 2 + key / 500));
                        slowestMs.accumulateAndGet((int) ((System.nanoTime() - start) / 1_000_000), Math::max);
                    }
                }
            } catch (Throwable e) {
                failed.set(e);
            }
        });
        writer.start();
        int seen = -1;
        while (seen != written.get()) {
            seen = written.get();
            Thread.sleep(3000);
        }
        assertThat(failed.get()).isNull();
        assertThat(seen).as("records before the daemon's room for changes is used up").isLessThan(records);
        assertThat(writer.isAlive()).isTrue();
        assertThat(slowestMs.get()).as("ms of the slowest snapshot's synchronous part").isLessThan(2000);

        mend();
        writer.join(120_000);
        assertThat(failed.get()).isNull();
        assertThat(written.get()).isEqualTo(records);
        KeyedStateHandle handle = TestTask.complete(backend, 1000);
        backend.dispose();
        backend = task.next().open(IntSerializer.INSTANCE, handle);
        assertThat(backend.getKeys("value", VoidNamespace.INSTANCE).count()).isEqualTo(records);
        assertThat(snapshots).isNotEmpty();
    }

    @Test
    void an_interrupt_ends_no_wait_unless_the_task_is_cancelled() throws Exception {
        put(1, 10);
        TestTask.complete(backend, 1);
        evict();
        AtomicReference<Object> read = new AtomicReference<>();
        Thread reader = new Thread(() -> {
            try {
                backend.setCurrentKey(1);
                state.value();
                put(2, 10);
                backend.setCurrentKey(1);
                read.set(state.value().length + (Thread.interrupted() ? " interrupted" : ""));
            } catch (Throwable e) {
                read.set(e);
            }
        });
        reader.start();
        Thread.sleep(300);
        reader.interrupt();
        Thread.sleep(500);
        assertThat(reader.isAlive()).as("still waits").isTrue();
        daemon.signal("CONT");
        reader.join(30_000);
        assertThat(read.get()).isEqualTo("10 interrupted");
        assertThat(task.failures).isEmpty();
    }

    /** Fills the smallest cache there is, so that the next read of an early key asks the daemon; and stops the daemon. */
    private void evict() throws Exception {
        for (int key = 100; key < 1100; key++) {
            put(key, 100);
        }
        backend.path().flush(true);
        for (int key = 100; key < 1100; key++) {
            backend.setCurrentKey(key);
            state.value();
        }
        daemon.signal("STOP");
    }

    @Test
    void cancelling_a_task_ends_its_waits() throws Exception {
        put(1, 10);
        evict();
        AtomicReference<Throwable> ended = new AtomicReference<>();
        Thread reader = new Thread(() -> {
            try {
                backend.setCurrentKey(1);
                state.value();
            } catch (Throwable e) {
                ended.set(e);
            }
        });
        reader.start();
        Thread.sleep(300);
        assertThat(reader.isAlive()).isTrue();
        backend.close();
        reader.interrupt();
        reader.join(10_000);
        assertThat(reader.isAlive()).isFalse();
        assertThat(ended.get()).isInstanceOf(DaemonFailure.class);
    }

    @Test
    void a_task_that_has_ended_leaves_the_daemon_after_its_linger_time() throws Exception {
        backend.dispose();
        task.options.set(DstlOptions.LINGER, Duration.ofSeconds(3));
        backend = task.next().open(IntSerializer.INSTANCE);
        state = state(backend);
        put(1, 10);
        try (DstlClient client = DstlClient.connect(daemon.socket())) {
            assertThat(client.describe().await()).hasSize(1);
            backend.dispose();
            assertThat(client.describe().await()).as("for a warm restart").hasSize(1);
            eventually("the backend is gone", () -> {
                try {
                    return client.describe().await().isEmpty();
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            });
        }
    }
}
