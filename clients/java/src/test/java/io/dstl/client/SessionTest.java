package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.Outcome;
import io.dstl.proto.v1.Reason;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The contract of sessions, against a daemon. */
class SessionTest {
    private static final AtomicInteger JOBS = new AtomicInteger();
    private static TestDaemon daemon;

    private DstlClient client;
    private Backend backend;

    @BeforeAll
    static void startDaemon() {
        daemon = TestDaemon.start();
    }

    @AfterAll
    static void endDaemon() {
        daemon.close();
    }

    @BeforeEach
    void open() throws Exception {
        client = daemon.connect();
        backend = client.open(OpenOptions.of("session-" + JOBS.incrementAndGet(), "op").attempt(1).build()).await();
    }

    @AfterEach
    void close() throws Exception {
        backend.close().await();
        client.close();
    }

    private ValueState<String, Long> longs(String name) throws InterruptedException {
        return backend.valueState(name, Serdes.string(), Serdes.int64(), StateOptions.NONE);
    }

    private static Batch put(ValueState<String, Long> state, String key, long value) {
        Batch batch = new Batch();
        state.put(batch, key, value);
        return batch;
    }

    @Test
    void pipelinesBatchesAndGivesResultsInOrder() throws Exception {
        ValueState<String, Long> state = longs("v");
        Session session = backend.session(SessionOptions.DEFAULT).await();
        List<Pending<Results>> pending = new ArrayList<>();
        List<Read<Long>> reads = new ArrayList<>();
        for (long at = 0; at < 2000; at++) {
            Batch batch = session.batch();
            state.put(batch, "k" + at % 7, at);
            reads.add(state.get(batch, "k" + at % 7));
            pending.add(session.send(batch));
        }
        for (int at = 0; at < pending.size(); at++) {
            Results results = pending.get(at).await();
            assertThat(results.number()).isEqualTo(at);
            assertThat(reads.get(at).from(results)).isEqualTo(at);
        }
        assertThat(session.whenApplied(2000).await().appliedTo()).isEqualTo(2000);
        assertThat(session.inFlight()).isZero();
        assertThat(session.unsentBytes()).isZero();
        session.finish().await();
    }

    @Test
    void goesOnBehindARejectedBatch() throws Exception {
        ValueState<String, Long> state = longs("v");
        Session session = backend.session(SessionOptions.DEFAULT).await();
        List<Pending<Results>> good = new ArrayList<>();
        List<Pending<Results>> bad = new ArrayList<>();
        for (long at = 0; at < 50; at++) {
            good.add(session.send(put(state, "k" + at, at)));
            if (at % 10 == 0) {
                Batch batch = session.batch();
                state.put(batch, "k" + at, -1L);
                batch.get(999, Batch.HASHED, new byte[] {1}, Batch.NONE);
                bad.add(session.send(batch));
            }
        }
        Pending<CheckpointCompleted> checkpoint = session.barrier(1, Batch.NONE);
        for (Pending<Results> pending : good) {
            pending.await();
        }
        for (Pending<Results> pending : bad) {
            DstlException refused = catchThrowableOfType(InvalidRequestException.class, pending::await);
            assertThat(refused.reason()).isEqualTo(Reason.REASON_UNKNOWN_STATE);
            assertThat(refused.isRetryable()).isFalse();
        }
        assertThat(checkpoint.await().getAppliedTo()).isEqualTo(50);
        for (long at = 0; at < 50; at++) {
            assertThat(state.get(session, "k" + at)).isEqualTo(at);
        }
        session.finish().await();
    }

    @Test
    void failsAsAWholeWhereThatIsWantedAndTellsItsListenerFirst() throws Exception {
        ValueState<String, Long> state = longs("v");
        List<String> order = new ArrayList<>();
        CountDownLatch told = new CountDownLatch(2);
        Session session = backend.session(SessionOptions.DEFAULT
                .withOnRejection(SessionOptions.OnRejection.FAIL)
                .withOnFailure(error -> {
                    synchronized (order) {
                        order.add("listener");
                    }
                    told.countDown();
                })).await();
        session.send(put(state, "a", 1)).await();
        Batch bad = session.batch();
        bad.get(999, Batch.HASHED, new byte[] {1}, Batch.NONE);
        session.send(bad);
        Pending<CheckpointCompleted> checkpoint = session.barrier(1, Batch.NONE);
        checkpoint.whenDone((completed, error) -> {
            synchronized (order) {
                order.add(completed == null ? "failed" : "completed");
            }
            told.countDown();
        });
        assertThatThrownBy(checkpoint::await)
                .isInstanceOf(SessionLostException.class)
                .hasMessageContaining("rejected");
        assertThat(told.await(10, TimeUnit.SECONDS)).isTrue();
        assertThat(order).containsExactly("listener", "failed");
        assertThat(session.failure()).isPresent();
        assertThatThrownBy(() -> session.send(put(state, "b", 1))).isInstanceOf(SessionLostException.class);

        Session next = backend.session(SessionOptions.DEFAULT).await();
        assertThat(state.get(next, "a")).isEqualTo(1);
        next.finish().await();
    }

