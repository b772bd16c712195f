package io.dstl.client;

import io.dstl.proto.v1.BackendDescription;
import io.dstl.proto.v1.BackendRef;
import io.dstl.proto.v1.DeclareJobRequest;
import io.dstl.proto.v1.DeclareJobResponse;
import io.dstl.proto.v1.DescribeJobRequest;
import io.dstl.proto.v1.DescribeJobResponse;
import io.dstl.proto.v1.DescribeRequest;
import io.dstl.proto.v1.DescribeResponse;
import io.dstl.proto.v1.DiscardRequest;
import io.dstl.proto.v1.DiscardResponse;
import io.dstl.proto.v1.HelloRequest;
import io.dstl.proto.v1.HelloResponse;
import io.dstl.proto.v1.OpenRequest;
import io.dstl.proto.v1.QueryStart;
import io.dstl.proto.v1.Restoring;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.grpc.CallOptions;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;

/** A holder of a {@link Connection}. */
final class Client implements DstlClient {
    private static final int PROTOCOL = 1;

    private final Connection connection;
    private final ConnectOptions options;
    private final Executor callbacks;
    private final HelloResponse daemon;
    private final Calls.How how;
    /** What ends with this client. */
    private final Set<AutoCloseable> guests = ConcurrentHashMap.newKeySet();
    private final AtomicBoolean closed = new AtomicBoolean();

    private Client(Connection connection, ConnectOptions options, HelloResponse daemon) {
        this.connection = connection;
        this.options = options;
        this.callbacks = options.callbacks() == null ? connection.callbacks() : options.callbacks();
        this.daemon = daemon;
        int most = (int) Math.min(Integer.MAX_VALUE, daemon.getLimits().getMaxMessageBytes());
        this.how = new Calls.How(connection.lane(), most, callbacks);
    }

    static DstlClient connect(ConnectOptions options) throws InterruptedException {
        Connection connection = Connection.acquire(options);
        boolean connected = false;
        try {
            Calls.How first = new Calls.How(connection.lane(), 1 << 20, connection.callbacks());
            Completion<HelloResponse> hello = hello(first, options, first.within(options.connectTimeout()));
            Client client = new Client(connection, options, hello.await());
            connected = true;
            return client;
        } catch (ConnectionException met) {
            throw Errors.connecting(connection.socket(), met);
        } finally {
            if (!connected) {
                connection.release();
            }
        }
    }

    static Completion<HelloResponse> hello(Calls.How how, ConnectOptions options, CallOptions call) {
        HelloRequest request = HelloRequest.newBuilder()
                .setProtocolMin(PROTOCOL)
                .setProtocolMax(PROTOCOL)
                .setClient(options.name().isEmpty() ? "dstl-client-java" : options.name())
                .build();
        Completion<HelloResponse> completion = new Completion<>(how.callbacks());
        HelloResponse[] answer = new HelloResponse[1];
        Calls.start(how, call, StateBackendServiceGrpc.getHelloMethod(), request, new Calls.Each<>(
                message -> answer[0] = message,
                error -> {
                    if (error == null && answer[0] != null) {
                        completion.complete(answer[0]);
                    } else {
                        completion.fail(error == null ? Errors.violation("a call without answer") : error);
                    }
                }));
        return completion;
    }

    @Override
    public HelloResponse daemon() {
        return daemon;
    }

    @Override
    public void require(String... features) {
        List<String> missing = new ArrayList<>();
        for (String feature : new TreeSet<>(List.of(features))) {
            if (!daemon.getFeaturesList().contains(feature)) {
                missing.add(feature);
            }
        }
        if (!missing.isEmpty()) {
            throw new UnsupportedException(
                    "the daemon at `" + connection.socket() + "` is version " + daemon.getVersion() + " and lacks "
                            + String.join(", ", missing) + ": update it",
                    null);
        }
    }

    @Override
    public Pending<HelloResponse> hello() {
        return hello(how, options, how.options());
    }

    @Override
    public Opening open(OpenRequest request, Consumer<? super Restoring> progress) {
        return OpenCall.start(this, request, progress);
    }

    @Override
    public Pending<List<BackendDescription>> describe() {
        return Calls.unary(how, StateBackendServiceGrpc.getDescribeMethod(), DescribeRequest.getDefaultInstance(),
                DescribeResponse::getBackendsList);
    }

    @Override
    public Pending<BackendDescription> describe(BackendRef backend) {
        DescribeRequest request = DescribeRequest.newBuilder().setBackend(backend).build();
        return Calls.unary(how, StateBackendServiceGrpc.getDescribeMethod(), request, Client::theOne);
    }

    private static BackendDescription theOne(DescribeResponse response) {
        if (response.getBackendsCount() != 1) {
            throw Errors.violation(response.getBackendsCount() + " descriptions of one backend");
        }
        return response.getBackends(0);
    }

    @Override
    public Pending<DescribeJobResponse> describeJob(String job) {
        DescribeJobRequest request = DescribeJobRequest.newBuilder().setJob(job).build();
        return Calls.unary(how, StateBackendServiceGrpc.getDescribeJobMethod(), request, answer -> answer);
    }

    @Override
    public Pending<DeclareJobResponse> declareJob(DeclareJobRequest request) {
        return Calls.unary(how, StateBackendServiceGrpc.getDeclareJobMethod(), request, answer -> answer);
    }

    @Override
    public Pending<DiscardResponse> discard(DiscardRequest request) {
        return Calls.unary(how, StateBackendServiceGrpc.getDiscardMethod(), request, answer -> answer);
    }

    @Override
    public Pending<QuerySession> query(QueryStart start) {
        return QueryStream.start(this, start);
    }

    @Override
    public void close() {
        if (!closed.compareAndSet(false, true)) {
            return;
        }
        for (AutoCloseable guest : List.copyOf(guests)) {
            try {
                guest.close();
            } catch (Exception unexpected) {
                throw new AssertionError("closing does not fail", unexpected);
            }
        }
        connection.release();
    }

    Connection connection() {
        return connection;
    }

    ConnectOptions options() {
        return options;
    }

    Executor callbacks() {
        return callbacks;
    }

    Calls.How how() {
        return how;
    }

    /** Has it closed with this client; throws if that is closed already. */
    void adopt(AutoCloseable guest) {
        guests.add(guest);
        if (closed.get()) {
            guests.remove(guest);
            throw Errors.connection("the client is closed", null);
        }
    }

    void forget(AutoCloseable guest) {
        guests.remove(guest);
    }
}
