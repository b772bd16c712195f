package io.dstl.client;

import com.google.protobuf.InvalidProtocolBufferException;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointFailed;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.Error;
import io.dstl.proto.v1.HelloResponse;
import io.dstl.proto.v1.JobCheckpointCompleted;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.Notice;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.NoticeReply;
import io.dstl.proto.v1.PersistReply;
import io.dstl.proto.v1.SessionHalted;
import io.dstl.proto.v1.SessionRequest;
import io.dstl.proto.v1.SessionStart;
import io.dstl.proto.v1.SessionStarted;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Predicate;

/**
 * The actor of a session: moves messages between its callers, its {@link Book} and the stream. Callers put messages
 * into the
 * inbox; everything else happens on the lane's thread.
 */
final class SessionWorker implements Session {
    /** Bytes that the stream may hold back before the book waits. */
    private static final int READY_BYTES = 1 << 20;
    /** The first and the longest pause between two tries to reconnect. */
    private static final long FIRST_PAUSE_NANOS = Duration.ofMillis(10).toNanos();
    private static final long LONGEST_PAUSE_NANOS = Duration.ofSeconds(1).toNanos();
    /** How long one try may take, of a daemon that accepts and says nothing. */
    private static final long ONE_TRY_NANOS = Duration.ofSeconds(5).toNanos();
    private static final MethodDescriptor<Wire.Frame, byte[]> METHOD =
            Wire.stream(StateBackendServiceGrpc.getSessionMethod());

    /** What a caller handed in: what to do about it, and who is told if the session is over. */
    private record Message(Runnable task, Completion<?> waiter) {}

    private record Wait(Predicate<Acknowledged> enough, Completion<Acknowledged> waiter) {}

    private final OpenedBackend backend;
    private final SessionOptions options;
    private final Executor callbacks;
    private final Lane lane;
    private final Calls.How how;
    private final Completion<Session> begun;

    // Shared by callers and lane.
    private final Queue<Message> inbox = new ConcurrentLinkedQueue<>();
    private final AtomicBoolean scheduled = new AtomicBoolean();
    private final AtomicInteger inFlight = new AtomicInteger();
    private final Room room;
    private volatile Acknowledged acknowledged = new Acknowledged(0, 0, 0);
    private volatile DstlException failure;

    // The lane's own.
    private Book book;
    private Link link;
    private String daemonInstance;
    private final List<Wait> waits = new ArrayList<>();
    private final List<Consumer<? super CheckpointIdentity>> listeners = new ArrayList<>();
    private CheckpointIdentity jobCompleted;
    private Completion<Void> finishing;
    private long reconnectDeadline;
    private long pauseNanos = FIRST_PAUSE_NANOS;

    private SessionWorker(OpenedBackend backend, SessionOptions options, Lane lane) {
        Client client = backend.client();
        this.backend = backend;
        this.options = options;
        this.callbacks = options.callbacks() == null ? client.callbacks() : options.callbacks();
        this.lane = lane;
        this.how = new Calls.How(lane, client.how().maxMessageBytes(), callbacks);
        this.begun = new Completion<>(callbacks);
        this.room = new Room(options.maxUnsentBytes());
    }

    static Completion<Session> start(OpenedBackend backend, SessionOptions options) {
        Client client = backend.client();
        SessionWorker worker = new SessionWorker(backend, options, client.connection().enter());
        try {
            client.adopt(worker);
        } catch (DstlException closed) {
            client.connection().leave(worker.lane);
            worker.begun.fail(closed);
            return worker.begun;
        }
        worker.submit(worker.begun, worker::begin);
        return worker.begun;
    }

    // What callers hand in.

    /** Has {@code task} run on the lane's thread, in order; or {@code waiter} told why not. */
    private void submit(Completion<?> waiter, Runnable task) {
        inbox.add(new Message(task, waiter));
        if (scheduled.compareAndSet(false, true) && !lane.execute(this::drain)) {
            // The lane is closed, and nothing runs there any more.
            failure = failure == null ? Errors.closed() : failure;
            failInbox();
        }
    }

    private void drain() {
        scheduled.set(false);
        for (Message message = inbox.poll(); message != null; message = inbox.poll()) {
            DstlException over = failure;
            if (over != null) {
                message.waiter.fail(over);
            } else {
                guarded(message.task);
            }
        }
        guarded(this::sendWhatFits);
    }

    private void failInbox() {
        for (Message message = inbox.poll(); message != null; message = inbox.poll()) {
            message.waiter.fail(failure);
        }
    }