    @Test
    void tellsWritesThatWereNotDoneAndFailsForThemWhereThatIsWanted() throws Exception {
        AggregatingState<String, byte[], byte[]> state = backend.aggregatingState("grows", Serdes.string(),
                Aggregation.of(io.dstl.proto.v1.MergeFunction.MERGE_FUNCTION_APPEND, Serdes.bytes()), StateOptions.NONE);
        byte[] half = new byte[(int) client.limits().getMaxValueBytes() / 2 + 1];
        Session session = backend.session(SessionOptions.DEFAULT).await();
        for (Outcome expected : List.of(Outcome.OUTCOME_DONE, Outcome.OUTCOME_LIMIT_REACHED)) {
            Batch batch = session.batch();
            state.add(batch, "a", half);
            assertThat(session.send(batch).await().outcome(0)).isEqualTo(expected);
        }
        session.finish().await();
        Session strict = backend.session(SessionOptions.DEFAULT.withOnRejection(SessionOptions.OnRejection.FAIL)).await();
        Batch batch = strict.batch();
        state.add(batch, "a", half);
        strict.send(batch);
        assertThatThrownBy(() -> strict.barrier(1, Batch.NONE).await())
                .isInstanceOf(SessionLostException.class)
                .hasMessageContaining("not done");
    }

