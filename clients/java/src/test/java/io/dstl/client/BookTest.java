package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.BatchResult;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.Error;
import io.dstl.proto.v1.MapEntry;
import io.dstl.proto.v1.Notice;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.OperationResult;
import io.dstl.proto.v1.Outcome;
import io.dstl.proto.v1.PersistReply;
import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.SessionHalted;
import io.dstl.proto.v1.SessionRequest;
import io.dstl.proto.v1.SessionStarted;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.BitSet;
import org.junit.jupiter.api.Test;

/** The book of a session, without a stream: the test plays the daemon. */
class BookTest {
    private static final byte[] KEY = {1};

    private final Book.Watcher watcher = new Book.Watcher() {
        @Override
        public void sent(Outgoing outgoing, long cost) {
            waiting -= outgoing.batch().encodedLength();
        }

        @Override
        public void putBack(Outgoing outgoing) {
            waiting += outgoing.batch().encodedLength();
        }
    };
    private long waiting;
    private int answered;
    private Book book = book(1_000_000, false);

    private Book book(long credit, boolean fails) {
        return new Book(started(0, credit), BitSet::new, fails, watcher);
    }

    private static SessionStarted started(long appliedTo, long credit) {
        return SessionStarted.newBuilder().setAppliedTo(appliedTo).setCredit(credit).build();
    }

    private Completion<Results> add(Batch batch) {
        Completion<Results> waiter = new Completion<>(Runnable::run);
        waiting += batch.encodedLength();
        batch.seal();
        book.addBatch(new Outgoing(batch, new BitSet(), waiter, () -> answered++));
        return waiter;
    }

    private static Batch write() {
        Batch batch = new Batch();
        batch.put(7, Batch.HASHED, KEY, Batch.NONE, new byte[50]);
        return batch;
    }

    private static Batch reads(int count) {
        Batch batch = new Batch();
        for (int at = 0; at < count; at++) {
            batch.get(7, Batch.HASHED, new byte[] {(byte) at}, Batch.NONE);
        }
        return batch;
    }

    private SessionRequest next() {
        Wire.Frame frame = book.takeNext();
        if (frame == null) {
            return null;
        }
        try {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            frame.writeTo(bytes);
            assertThat(bytes.size()).isEqualTo(frame.length());
            return SessionRequest.parseFrom(bytes.toByteArray());
        } catch (IOException impossible) {
            throw new UncheckedIOException(impossible);
        }
    }

    private static ResultScan scan(BatchResult.Builder result) {
        byte[] bytes = result.build().toByteArray();
        return new ResultScan(bytes, 0, bytes.length);
    }

    private static OperationResult.Builder found(int operation, String value) {
        return OperationResult.newBuilder().setOperation(operation).setFound(true)
                .setValue(com.google.protobuf.ByteString.copyFromUtf8(value));
    }

    private static String text(Results results, int operation) {
        return Serdes.string().read(results.slice(operation));
    }

    @Test
    void sendsWhatCreditCoversInOrderAndReadsBehindItWait() throws Exception {
        Batch batch = write();
        book = book(2L * batch.encodedLength() + 4, false);
        add(batch);
        Completion<Results> second = add(write());
        add(write());
        Completion<Results> read = add(reads(1));
        assertThat(next().getBatch().getNumber()).isZero();
        assertThat(next().getBatch().getNumber()).isEqualTo(1);
        assertThat(next()).isNull();
        assertThat(book.freeCredit()).isBetween(0L, 4L);
        book.onAcknowledgement(2, 1, 0, 1000);
        assertThat(second.isDone()).isTrue();
        assertThat(next().getBatch().getNumber()).isEqualTo(2);
        assertThat(next().getBatch().getNumber()).isEqualTo(3);
        book.onResult(scan(BatchResult.newBuilder().setNumber(3).addResults(found(0, "x"))));
        assertThat(text(read.await(), 0)).isEqualTo("x");
        assertThat(waiting).isZero();
        assertThat(answered).isEqualTo(3);
    }

    @Test
    void takesResultsBeforeAndAfterTheirAcknowledgement() throws Exception {
        Completion<Results> early = add(reads(1));
        Completion<Results> late = add(reads(1));
        next();
        next();
        book.onResult(scan(BatchResult.newBuilder().setNumber(0).addResults(found(0, "a"))));
        assertThat(early.isDone()).isTrue();
        book.onAcknowledgement(2, 0, 0, 0);
        assertThat(late.isDone()).isFalse();
        assertThat(book.isSettled()).isFalse();
        book.onResult(scan(BatchResult.newBuilder().setNumber(1).addResults(found(0, "b"))));
        assertThat(text(late.await(), 0)).isEqualTo("b");
        assertThat(book.isSettled()).isTrue();
    }

