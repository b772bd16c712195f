package io.dstl.client;

import com.google.protobuf.InvalidProtocolBufferException;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.QueryFailed;
import io.dstl.proto.v1.QueryRequest;
import io.dstl.proto.v1.QueryStart;
import io.dstl.proto.v1.QueryStarted;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.ArrayDeque;
import java.util.Deque;

/** The stream of a {@link QuerySession}. On the wire its batches look as those of the writer's stream do. */
final class QueryStream extends ClientCall.Listener<byte[]> implements QuerySession {
    private static final MethodDescriptor<Wire.Frame, byte[]> METHOD =
            Wire.stream(StateBackendServiceGrpc.getQueryMethod());

    private final Client client;
    private final Completion<QuerySession> begun;
    private volatile QueryStarted started;

    // The lane's own.
    private ClientCall<Wire.Frame, byte[]> call;
    private final Deque<Completion<QueryResults>> asked = new ArrayDeque<>();
    private long next;
    private DstlException over;

    private QueryStream(Client client) {
        this.client = client;
        this.begun = new Completion<>(client.callbacks());
    }

    static Completion<QuerySession> start(Client client, QueryStart start) {
        QueryStream stream = new QueryStream(client);
        try {
            client.adopt(stream);
        } catch (DstlException closed) {
            stream.begun.fail(closed);
            return stream.begun;
        }
        Lane lane = client.how().lane();
        if (!lane.execute(() -> lane.whenConnected(() -> stream.begin(start)))) {
            stream.begun.fail(Errors.closed());
        }
        return stream.begun;
    }

    private void begin(QueryStart start) {
        if (over != null) {
            return;
        }
        call = client.how().lane().call(METHOD, client.how().options());
        call.start(this, new Metadata());
        call.request(Integer.MAX_VALUE);
        call.sendMessage(new Wire.MessageFrame(QueryRequest.newBuilder().setStart(start).build()));
    }

    @Override
    public QueryStarted started() {
        return started;
    }

    @Override
    public Pending<QueryResults> ask(Batch batch) {
        Limits limits = client.limits();
        if (batch.encodedLength() + (long) Wire.BATCH_OVERHEAD > limits.getMaxMessageBytes()) {
            throw new LimitException("a batch of " + batch.encodedLength() + " bytes: the daemon takes "
                    + limits.getMaxMessageBytes() + " (`rpc.max-message-size`)");
        }
        batch.seal();
        Completion<QueryResults> waiter = new Completion<>(client.callbacks());
        boolean handed = client.how().lane().execute(() -> {
            if (over != null) {
                waiter.fail(over);
            } else {
                asked.addLast(waiter);
                call.sendMessage(new Wire.BatchFrame(next++, batch));
            }
        });
        if (!handed) {
            waiter.fail(Errors.closed());
        }
        return waiter;
    }

    @Override
    public void onMessage(byte[] message) {
        if (over != null) {
            return;
        }
        try {
            Fields fields = new Fields(message, 0, message.length);
            if (!fields.next()) {
                throw Errors.violation("a response without content");
            }
            int from = fields.from();
            int length = fields.to() - from;
            switch (fields.tag() >>> 3) {
                case 1 -> {
                    started = QueryStarted.parser().parseFrom(message, from, length);
                    begun.complete(this);
                }
                case 2 -> answered().complete(results(message, from, from + length));
                case 3 -> answered().fail(Errors.of(QueryFailed.parser().parseFrom(message, from, length).getError()));
                default -> throw Errors.violation("a response of an unknown kind, " + (fields.tag() >>> 3));
            }
        } catch (InvalidProtocolBufferException | IllegalArgumentException malformed) {
            end(Errors.violation("a malformed message: " + malformed.getMessage()));
        } catch (DstlException violation) {
            end(violation);
        }
    }

    private Completion<QueryResults> answered() {
        Completion<QueryResults> oldest = asked.pollFirst();
        if (oldest == null) {
            throw Errors.violation("an answer that nobody asked for");
        }
        return oldest;
    }

    private static QueryResults results(byte[] message, int from, int to) throws InvalidProtocolBufferException {
        CheckpointIdentity checkpoint = null;
        long appliedTo = 0;
        long number = 0;
        Fields fields = new Fields(message, from, to);
        while (fields.next()) {
            switch (fields.tag() >>> 3) {
                case 1 -> number = fields.number();
                case 3 -> checkpoint = CheckpointIdentity.parser()
                        .parseFrom(message, fields.from(), fields.to() - fields.from());
                case 4 -> appliedTo = fields.number();
                default -> { }
            }
        }
        return new QueryResults(new Results(number, new ResultScan(message, from, to)), checkpoint, appliedTo);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
        Status why = status.isOk() ? Status.UNAVAILABLE.withDescription("the stream ended") : status;
        end(Errors.of(why, trailers));
    }

    private void end(DstlException error) {
        if (over != null) {
            return;
        }
        over = error;
        client.forget(this);
        if (call != null) {
            call.cancel("the query session is over", null);
        }
        begun.fail(error);
        asked.forEach(waiter -> waiter.fail(error));
    }

    @Override
    public void close() {
        client.how().lane().execute(() -> end(Errors.closed()));
    }
}