    @Test
    void waitsForRoomWhereCreditIsUsedUpAndLosesNothing() throws Exception {
        ValueState<String, byte[]> state = backend.valueState("v", Serdes.string(), Serdes.bytes(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT.withMaxUnsentBytes(64 << 10)).await();
        daemon.suspend();
        int handedIn = 0;
        try {
            // The stream and the socket take some before the daemon does.
            for (long full = System.nanoTime(); System.nanoTime() - full < 500_000_000;) {
                if (session.trySend(put0(state, "k" + handedIn)).isPresent()) {
                    handedIn++;
                    full = System.nanoTime();
                }
            }
            assertThat(session.unsentBytes()).isGreaterThanOrEqualTo(64 << 10);
            Thread waiting = new Thread(() -> {
                try {
                    session.send(put0(state, "last"));
                } catch (InterruptedException expected) {
                    Thread.currentThread().interrupt();
                }
            });
            waiting.start();
            Thread.sleep(100);
            assertThat(waiting.isAlive()).isTrue();
            waiting.interrupt();
            waiting.join(10_000);
            assertThat(waiting.isAlive()).isFalse();
        } finally {
            daemon.resume();
        }
        session.send(put0(state, "last")).await();
        assertThat(session.whenApplied(handedIn + 1L).await().appliedTo()).isEqualTo(handedIn + 1L);
        Eventually.holds("credit comes back", () -> session.credit() > 0);
        session.finish().await();
    }

    private static Batch put0(ValueState<String, byte[]> state, String key) {
        Batch batch = new Batch();
        state.put(batch, key, new byte[8000]);
        return batch;
    }

    @Test
    void refusesBatchesBeyondTheDaemonsLimitsBeforeTheyAreSent() throws Exception {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        Batch batch = session.batch();
        byte[] much = new byte[(int) client.limits().getMaxMessageBytes()];
        batch.put(1, Batch.HASHED, new byte[] {1}, Batch.NONE, much);
        assertThatThrownBy(() -> session.send(batch)).isInstanceOf(LimitException.class).hasMessageContaining("max-message-size");
        session.finish().await();
    }

    @Test
    void answersBarriersNoticesAndPersistRequests() throws Exception {
        ValueState<String, Long> state = longs("v");
        Session session = backend.session(SessionOptions.DEFAULT).await();
        session.send(put(state, "a", 1));
        Pending<CheckpointCompleted> first = session.barrier(5, "offsets".getBytes());
        session.send(put(state, "a", 2));
        CheckpointCompleted completed = first.await();
        assertThat(completed.getAppliedTo()).isEqualTo(1);
        assertThat(completed.getHandle().isEmpty()).isFalse();
        assertThat(session.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await())
                .isEqualTo(NoticeOutcome.NOTICE_OUTCOME_DONE);
        assertThat(session.notify(NoticeKind.NOTICE_KIND_COMPLETE, session.checkpoint(5)).await())
                .isEqualTo(NoticeOutcome.NOTICE_OUTCOME_UNCHANGED);
        assertThat(session.notify(NoticeKind.NOTICE_KIND_DISCARD, session.checkpoint(77)).await())
                .isEqualTo(NoticeOutcome.NOTICE_OUTCOME_UNKNOWN);
        assertThat(session.persist().await()).isEqualTo(2);
        assertThat(session.whenPersisted(2).await().persistedTo()).isGreaterThanOrEqualTo(2);
        DstlException refused = catchThrowableOfType(
                InvalidRequestException.class, () -> session.barrier(5, Batch.NONE).await());
        assertThat(refused.reason()).isEqualTo(Reason.REASON_CHECKPOINT_OUT_OF_ORDER);
        assertThat(session.acknowledged().confirmedTo()).isGreaterThanOrEqualTo(1);
        session.finish().await();
        assertThat(backend.persist().await()).isEqualTo(2);
    }

    @Test
    void servesFuturesAndManyThreads() throws Exception {
        AggregatingState<String, Long, Long> sums =
                backend.aggregatingState("sums", Serdes.string(), Aggregation.sum(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT).await();
        List<Thread> threads = new ArrayList<>();
        for (int worker = 0; worker < 4; worker++) {
            Thread thread = new Thread(() -> {
                for (int at = 0; at < 500; at++) {
                    Batch batch = new Batch();
                    sums.add(batch, "k" + at % 5, 1L);
                    try {
                        session.send(batch);
                    } catch (InterruptedException interrupt) {
                        return;
                    }
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        AtomicReference<String> where = new AtomicReference<>();
        Batch batch = session.batch();
        Read<Long> read = sums.get(batch, "k3");
        Long sum = session.send(batch).future().thenApply(results -> {
            where.set(Thread.currentThread().getName());
            return read.from(results);
        }).get(10, TimeUnit.SECONDS);
        assertThat(sum).isEqualTo(400);
        assertThat(where.get()).doesNotContain("dstl-client-");
        session.finish().await();
    }

    @Test
    void endsTheOlderSessionWhenANewOneBegins() throws Exception {
        Session older = backend.session(SessionOptions.DEFAULT).await();
        Session newer = backend.session(SessionOptions.DEFAULT).await();
        Eventually.holds("the older one ends", () -> older.failure().isPresent());
        assertThat(older.failure().orElseThrow().reason()).isEqualTo(Reason.REASON_SESSION_REPLACED);
        newer.close();
        Eventually.holds("the newer one ends", () -> newer.failure().isPresent());
        assertThatThrownBy(newer::persist).isInstanceOf(SessionLostException.class);
    }

    @Test
    void movesEntriesWhereASchemaChangeMigrates() throws Exception {
        io.dstl.proto.v1.StateDescriptor.Builder old = StateOptions.NONE
                .descriptor("v", Serdes.string(), Serdes.int64())
                .setKind(io.dstl.proto.v1.StateKind.STATE_KIND_VALUE);
        ValueState<String, Long> before = longs("v");
        Session session = backend.session(SessionOptions.DEFAULT).await();
        for (long at = 0; at < 2500; at++) {
            session.send(put(before, "k" + at, at));
        }
        old.setValueSerializer(io.dstl.proto.v1.Serializer.newBuilder().setId("text").setVersion(1));
        assertThatThrownBy(() -> backend.register(old.build()).await())
                .isInstanceOfSatisfying(InvalidRequestException.class,
                        error -> assertThat(error.reason()).isEqualTo(Reason.REASON_STATE_MISMATCH));
        Serde<Long> text = Serdes.of("text", 1, value -> Long.toString(value).getBytes(),
                bytes -> Long.parseLong(Serdes.string().read(bytes)));
        Migration migration = Migration.begin(backend, old.build());
        long moved = migration.run(session, bytes -> text.write(Serdes.int64().read(bytes)));
        assertThat(moved).isEqualTo(2500);
        ValueState<String, Long> after = backend.valueState("v", Serdes.string(), text, StateOptions.NONE);
        assertThat(after.registered().getMigratingFrom()).isZero();
        for (long at = 0; at < 2500; at += 250) {
            assertThat(after.get(session, "k" + at)).isEqualTo(at);
        }
        session.finish().await();
    }

    @Test
    void readsEveryKindByPages() throws Exception {
        MapState<String, Long, String> maps = backend.mapState("m", Serdes.string(), Serdes.orderedInt64(), Serdes.string(),
                StateOptions.NONE);
        ListState<String, Long> lists = backend.listState("l", Serdes.string(), Serdes.int64(), StateOptions.NONE);
        TimerState<String> timers = backend.timerState("t", Serdes.string(), StateOptions.NONE);
        Session session = backend.session(SessionOptions.DEFAULT).await();
        for (long at = -1500; at < 1500; at++) {
            Batch batch = session.batch();
            maps.put(batch, "a", at, "v" + at);
            lists.add(batch, "a", at);
            timers.register(batch, "k" + Math.floorMod(at, 10), at);
            session.send(batch);
        }
        long next = -1500;
        for (Map.Entry<Long, String> entry : maps.entries(session, "a")) {
            assertThat(entry.getKey()).isEqualTo(next);
            assertThat(entry.getValue()).isEqualTo("v" + next++);
        }
        assertThat(next).isEqualTo(1500);
        next = -1500;
        for (long element : lists.elements(session, "a")) {
            assertThat(element).isEqualTo(next++);
        }
        assertThat(next).isEqualTo(1500);
        assertThat(session.<Long>ask(batch -> maps.count(batch, "a"))).isEqualTo(3000);
        Page<TimerState.Timer<String>> due = session.ask(batch -> timers.due(batch, 0, Batch.NONE, 100));
        assertThat(due.items()).hasSize(100);
        assertThat(due.items().get(0).time()).isEqualTo(-1500);
        Page<TimerState.Timer<String>> rest = session.ask(batch -> timers.due(batch, 0, due.token(), 0));
        assertThat(due.items().size() + rest.items().size()).isLessThanOrEqualTo(1501);
        assertThat(rest.items().get(0).time()).isEqualTo(-1400);
        Page<TimerState.Timer<String>> fired = session.ask(batch -> timers.fire(batch, -1490, 0));
        assertThat(fired.items()).hasSize(11);
        assertThat(State.list(timers.keys(session))).hasSize(10);
        session.finish().await();
    }

    @Test
    void appliesSingleBatchesAndMakesCheckpointsWithoutASession() throws Exception {
        ValueState<String, Long> state = longs("v");
        assertThat(backend.apply(put(state, "a", 7)).await().number()).isZero();
        Batch reads = new Batch();
        Read<Long> read = state.get(reads, "a");
        assertThat(read.from(backend.apply(reads).await())).isEqualTo(7);
        CheckpointCompleted completed = backend.checkpoint(io.dstl.proto.v1.Barrier.newBuilder()
                .setCheckpointId(3).setAttachment(ByteString.copyFromUtf8("here")).build()).await();
        assertThat(completed.getAppliedTo()).isEqualTo(1);
        assertThat(backend.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await())
                .isEqualTo(NoticeOutcome.NOTICE_OUTCOME_DONE);
        backend.pin(completed.getCheckpoint()).await();
        assertThat(backend.describe().await().getCheckpoints(0).getPinned()).isTrue();
        assertThat(backend.release(completed.getCheckpoint()).await()).isTrue();
        assertThat(backend.materialize().await().getChanges()).isEqualTo(1);
        assertThat(client.describe().await()).isNotEmpty();
        assertThat(client.describeJob(backend.reference().getId().getJob()).await().getOperatorsCount()).isEqualTo(1);
    }

    @Test
    void readsBesideTheWriter() throws Exception {
        ValueState<String, Long> state = longs("v");
        Session session = backend.session(SessionOptions.DEFAULT).await();
        session.send(put(state, "a", 7)).await();
        try (QuerySession query = client.query(io.dstl.proto.v1.QueryStart.newBuilder()
                .setBackend(backend.reference().getId()).build()).await()) {
            int id = query.started().getStates(0).getId();
            Batch batch = new Batch();
            batch.get(id, Batch.HASHED, Serdes.string().write("a"), Batch.NONE);
            batch.get(id, Batch.HASHED, Serdes.string().write("b"), Batch.NONE);
            QueryResults results = query.ask(batch).await();
            assertThat(Serdes.int64().read(results.results().slice(0))).isEqualTo(7);
            assertThat(results.results().found(1)).isFalse();
            assertThat(results.appliedTo()).isEqualTo(1);
            Batch writes = new Batch();
            writes.clear(id, Batch.HASHED, Serdes.string().write("a"), Batch.NONE);
            assertThatThrownBy(() -> query.ask(writes).await()).isInstanceOf(InvalidRequestException.class);
            Batch again = new Batch();
            again.get(id, Batch.HASHED, Serdes.string().write("a"), Batch.NONE);
            assertThat(query.ask(again).await().results().found(0)).isTrue();
        }
        session.finish().await();
    }
}