    @Test
    void asksAgainForReadsThatDidNotFitAndGivesThemTheirPlaces() throws Exception {
        Batch batch = new Batch();
        batch.get(7, Batch.HASHED, new byte[] {0}, Batch.NONE);
        batch.put(7, Batch.HASHED, KEY, Batch.NONE, KEY);
        batch.get(7, Batch.HASHED, new byte[] {2}, Batch.NONE);
        batch.get(7, Batch.HASHED, new byte[] {3}, Batch.NONE);
        Completion<Results> waiter = add(batch);
        Completion<Results> behind = add(write());
        next();
        OperationResult.Builder again = OperationResult.newBuilder().setOutcome(Outcome.OUTCOME_ASK_AGAIN);
        book.onResult(scan(BatchResult.newBuilder().addResults(found(0, "r0"))
                .addResults(again.setOperation(2)).addResults(again.clone().setOperation(3))));
        SessionRequest asked = next();
        assertThat(asked.getBatch().getNumber()).isEqualTo(1);
        assertThat(asked.getBatch().getOperationsList()).extracting(operation -> operation.getKey().byteAt(0))
                .containsExactly((byte) 2, (byte) 3);
        book.onResult(scan(BatchResult.newBuilder().setNumber(1).addResults(found(0, "r2"))
                .addResults(again.clone().setOperation(1))));
        assertThat(next().getBatch().getOperationsList()).hasSize(1);
        book.onResult(scan(BatchResult.newBuilder().setNumber(2).addResults(found(0, "r3"))));
        Results results = waiter.await();
        assertThat(results.number()).isZero();
        assertThat(text(results, 0)).isEqualTo("r0");
        assertThat(results.outcome(1)).isEqualTo(Outcome.OUTCOME_DONE);
        assertThat(text(results, 2)).isEqualTo("r2");
        assertThat(text(results, 3)).isEqualTo("r3");
        assertThat(results.outcome(3)).isEqualTo(Outcome.OUTCOME_DONE);
        assertThat(next().getBatch().getNumber()).isEqualTo(3);
        book.onAcknowledgement(4, 0, 0, 0);
        assertThat(behind.await().number()).isEqualTo(3);
    }

    @Test
    void numbersAnewWhatIsBehindARejectedBatch() throws Exception {
        Completion<Results> good = add(write());
        Completion<Results> bad = add(write());
        Completion<Results> behind = add(write());
        Completion<CheckpointCompleted> checkpoint = barrier(5);
        for (int at = 0; at < 4; at++) {
            next();
        }
        SessionHalted.Builder halted = SessionHalted.newBuilder().setFirstFailed(1)
                .setError(Error.newBuilder().setReason(Reason.REASON_WRONG_KIND).setMessage("a put into a list"));
        book.onAcknowledgement(1, 0, 0, 0);
        book.onHalted(halted.setBatch(1).build());
        book.onHalted(halted.setBatch(2).build());
        book.onHalted(halted.setCheckpointId(5).build());
        assertThat(good.await().number()).isZero();
        assertThatThrownBy(bad::await).isInstanceOf(InvalidRequestException.class).hasMessage("a put into a list");
        assertThat(next().getResume().getNumber()).isEqualTo(1);
        assertThat(next().getBatch().getNumber()).isEqualTo(1);
        assertThat(next().getBarrier().getCheckpointId()).isEqualTo(5);
        book.onAcknowledgement(2, 0, 0, 0);
        assertThat(behind.await().number()).isEqualTo(1);
        book.onCheckpointCompleted(completed(5));
        assertThat(checkpoint.await().getCheckpoint().getCheckpointId()).isEqualTo(5);
        assertThat(waiting).isZero();
    }

    private Completion<CheckpointCompleted> barrier(long id) {
        Completion<CheckpointCompleted> waiter = new Completion<>(Runnable::run);
        book.addBarrier(Barrier.newBuilder().setCheckpointId(id).build(), waiter);
        return waiter;
    }

    private static CheckpointCompleted completed(long id) {
        return CheckpointCompleted.newBuilder()
                .setCheckpoint(CheckpointIdentity.newBuilder().setCheckpointId(id)).build();
    }