    private void checkOpen() {
        DstlException over = failure;
        if (over != null) {
            throw over;
        }
    }

    private <T> Completion<T> completion() {
        return new Completion<>(callbacks, options.spin());
    }

    @Override
    public Batch batch() {
        return new Batch();
    }

    @Override
    public Pending<Results> send(Batch batch) throws InterruptedException {
        check(batch);
        room.await(() -> failure != null);
        return handIn(batch);
    }

    @Override
    public Optional<Pending<Results>> trySend(Batch batch) {
        check(batch);
        return room.isThere() ? Optional.of(handIn(batch)) : Optional.empty();
    }

    private Pending<Results> handIn(Batch batch) {
        checkOpen();
        batch.seal();
        Completion<Results> waiter = completion();
        if (batch.isEmpty()) {
            waiter.complete(new Results(acknowledged.appliedTo()));
            return waiter;
        }
        Outgoing outgoing = new Outgoing(batch, backend.touched(), waiter, inFlight::decrementAndGet);
        inFlight.incrementAndGet();
        room.take(outgoing);
        submit(waiter, () -> book.addBatch(outgoing));
        return waiter;
    }

    private void check(Batch batch) {
        Limits limits = backend.limits();
        long bytes = batch.encodedLength() + (long) Wire.BATCH_OVERHEAD;
        if (bytes > limits.getMaxMessageBytes() || batch.operations() > limits.getMaxBatchOperations()) {
            throw new LimitException("a batch of " + bytes + " bytes and " + batch.operations()
                    + " operations: the daemon takes " + limits.getMaxMessageBytes()
                    + " bytes (`rpc.max-message-size`) and " + limits.getMaxBatchOperations() + " operations");
        }
    }

    @Override
    public long credit() {
        return room.credit();
    }

    @Override
    public long unsentBytes() {
        return room.unsentBytes();
    }

    @Override
    public int inFlight() {
        return inFlight.get();
    }

    @Override
    public Pending<CheckpointCompleted> barrier(Barrier barrier) {
        checkOpen();
        Completion<CheckpointCompleted> waiter = completion();
        submit(waiter, () -> book.addBarrier(barrier, waiter));
        return waiter;
    }

    @Override
    public Pending<NoticeOutcome> notify(NoticeKind kind, CheckpointIdentity checkpoint) {
        checkOpen();
        Notice notice = Notice.newBuilder().setKind(kind).setCheckpoint(checkpoint).build();
        Completion<NoticeOutcome> waiter = completion();
        submit(waiter, () -> book.addNotice(notice, waiter));
        return waiter;
    }

    @Override
    public CheckpointIdentity checkpoint(long id) {
        long epoch = backend.reference().getEpoch().getNumber();
        return CheckpointIdentity.newBuilder().setEpoch(epoch).setCheckpointId(id).build();
    }

    @Override
    public Pending<Long> persist() {
        checkOpen();
        Completion<Long> waiter = completion();
        submit(waiter, () -> book.addPersist(waiter));
        return waiter;
    }

    @Override
    public Acknowledged acknowledged() {
        return acknowledged;
    }

    @Override
    public Pending<Acknowledged> whenApplied(long to) {
        return when(now -> now.appliedTo() >= to);
    }

    @Override
    public Pending<Acknowledged> whenPersisted(long to) {
        return when(now -> now.persistedTo() >= to);
    }

    @Override
    public Pending<Acknowledged> whenConfirmed(long to) {
        return when(now -> now.confirmedTo() >= to);
    }

    private Pending<Acknowledged> when(Predicate<Acknowledged> enough) {
        Completion<Acknowledged> waiter = completion();
        submit(waiter, () -> {
            if (enough.test(acknowledged)) {
                waiter.complete(acknowledged);
            } else {
                waits.add(new Wait(enough, waiter));
            }
        });
        return waiter;
    }

    @Override
    public void onJobCompleted(Consumer<? super CheckpointIdentity> listener) {
        submit(completion(), () -> {
            listeners.add(listener);
            if (jobCompleted != null) {
                tell(listener, jobCompleted);
            }
        });
    }

    private void tell(Consumer<? super CheckpointIdentity> listener, CheckpointIdentity checkpoint) {
        Callbacks.run(callbacks, () -> listener.accept(checkpoint));
    }

    @Override
    public Optional<DstlException> failure() {
        return Optional.ofNullable(failure);
    }

    @Override
    public Pending<Void> finish() {
        checkOpen();
        Completion<Void> waiter = completion();
        submit(waiter, () -> {
            if (finishing == null) {
                finishing = waiter;
            } else {
                waiter.fail(Errors.closed());
            }
        });
        return waiter;
    }

