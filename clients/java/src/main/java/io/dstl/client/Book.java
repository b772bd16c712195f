package io.dstl.client;

import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointFailed;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.Notice;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.NoticeReply;
import io.dstl.proto.v1.PersistMark;
import io.dstl.proto.v1.PersistReply;
import io.dstl.proto.v1.Resume;
import io.dstl.proto.v1.SessionHalted;
import io.dstl.proto.v1.SessionRequest;
import io.dstl.proto.v1.SessionStarted;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.TreeMap;
import java.util.function.Supplier;

/**
 * The book of a session: what waits, what is in flight, what is owed. No input or output: the worker carries it out,
 * on one
 * thread.
 *
 * <pre>
 *   callers --> queue --(credit)--> sent --(acknowledged)--> done
 *                 ^                  |
 *                 +--- halt, break --+
 * </pre>
 *
 * Invariants:
 * <ul>
 *   <li>{@code queue} and {@code sent} together are the order in which the task sent; {@code sent} comes first.
 *   <li>A batch gets its number when it moves to {@code sent}, so numbers there are consecutive and end before {@code
 * next}.
 *   <li>{@code used <= granted} on every stream, but for the batches that cost nothing.
 *   <li>A batch leaves {@code sent} only when it is applied, rejected, or put back.
 * </ul>
 */
final class Book {
    /** Most batches in flight; reads cost no credit, so credit does not bound them. */
    private static final int MAX_SENT_BATCHES = 4096;

    /** What waits, or is in flight, in order. */
    private interface Item {
        /** Whether it may be sent now. */
        boolean fits();

        /** Notes that it is sent; returns how. */
        Wire.Frame send();

        /** Goes back from {@code sent} to the front of the queue. */
        void putBack();

        void fail(DstlException error);
    }

    private final class BatchItem implements Item {
        private final Outgoing outgoing;
        private long number;

        BatchItem(Outgoing outgoing) {
            this.outgoing = outgoing;
        }

        @Override
        public boolean fits() {
            long cost = outgoing.cost(next);
            return sentBatches < MAX_SENT_BATCHES && (cost == 0 || used + cost <= granted);
        }

        @Override
        public Wire.Frame send() {
            long cost = outgoing.cost(next);
            used += cost;
            number = next++;
            sent.addLast(this);
            sentBatches++;
            watcher.sent(outgoing, cost);
            return new Wire.BatchFrame(number, outgoing.batch());
        }

        @Override
        public void putBack() {
            sentBatches--;
            watcher.putBack(outgoing);
            queue.addFirst(this);
        }

        @Override
        public void fail(DstlException error) {
            outgoing.fail(error);
        }
    }

    /** In {@code sent} only a mark: answers come in any order, and {@code barriers} has who waits. */
    private final class BarrierItem implements Item {
        private final Barrier barrier;
        private final Completion<CheckpointCompleted> waiter;

        BarrierItem(Barrier barrier, Completion<CheckpointCompleted> waiter) {
            this.barrier = barrier;
            this.waiter = waiter;
        }

        /** A checkpoint id is in flight once; a second barrier with it waits for the first one's answer. */
        @Override
        public boolean fits() {
            return !barriers.containsKey(barrier.getCheckpointId());
        }

        @Override
        public Wire.Frame send() {
            sent.addLast(this);
            barriers.put(barrier.getCheckpointId(), this);
            return frame(SessionRequest.newBuilder().setBarrier(barrier));
        }

        /** One that was answered meanwhile stays away. */
        @Override
        public void putBack() {
            if (barriers.remove(barrier.getCheckpointId(), this)) {
                queue.addFirst(this);
            }
        }

        @Override
        public void fail(DstlException error) {
            waiter.fail(error);
        }
    }

    private final class PersistItem implements Item {
        private final Completion<Long> waiter;

        PersistItem(Completion<Long> waiter) {
            this.waiter = waiter;
        }

        @Override
        public boolean fits() {
            return true;
        }

        @Override
        public Wire.Frame send() {
            long token = nextToken++;
            asked.addLast(new AskedPersist(token, waiter));
            return frame(SessionRequest.newBuilder().setPersist(PersistMark.newBuilder().setToken(token)));
        }

        @Override
        public void putBack() {
            throw new AssertionError("persist requests are never in `sent`");
        }

        @Override
        public void fail(DstlException error) {
            waiter.fail(error);
        }
    }

    private final class ResumeItem implements Item {
        private final long number;

        ResumeItem(long number) {
            this.number = number;
        }

