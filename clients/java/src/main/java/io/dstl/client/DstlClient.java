package io.dstl.client;

import io.dstl.proto.v1.BackendDescription;
import io.dstl.proto.v1.BackendRef;
import io.dstl.proto.v1.DeclareJobRequest;
import io.dstl.proto.v1.DeclareJobResponse;
import io.dstl.proto.v1.DescribeJobResponse;
import io.dstl.proto.v1.DiscardRequest;
import io.dstl.proto.v1.DiscardResponse;
import io.dstl.proto.v1.HelloResponse;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.OpenRequest;
import io.dstl.proto.v1.QueryStart;
import io.dstl.proto.v1.Restoring;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;

/**
 * A connection to one daemon. All clients of a process that connect to one socket (by one class loader) share it; it
 * ends
 * with the last of them, and its threads with it. Thread-safe.
 *
 * <p>Every {@link Pending} here fails with the {@link DstlException} that the daemon answered, or with
 * {@link ConnectionException} where no answer came; calls may be repeated after that, since all of them are idempotent.
 */
public interface DstlClient extends AutoCloseable {
    /**
     * Connects with default options.
     *
     * @param socket the daemon's Unix socket
     * @return a client, to be closed
     * @throws ConnectionException if nobody listens there, or this process may not; its message names the socket
     * @throws InvalidRequestException if daemon and client have no protocol version in common
     * @throws InterruptedException if the waiting thread was interrupted
     */
    static DstlClient connect(Path socket) throws InterruptedException {
        return connect(ConnectOptions.of(socket));
    }

    /**
     * Connects. Where this process has a connection to that socket already, it is shared: of the options, the
     * executor is this
     * client's own, the others are those of whoever came first.
     *
     * @param options how
     * @return a client, to be closed
     * @throws ConnectionException if nobody listens there, or this process may not; its message names the socket
     * @throws InvalidRequestException if daemon and client have no protocol version in common
     * @throws InterruptedException if the waiting thread was interrupted
     */
    static DstlClient connect(ConnectOptions options) throws InterruptedException {
        return Client.connect(options);
    }

    /**
     * What the daemon said when this client connected: version, instance, features, limits.
     *
     * @return the answer
     */
    HelloResponse daemon();

    /**
     * What the daemon allows at most.
     *
     * @return the limits
     */
    default Limits limits() {
        return daemon().getLimits();
    }

    /**
     * Refuses a daemon that lacks features which the caller needs.
     *
     * @param features names as in {@code HelloResponse.features}
     * @throws UnsupportedException names those that are missing, and the daemon's version
     */
    void require(String... features);

    /**
     * Asks again who is there; another {@code daemon_instance} is another process.
     *
     * @return the answer
     */
    Pending<HelloResponse> hello();

    /**
     * Opens a backend: fences every earlier owner of it, and restores. It takes as long as the restore takes.
     *
     * @param request see {@code OpenRequest} in the protocol, and {@link OpenOptions}
     * @param progress told about once a second how far the restore is, on the executor; null: nobody
     * @return the backend; {@link Opening#cancel()} ends the restore
     */
    Opening open(OpenRequest request, Consumer<? super Restoring> progress);

    /**
     * Opens a backend, without telling progress.
     *
     * @param request see {@code OpenRequest} in the protocol, and {@link OpenOptions}
     * @return the backend
     */
    default Opening open(OpenRequest request) {
        return open(request, null);
    }

    /**
     * What every backend of this daemon consists of.
     *
     * @return one description for each backend
     */
    Pending<List<BackendDescription>> describe();

    /**
     * What one backend consists of; needs no ownership.
     *
     * @param backend its name; the epoch is not looked at
     * @return the description; fails with {@link NotFoundException} where this daemon does not have it
     */
    Pending<BackendDescription> describe(BackendRef backend);

    /**
     * What a job can be restored to.
     *
     * @param job its name
     * @return operators and checkpoints; empty for a job that the store does not have
     */
    Pending<DescribeJobResponse> describeJob(String job);

    /**
     * Begins an attempt of a job whose checkpoints dstl coordinates.
     *
     * @param request the tasks, and what they begin with
     * @return what all tasks begin with
     */
    Pending<DeclareJobResponse> declareJob(DeclareJobRequest request);

    /**
     * Lets go of a checkpoint of a backend that is not open, or of everything that a job has.
     *
     * @param request what
     * @return what went
     */
    Pending<DiscardResponse> discard(DiscardRequest request);

    /**
     * Begins to read a backend beside its writer. Needs {@code queryable-state.enabled} at the daemon, else it fails
     * with
     * {@link UnsupportedException}.
     *
     * @param start whose state, and which view of it
     * @return the stream of reads
     */
    Pending<QuerySession> query(QueryStart start);

    /**
     * Gives the connection up. Sessions of backends that this client opened end; the backends stay open. Idempotent.
     */
    @Override
    void close();
}