    @Override
    public void close() {
        submit(completion(), () -> end(Errors.closed(), false));
    }

    // The lane's thread from here on.

    /** Runs a step; what it throws is the session's last error. */
    private void guarded(Runnable step) {
        try {
            step.run();
        } catch (DstlException error) {
            end(error, true);
        } catch (IllegalArgumentException | IndexOutOfBoundsException malformed) {
            end(Errors.violation("a malformed message: " + malformed), true);
        }
    }

    /** Learns which process it is that the session lives and dies with, then opens the first stream. */
    private void begin() {
        Client.hello(how, backend.client().options(), how.options()).whenDoneHere((hello, error) -> guarded(() -> {
            if (error != null) {
                end(error, false);
            } else if (failure == null) {
                daemonInstance = hello.getDaemonInstance();
                openStream();
            }
        }));
    }

    private void openStream() {
        link = new Link();
        CallOptions stream = how.options().withOnReadyThreshold(READY_BYTES);
        link.call = lane.call(METHOD, stream);
        link.call.start(link, new Metadata());
        link.call.request(Integer.MAX_VALUE);
        SessionStart start = SessionStart.newBuilder().setBackend(backend.reference()).build();
        link.call.sendMessage(new Wire.MessageFrame(SessionRequest.newBuilder().setStart(start).build()));
    }

    /** One stream to the daemon. One that was given up says nothing any more. */
    private final class Link extends ClientCall.Listener<byte[]> {
        private ClientCall<Wire.Frame, byte[]> call;
        private boolean started;
        private boolean halfClosed;

        @Override
        public void onMessage(byte[] message) {
            if (link == this) {
                guarded(() -> {
                    onResponse(message);
                    sendWhatFits();
                });
            }
        }

        @Override
        public void onReady() {
            if (link == this) {
                guarded(SessionWorker.this::sendWhatFits);
            }
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            if (link == this) {
                Status why = status.isOk() ? Status.UNAVAILABLE.withDescription("the stream ended") : status;
                guarded(() -> onStreamEnd(Errors.of(why, trailers)));
            }
        }
    }

    /** Hands over what credit covers and the stream has room for. */
    private void sendWhatFits() {
        if (book == null || link == null || !link.started || link.halfClosed) {
            return;
        }
        while (link.call.isReady()) {
            Wire.Frame frame = book.takeNext();
            if (frame == null) {
                break;
            }
            link.call.sendMessage(frame);
        }
        if (finishing != null && book.isSettled() && inbox.isEmpty()) {
            link.halfClosed = true;
            link.call.halfClose();
        }
    }

    private void onResponse(byte[] message) {
        Fields fields = new Fields(message, 0, message.length);
        if (!fields.next()) {
            throw Errors.violation("a response without content");
        }
        int from = fields.from();
        int length = fields.to() - from;
        try {
            switch (fields.tag() >>> 3) {
                case 1 -> onStarted(SessionStarted.parser().parseFrom(message, from, length));
                case 2 -> onAcknowledgement(new Fields(message, from, from + length));
                case 3 -> book.onResult(new ResultScan(message, from, from + length));
                case 4 -> book.onCheckpointCompleted(CheckpointCompleted.parser().parseFrom(message, from, length));
                case 5 -> book.onCheckpointFailed(CheckpointFailed.parser().parseFrom(message, from, length));
                case 6 -> book.onHalted(SessionHalted.parser().parseFrom(message, from, length));
                case 7 -> book.onNoticeReply(NoticeReply.parser().parseFrom(message, from, length));
                case 8 -> book.onPersisted(PersistReply.parser().parseFrom(message, from, length));
                case 9 -> onError(Errors.of(Error.parser().parseFrom(message, from, length)));
                case 10 -> onJobCompleted(JobCheckpointCompleted.parser().parseFrom(message, from, length));
                default -> throw Errors.violation("a response of an unknown kind, " + (fields.tag() >>> 3));
            }
        } catch (InvalidProtocolBufferException malformed) {
            throw Errors.violation("a malformed message: " + malformed.getMessage());
        }
    }

    private void onStarted(SessionStarted started) {
        if (link.started) {
            throw Errors.violation("a second `SessionStarted`");
        }
        link.started = true;
        reconnectDeadline = 0;
        pauseNanos = FIRST_PAUSE_NANOS;
        if (book == null) {
            boolean fails = options.onRejection() == SessionOptions.OnRejection.FAIL;
            book = new Book(started, backend::touched, fails, room);
            publish();
            begun.complete(this);
        } else {
            book.onStarted(started);
            publish();
        }
    }

