package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.google.protobuf.ByteString;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.ClaimMode;
import io.dstl.proto.v1.DeclareJobRequest;
import io.dstl.proto.v1.DiscardRequest;
import io.dstl.proto.v1.JobTasks;
import io.dstl.proto.v1.KeyGroupAssignment;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Redistribution;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Opening: what is restored, and who owns it. */
class RestoreTest {
    private static TestDaemon daemon;

    @BeforeAll
    static void startDaemon() {
        daemon = TestDaemon.start();
    }

    @AfterAll
    static void endDaemon() {
        daemon.close();
    }

    private static ValueState<String, Long> values(Backend backend) throws InterruptedException {
        return backend.valueState("v", Serdes.string(), Serdes.int64(), StateOptions.NONE);
    }

    /** Writes `k`, makes checkpoint 1 with an attachment, writes again, and leaves it so. */
    private static CheckpointCompleted run(Backend backend, long value) throws InterruptedException {
        ValueState<String, Long> state = values(backend);
        Session session = backend.session(SessionOptions.DEFAULT).await();
        Batch first = session.batch();
        state.put(first, "k", value);
        session.send(first);
        CheckpointCompleted completed = session.barrier(1, "offsets".getBytes()).await();
        session.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await();
        Batch second = session.batch();
        state.put(second, "k", -1L);
        session.send(second).await();
        return completed;
    }

    @Test
    void restoresTheLastCheckpointAfterTheDaemonWasKilled() throws Exception {
        try (TestDaemon own = TestDaemon.start(); DstlClient client = own.connect()) {
            OpenOptions open = OpenOptions.of("killed", "op").attempt(1);
            CheckpointCompleted completed = run(client.open(open.build()).await(), 7);
            own.restart();
            AtomicReference<Object> progress = new AtomicReference<>();
            Backend restored = client.open(open.attempt(2).build(), progress::set).await();
            assertThat(restored.opened().getAttachment().toStringUtf8()).isEqualTo("offsets");
            assertThat(restored.opened().getCheckpoint()).isEqualTo(completed.getCheckpoint());
            Session session = restored.session(SessionOptions.DEFAULT).await();
            assertThat(values(restored).get(session, "k")).isEqualTo(7);
            session.finish().await();
        }
    }

    @Test
    void fencesTheOwnerBefore() throws Exception {
        try (DstlClient client = daemon.connect()) {
            OpenOptions open = OpenOptions.of("fenced", "op").attempt(1);
            Backend older = client.open(open.build()).await();
            Session session = older.session(SessionOptions.DEFAULT).await();
            Backend newer = client.open(open.attempt(2).build()).await();
            Eventually.holds("the older session ends", () -> session.failure().isPresent());
            assertThat(session.failure().orElseThrow()).isInstanceOf(FencedException.class);
            assertThatThrownBy(() -> older.persist().await()).isInstanceOf(FencedException.class);
            assertThat(newer.reference().getEpoch().getNumber()).isGreaterThan(older.reference().getEpoch().getNumber());
        }
    }

    @Test
    void restoresHandlesOfAnotherJobAsACloneAndRefusesToClaimThem() throws Exception {
        try (DstlClient client = daemon.connect()) {
            ByteString handle = run(client.open(OpenOptions.of("source", "op").attempt(1).build()).await(), 5).getHandle();
            OpenOptions clone = OpenOptions.of("clone", "op").attempt(1).handles(List.of(handle));
            Opening claiming = client.open(clone.claim(ClaimMode.CLAIM_MODE_CLAIM).build());
            assertThatThrownBy(claiming::await).isInstanceOf(InvalidRequestException.class);
            Backend cloned = client.open(clone.claim(ClaimMode.CLAIM_MODE_NO_CLAIM).build()).await();
            Session session = cloned.session(SessionOptions.DEFAULT).await();
            assertThat(values(cloned).get(session, "k")).isEqualTo(5);
            session.finish().await();
        }
    }

    @Test
    void refusesWhatIsNotThereWithAMessageThatSaysWhat() throws Exception {
        try (DstlClient client = daemon.connect()) {
            Opening opening = client.open(OpenOptions.of("nothing", "op").attempt(1).latest(false).build());
            assertThatThrownBy(opening::await).isInstanceOfSatisfying(NotFoundException.class,
                    error -> assertThat(error.reason()).isEqualTo(Reason.REASON_CHECKPOINT_NOT_FOUND));
            Opening named = client.open(OpenOptions.of("nothing", "op").attempt(2).checkpoint(4).build());
            assertThatThrownBy(named::await).isInstanceOf(NotFoundException.class);
            assertThatThrownBy(() -> client.require("inner.hashmap", "time.travel"))
                    .isInstanceOf(UnsupportedException.class)
                    .hasMessageContaining("time.travel")
                    .hasMessageNotContaining("inner.hashmap");
        }
        Path nobody = daemon.folder().resolve("nobody");
        assertThatThrownBy(() -> DstlClient.connect(ConnectOptions.of(nobody).withConnectTimeout(Duration.ofSeconds(5))))
                .isInstanceOf(ConnectionException.class)
                .hasMessageContaining(nobody.toString())
                .hasMessageContaining("rpc.socket");
    }