    @Test
    void sendsAgainFromAppliedToAfterABreakWithBarriersInTheirPlaces() throws Exception {
        Completion<Results> applied = add(write());
        Completion<CheckpointCompleted> first = barrier(1);
        Completion<Results> read = add(reads(1));
        Completion<CheckpointCompleted> second = barrier(2);
        Completion<Results> lost = add(write());
        Completion<CheckpointCompleted> third = barrier(3);
        Completion<Long> persisted = new Completion<>(Runnable::run);
        book.addPersist(persisted);
        Completion<NoticeOutcome> told = new Completion<>(Runnable::run);
        Notice notice = Notice.newBuilder().setKind(NoticeKind.NOTICE_KIND_ABORT)
                .setCheckpoint(CheckpointIdentity.newBuilder().setCheckpointId(9)).build();
        book.addNotice(notice, told);
        while (next() != null) {
            // All is on the stream that breaks.
        }
        book.onBreak();
        book.onStarted(started(2, 1_000_000));
        assertThat(applied.isDone()).isTrue();
        assertThat(next().getNotice()).isEqualTo(notice);
        // The read was applied and its answer lost; it is asked again before anything that came later.
        assertThat(next().getBatch().getNumber()).isEqualTo(2);
        assertThat(next().getBarrier().getCheckpointId()).isEqualTo(1);
        assertThat(next().getBarrier().getCheckpointId()).isEqualTo(2);
        assertThat(next().getBatch().getNumber()).isEqualTo(3);
        assertThat(next().getBarrier().getCheckpointId()).isEqualTo(3);
        long token = next().getPersist().getToken();
        assertThat(next()).isNull();

        book.onResult(scan(BatchResult.newBuilder().setNumber(2).addResults(found(0, "x"))));
        assertThat(text(read.await(), 0)).isEqualTo("x");
        assertThat(read.await().number()).isEqualTo(1);
        for (long id = 3; id > 0; id--) {
            book.onCheckpointCompleted(completed(id));
        }
        assertThat(first.isDone() && second.isDone() && third.isDone()).isTrue();
        book.onAcknowledgement(4, 4, 0, 0);
        assertThat(lost.await().number()).isEqualTo(3);
        book.onPersisted(PersistReply.newBuilder().setToken(token).setPersistedTo(4).build());
        assertThat(persisted.await()).isEqualTo(4);
        assertThat(book.isOwed()).isTrue();
        book.onNoticeReply(io.dstl.proto.v1.NoticeReply.newBuilder().setNotice(notice)
                .setOutcome(NoticeOutcome.NOTICE_OUTCOME_UNKNOWN).build());
        assertThat(told.await()).isEqualTo(NoticeOutcome.NOTICE_OUTCOME_UNKNOWN);
        assertThat(book.isOwed()).isFalse();
        assertThat(waiting).isZero();
    }

    @Test
    void failsForRepeatedReadsThatMustNotBeAskedAgain() {
        for (boolean inBreak : new boolean[] {false, true}) {
            book = book(1000, false);
            Completion<Results> waiter = add(reads(1).readsOnce());
            next();
            book.onAcknowledgement(1, 0, 0, 0);
            assertThatThrownBy(() -> {
                if (inBreak) {
                    book.onBreak();
                    book.onStarted(started(1, 1000));
                } else {
                    book.onResult(scan(BatchResult.newBuilder().setRepeatedBatch(true)));
                }
            }).isInstanceOf(AnswerLostException.class);
            book.fail(Errors.closed());
            assertThatThrownBy(waiter::await).isInstanceOf(SessionLostException.class);
        }
    }

    @Test
    void refusesADaemonThatBreaksTheProtocol() {
        assertThatThrownBy(() -> book.onAcknowledgement(1, 0, 0, 0)).hasMessageContaining("broke the protocol");
        assertThatThrownBy(() -> book.onStarted(started(1, 0))).hasMessageContaining("broke the protocol");
        SessionHalted halted = SessionHalted.newBuilder().setFirstFailed(3).setBatch(3).build();
        assertThatThrownBy(() -> book.onHalted(halted)).hasMessageContaining("not in flight");
    }

    @Test
    void failsWhereWritesMustNotBeRefused() {
        book = book(1000, true);
        add(write());
        next();
        OperationResult.Builder refused = OperationResult.newBuilder().setOutcome(Outcome.OUTCOME_LIMIT_REACHED);
        assertThatThrownBy(() -> book.onResult(scan(BatchResult.newBuilder().addResults(refused))))
                .isInstanceOf(SessionLostException.class).hasMessageContaining("max-value-size");
    }

    @Test
    void readsEveryFieldOfAResult() {
        OperationResult.Builder all = found(4, "v").setMore(true).setCount(1L << 40)
                .setToken(com.google.protobuf.ByteString.copyFromUtf8("t"))
                .addEntries(MapEntry.newBuilder().setKey(com.google.protobuf.ByteString.copyFromUtf8("k")))
                .addElements(com.google.protobuf.ByteString.EMPTY)
                .addKeys(io.dstl.proto.v1.StoredKey.newBuilder().setKeyGroup(300))
                .addTimers(io.dstl.proto.v1.Timer.newBuilder().setTime(-5).setKeyGroup(2));
        Results results = new Results(1, scan(BatchResult.newBuilder().setNumber(1).addResults(found(1, "")).addResults(all)));
        assertThat(results.found(0)).isFalse();
        assertThat(results.value(0)).isNull();
        assertThat(results.value(1)).isEmpty();
        assertThat(results.value(4)).isEqualTo("v".getBytes());
        assertThat(results.more(4)).isTrue();
        assertThat(results.count(4)).isEqualTo(1L << 40);
        assertThat(results.token(4)).isEqualTo("t".getBytes());
        assertThat(results.entries(4)).singleElement().satisfies(entry -> assertThat(entry.value()).isEmpty());
        assertThat(results.elements(4)).containsExactly(results.elements(4).get(0));
        assertThat(results.keys(4).get(0).keyGroup()).isEqualTo(300);
        assertThat(results.timers(4).get(0).time()).isEqualTo(-5);
    }
}