        @Override
        public boolean fits() {
            return true;
        }

        @Override
        public Wire.Frame send() {
            return frame(SessionRequest.newBuilder().setResume(Resume.newBuilder().setNumber(number)));
        }

        @Override
        public void putBack() {
            throw new AssertionError("a Resume is never in `sent`");
        }

        @Override
        public void fail(DstlException error) {
            // Nobody waits for it.
        }
    }

    /** What the daemon answers with one message, in the order asked. */
    private interface Asked {
        /** Waits to be asked again, on the next stream. */
        void putBack();

        void fail(DstlException error);
    }

    private final class AskedNotice implements Asked {
        private final Notice notice;
        private final Completion<NoticeOutcome> waiter;

        AskedNotice(Notice notice, Completion<NoticeOutcome> waiter) {
            this.notice = notice;
            this.waiter = waiter;
        }

        @Override
        public void putBack() {
            notices.addFirst(this);
        }

        @Override
        public void fail(DstlException error) {
            waiter.fail(error);
        }
    }

    private final class AskedPersist implements Asked {
        private final long token;
        private final Completion<Long> waiter;

        AskedPersist(long token, Completion<Long> waiter) {
            this.token = token;
            this.waiter = waiter;
        }

        @Override
        public void putBack() {
            queue.addFirst(new PersistItem(waiter));
        }

        @Override
        public void fail(DstlException error) {
            waiter.fail(error);
        }
    }

    /** What the book tells the worker of changes in what waits here. */
    interface Watcher {
        /** A batch has gone to the stream, and cost that much. */
        void sent(Outgoing outgoing, long cost);

        /** A batch waits again, or reads of it wait; what it cost is not told: the stream's credit is. */
        void putBack(Outgoing outgoing);
    }

    private final Supplier<BitSet> touched;
    private final boolean failsOnRefusal;
    private final Watcher watcher;
    private final Deque<Item> queue = new ArrayDeque<>();
    private final Deque<AskedNotice> notices = new ArrayDeque<>();
    private final Deque<Item> sent = new ArrayDeque<>();
    private int sentBatches;
    /** Applied batches whose results have not come, by number. */
    private final TreeMap<Long, Outgoing> unanswered = new TreeMap<>();
    /** Sent and not answered, by id. */
    private final TreeMap<Long, BarrierItem> barriers = new TreeMap<>();
    private final Deque<Asked> asked = new ArrayDeque<>();
    private long next;
    private long nextToken = 1;
    private Acknowledged acknowledged;
    private long granted;
    private long used;

    Book(SessionStarted started, Supplier<BitSet> touched, boolean failsOnRefusal, Watcher watcher) {
        this.touched = touched;
        this.failsOnRefusal = failsOnRefusal;
        this.watcher = watcher;
        this.next = started.getAppliedTo();
        this.acknowledged = new Acknowledged(next, 0, 0);
        this.granted = started.getCredit();
    }

    Acknowledged acknowledged() {
        return acknowledged;
    }

    /** Credit that is granted and not used. */
    long freeCredit() {
        return granted - used;
    }

    /** Whether nothing waits and no batch is in flight: nothing is left that a halt could put back. */
    boolean isSettled() {
        return queue.isEmpty() && notices.isEmpty() && sentBatches == 0 && unanswered.isEmpty();
    }

    /** Whether somebody still waits for a checkpoint, a notice or a persist request. */
    boolean isOwed() {
        return !barriers.isEmpty() || !asked.isEmpty();
    }

    // What callers hand in.

    void addBatch(Outgoing outgoing) {
        queue.addLast(new BatchItem(outgoing));
    }

    void addBarrier(Barrier barrier, Completion<CheckpointCompleted> waiter) {
        queue.addLast(new BarrierItem(barrier, waiter));
    }

    void addPersist(Completion<Long> waiter) {
        queue.addLast(new PersistItem(waiter));
    }

    /** Notices have no place in the order of batches and overtake what waits for credit. */
    void addNotice(Notice notice, Completion<NoticeOutcome> waiter) {
        notices.addLast(new AskedNotice(notice, waiter));
    }

    // What goes out.

    /** The next message to send; null if nothing waits, or credit does not cover it. */
    Wire.Frame takeNext() {
        AskedNotice notice = notices.pollFirst();
        if (notice != null) {
            asked.addLast(notice);
            return frame(SessionRequest.newBuilder().setNotice(notice.notice));
        }
        Item first = queue.peekFirst();
        if (first == null || !first.fits()) {
            return null;
        }
        queue.removeFirst();
        return first.send();
    }