    private void onAcknowledgement(Fields fields) {
        long appliedTo = 0;
        long persistedTo = 0;
        long confirmedTo = 0;
        long credit = 0;
        while (fields.next()) {
            switch (fields.tag() >>> 3) {
                case 1 -> appliedTo = fields.number();
                case 2 -> persistedTo = fields.number();
                case 3 -> confirmedTo = fields.number();
                case 4 -> credit = fields.number();
                default -> { }
            }
        }
        book.onAcknowledgement(appliedTo, persistedTo, confirmedTo, credit);
        publish();
    }

    private void publish() {
        room.setFreeCredit(book.freeCredit());
        Acknowledged now = book.acknowledged();
        acknowledged = now;
        for (int at = waits.size() - 1; at >= 0; at--) {
            if (waits.get(at).enough.test(now)) {
                waits.remove(at).waiter.complete(now);
            }
        }
    }

    private void onError(DstlException error) {
        if (!link.started) {
            onStreamEnd(error);
        } else {
            book.onError(error);
        }
    }

    private void onJobCompleted(JobCheckpointCompleted completed) {
        if (!completed.getCheckpoint().equals(jobCompleted)) {
            jobCompleted = completed.getCheckpoint();
            listeners.forEach(listener -> tell(listener, jobCompleted));
        }
    }

    private void onStreamEnd(DstlException error) {
        boolean halfClosed = link.halfClosed;
        giveUpLink();
        if (halfClosed && !book.isOwed() && error instanceof ConnectionException) {
            Completion<Void> told = finishing;
            finishing = null;
            end(Errors.closed(), false);
            told.complete(null);
        } else if (book == null || !Errors.isBreak(error)) {
            end(book == null ? error : Errors.ended(error), true);
        } else {
            if (reconnectDeadline == 0) {
                reconnectDeadline = System.nanoTime() + options.reconnectTimeout().toNanos();
                book.onBreak();
            }
            tryReconnect(error);
        }
    }

    private void giveUpLink() {
        Link old = link;
        link = null;
        if (old != null) {
            old.call.cancel("the session has given this stream up", null);
        }
    }

    /** Asks who is there; the same process gets a new stream. */
    private void tryReconnect(DstlException last) {
        long left = reconnectDeadline - System.nanoTime();
        if (left <= 0) {
            throw Errors.lost("the daemon did not answer for " + options.reconnectTimeout() + "; last: "
                    + last.getMessage(), last);
        }
        CallOptions inTime = how.within(Duration.ofNanos(Math.min(left, ONE_TRY_NANOS)));
        Client.hello(how, backend.client().options(), inTime).whenDoneHere((answer, error) -> {
            if (failure == null) {
                guarded(() -> onHello(answer, error));
            }
        });
    }

    private void onHello(HelloResponse answer, DstlException error) {
        if (error != null) {
            if (!Errors.isBreak(error)) {
                throw Errors.ended(error);
            }
            pauseNanos = Math.min(2 * pauseNanos, LONGEST_PAUSE_NANOS);
            lane.schedule(() -> {
                if (failure == null) {
                    guarded(() -> tryReconnect(error));
                }
            }, pauseNanos);
        } else if (!answer.getDaemonInstance().equals(daemonInstance)) {
            throw Errors.lost("the daemon was restarted: its instance was `" + daemonInstance + "` and is `"
                    + answer.getDaemonInstance() + "`; open again from a checkpoint", null);
        } else {
            openStream();
        }
    }

    /**
     * The session is over: everybody who waits is told; before that, where nobody closed it, the one who listens for
     * it.
     */
    private void end(DstlException error, boolean tellFirst) {
        if (failure != null) {
            return;
        }
        failure = error;
        giveUpLink();
        Client client = backend.client();
        client.forget(this);
        client.connection().leave(lane);
        Runnable failAll = () -> failEverybody(error);
        if (tellFirst && options.onFailure() != null && book != null) {
            Callbacks.run(callbacks, () -> {
                try {
                    options.onFailure().accept(error);
                } finally {
                    failAll.run();
                }
            });
        } else {
            failAll.run();
        }
    }

    private void failEverybody(DstlException error) {
        room.open();
        begun.fail(error);
        if (book != null) {
            book.fail(error);
        }
        waits.forEach(wait -> wait.waiter.fail(error));
        if (finishing != null) {
            finishing.fail(error);
        }
    }
}