    @Test
    void cancelsAnOpening() throws Exception {
        try (DstlClient client = daemon.connect()) {
            daemon.suspend();
            Opening opening = client.open(OpenOptions.of("cancelled", "op").attempt(1).build());
            opening.cancel();
            assertThatThrownBy(opening::await).isInstanceOf(ConnectionException.class).hasMessageContaining("cancelled");
            daemon.resume();
        }
    }

    @Test
    void rescalesWithKeyGroupsThatTheClientGives() throws Exception {
        try (DstlClient client = daemon.connect()) {
            List<ByteString> handles = new ArrayList<>();
            for (int subtask = 0; subtask < 2; subtask++) {
                Backend backend = client.open(given(subtask, 2).attempt(1).empty().build()).await();
                ValueState<Long, Long> state = grouped(backend);
                ListState<Void, Long> list = backend.operatorList("offsets", Serdes.int64(),
                        Redistribution.REDISTRIBUTION_SPLIT, StateOptions.NONE);
                Session session = backend.session(SessionOptions.DEFAULT).await();
                Batch batch = session.batch();
                for (long key = subtask * 64L; key < (subtask + 1) * 64L; key++) {
                    state.put(batch, key, key * key);
                }
                list.addAll(batch, null, List.of(10L * subtask, 10L * subtask + 1));
                session.send(batch);
                handles.add(session.barrier(1, Batch.NONE).await().getHandle());
                session.finish().await();
            }
            Backend one = client.open(given(0, 1).attempt(2).handles(handles).build()).await();
            ValueState<Long, Long> state = grouped(one);
            ListState<Void, Long> list = one.operatorList("offsets", Serdes.int64(),
                    Redistribution.REDISTRIBUTION_SPLIT, StateOptions.NONE);
            Session session = one.session(SessionOptions.DEFAULT).await();
            for (long key = 0; key < 128; key++) {
                assertThat(state.get(session, key)).isEqualTo(key * key);
            }
            assertThat(State.list(list.elements(session, null))).containsExactly(0L, 1L, 10L, 11L);
            session.finish().await();
        }
    }

    private static OpenOptions given(int subtask, int parallelism) {
        return OpenOptions.of("given", "op").subtask(subtask, parallelism).maxParallelism(128)
                .assignment(KeyGroupAssignment.KEY_GROUP_ASSIGNMENT_GIVEN);
    }

    private static ValueState<Long, Long> grouped(Backend backend) throws InterruptedException {
        return backend.valueState("v", Serdes.int64(), Serdes.int64(), StateOptions.NONE)
                .withKeyGroups(key -> (int) (key % 128));
    }

    @Test
    void commitsCheckpointsOfADeclaredJobAndDiscardsIt() throws Exception {
        try (DstlClient client = daemon.connect()) {
            DeclareJobRequest declaration = DeclareJobRequest.newBuilder()
                    .setJob("declared")
                    .setAttempt(1)
                    .addTasks(JobTasks.newBuilder().setOperator("op").setParallelism(1))
                    .setLatest(DeclareJobRequest.Latest.getDefaultInstance())
                    .build();
            assertThat(client.declareJob(declaration).await().hasRestore()).isFalse();
            Backend backend = client.open(OpenOptions.of("declared", "op").attempt(1).build()).await();
            Session session = backend.session(SessionOptions.DEFAULT).await();
            AtomicReference<Long> committed = new AtomicReference<>(0L);
            session.onJobCompleted(checkpoint -> committed.set(checkpoint.getCheckpointId()));
            session.barrier(3, Batch.NONE).await();
            Eventually.holds("the job has it", () -> committed.get() == 3);
            session.finish().await();
            DiscardRequest discard = DiscardRequest.newBuilder().setJob("declared").build();
            assertThatThrownBy(() -> client.discard(discard).await()).isInstanceOf(InvalidRequestException.class);
            assertThat(backend.close().await()).isTrue();
            assertThat(client.discard(discard).await().getCheckpoints()).isEqualTo(1);
        }
    }
}