    private static Wire.Frame frame(SessionRequest.Builder request) {
        return new Wire.MessageFrame(request.build());
    }

    // What comes in. All of these throw the session's last error where the daemon broke the protocol.

    /** Settles every batch below {@code appliedTo}. */
    void onAcknowledgement(long appliedTo, long persistedTo, long confirmedTo, long credit) {
        if (appliedTo > next) {
            throw Errors.violation("batches below " + appliedTo + " are acknowledged, " + next + " comes next");
        }
        acknowledged = new Acknowledged(
                Math.max(acknowledged.appliedTo(), appliedTo),
                Math.max(acknowledged.persistedTo(), persistedTo),
                Math.max(acknowledged.confirmedTo(), confirmedTo));
        granted = Math.max(granted, credit);
        while (!sent.isEmpty()) {
            Item first = sent.peekFirst();
            if (first instanceof BatchItem batch) {
                if (batch.number >= appliedTo) {
                    return;
                }
                sentBatches--;
                if (batch.outgoing.lacksResults()) {
                    unanswered.put(batch.number, batch.outgoing);
                } else {
                    batch.outgoing.complete(batch.number);
                }
            }
            // The mark of a barrier goes too: everything before it is applied, so no halt refused it.
            sent.removeFirst();
        }
    }

    /**
     * Answers a batch. Reads of one that had been applied before are asked again, and those that the message had no
     * room for.
     */
    void onResult(ResultScan scan) {
        long number = scan.number();
        Outgoing outgoing = unanswered.get(number);
        if (outgoing == null) {
            outgoing = findSent(number);
        }
        if (outgoing == null) {
            return;
        }
        // It stays where it is until it is answered: whatever ends the session here has to tell its waiter.
        if (scan.isRepeated()) {
            askAgain(number, outgoing);
        } else {
            take(number, outgoing, scan);
        }
        unanswered.remove(number);
    }

    private void take(long number, Outgoing outgoing, ResultScan scan) {
        if (failsOnRefusal && scan.hasRefused()) {
            throw Errors.lost("a write of batch " + number + " was not done: its result exceeds `rpc.max-value-size`", null);
        }
        Outgoing rest = outgoing.answer(number, scan, touched.get());
        if (rest != null) {
            askFirst(rest);
        }
    }

    private Outgoing findSent(long number) {
        for (Item item : sent) {
            if (item instanceof BatchItem batch && batch.number == number) {
                return batch.outgoing;
            }
        }
        return null;
    }

    /** Asks the reads of an applied batch again whose answer was lost. */
    private void askAgain(long number, Outgoing outgoing) {
        if (!outgoing.lacksResults()) {
            outgoing.complete(number);
        } else if (outgoing.batch().fires() || outgoing.batch().isReadsOnce()) {
            String why = outgoing.batch().fires() ? "deleted timers" : "must not be read again";
            AnswerLostException lost = new AnswerLostException("the stream broke before batch " + number
                    + " was answered, which " + why + ": restore the last checkpoint");
            if (failsOnRefusal || outgoing.batch().isReadsOnce()) {
                throw lost;
            }
            outgoing.fail(lost);
        } else {
            askFirst(outgoing.readsAgain(number, touched.get()));
        }
    }

    /** Puts reads first in the queue, but behind a pending Resume. */
    private void askFirst(Outgoing reads) {
        Item resume = queue.peekFirst() instanceof ResumeItem ? queue.pollFirst() : null;
        queue.addFirst(new BatchItem(reads));
        watcher.putBack(reads);
        if (resume != null) {
            queue.addFirst(resume);
        }
    }

    void onCheckpointCompleted(CheckpointCompleted completed) {
        BarrierItem barrier = barriers.remove(completed.getCheckpoint().getCheckpointId());
        if (barrier != null) {
            barrier.waiter.complete(completed);
        }
    }

    void onCheckpointFailed(CheckpointFailed failed) {
        BarrierItem barrier = barriers.remove(failed.getCheckpointId());
        if (barrier != null) {
            barrier.waiter.fail(Errors.of(failed.getError()));
        }
    }

    void onNoticeReply(NoticeReply reply) {
        for (Iterator<Asked> all = asked.iterator(); all.hasNext();) {
            if (all.next() instanceof AskedNotice notice && isSame(notice.notice, reply.getNotice())) {
                all.remove();
                notice.waiter.complete(reply.getOutcome());
                return;
            }
        }
    }

    /** Whether a reply's notice is the one that was sent; the daemon may fill in a missing UUID. */
    private static boolean isSame(Notice sent, Notice answered) {
        CheckpointIdentity mine = sent.getCheckpoint();
        CheckpointIdentity its = answered.getCheckpoint();
        return sent.getKind() == answered.getKind()
                && mine.getEpoch() == its.getEpoch()
                && mine.getCheckpointId() == its.getCheckpointId();
    }

    void onPersisted(PersistReply reply) {
        for (Iterator<Asked> all = asked.iterator(); all.hasNext();) {
            if (all.next() instanceof AskedPersist persist && persist.token == reply.getToken()) {
                all.remove();
                persist.waiter.complete(reply.getPersistedTo());
                return;
            }
        }
    }

    /** An error that names no request answers the oldest notice or persist request. */
    void onError(DstlException error) {
        Asked oldest = asked.pollFirst();
        if (oldest == null) {
            throw Errors.violation("an error that answers nothing: " + error.getMessage());
        }
        oldest.fail(error);
    }

    // How a session goes on after a rejected batch or a broken stream.

    /**
     * Fails the rejected batch and puts everything behind it back, in order, behind a Resume.
     *
     * <p>The daemon refuses everything until it reads that Resume, and by then all that was in flight has been read
     * and refused;
     * so only the refusal of the rejected batch itself matters, the others are its echoes.
     */
    void onHalted(SessionHalted halted) {
        long firstFailed = halted.getFirstFailed();
        if (halted.getRefusedCase() != SessionHalted.RefusedCase.BATCH || halted.getBatch() != firstFailed) {
            return;
        }
        DstlException error = Errors.of(halted.getError());
        if (failsOnRefusal) {
            throw Errors.lost("batch " + firstFailed + " was rejected: " + error.getMessage(), error);
        }
        Deque<Item> behind = new ArrayDeque<>();
        BatchItem failed = null;
        while (failed == null && !sent.isEmpty()) {
            Item last = sent.removeLast();
            if (last instanceof BatchItem batch && batch.number == firstFailed) {
                failed = batch;
            } else {
                behind.addFirst(last);
            }
        }
        if (failed == null) {
            throw Errors.violation("batch " + firstFailed + " is rejected but not in flight");
        }
        sentBatches--;
        putBack(behind);
        next = firstFailed;
        queue.addFirst(new ResumeItem(firstFailed));
        failed.outgoing.fail(error);
    }

    /** Moves what was in flight back to the front of the queue, in order. */
    private static void putBack(Deque<Item> behind) {
        while (!behind.isEmpty()) {
            behind.removeLast().putBack();
        }
    }

    /** Nothing more will come from the old stream: notices and persist requests are asked again. */
    void onBreak() {
        if (queue.peekFirst() instanceof ResumeItem) {
            queue.removeFirst();
        }
        while (!asked.isEmpty()) {
            asked.removeLast().putBack();
        }
    }

    /**
     * A new stream has begun: what the daemon has applied is settled, the rest goes out again. Barriers that the
     * daemon has read
     * cut nothing new and are answered; they go first, since everything before them is applied.
     */
    void onStarted(SessionStarted started) {
        long appliedTo = started.getAppliedTo();
        if (appliedTo < acknowledged.appliedTo() || appliedTo > next) {
            throw Errors.violation("the next batch is " + appliedTo + ", yet " + acknowledged.appliedTo()
                    + " were acknowledged and " + next + " were sent");
        }
        granted = started.getCredit();
        used = 0;
        onAcknowledgement(appliedTo, 0, 0, 0);
        putBack(sent);
        next = appliedTo;
        List<BarrierItem> passed = new ArrayList<>(barriers.descendingMap().values());
        barriers.clear();
        passed.forEach(queue::addFirst);
        // The newest first, since each goes before what is there.
        while (!unanswered.isEmpty()) {
            long newest = unanswered.lastKey();
            askAgain(newest, unanswered.get(newest));
            unanswered.remove(newest);
        }
    }

    /** Tells everybody that the session is over. */
    void fail(DstlException error) {
        sent.forEach(item -> item.fail(error));
        queue.forEach(item -> item.fail(error));
        unanswered.values().forEach(outgoing -> outgoing.fail(error));
        barriers.values().forEach(barrier -> barrier.fail(error));
        notices.forEach(notice -> notice.fail(error));
        asked.forEach(one -> one.fail(error));
    }
}
