package io.dstl.client;

import io.dstl.proto.v1.OpenRequest;
import io.dstl.proto.v1.OpenResponse;
import io.dstl.proto.v1.Opened;
import io.dstl.proto.v1.Restoring;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.grpc.ClientCall;
import io.grpc.Status;
import java.util.function.Consumer;

/** An {@code Open} on its way. */
final class OpenCall extends Completion<Backend> implements Opening {
    private final Client client;
    private final Consumer<? super Restoring> progress;
    /** For the lane's thread, as is {@code cancelled}. */
    private ClientCall<?, ?> call;
    private boolean cancelled;
    private Opened opened;

    private OpenCall(Client client, Consumer<? super Restoring> progress) {
        super(client.callbacks());
        this.client = client;
        this.progress = progress;
    }

    static OpenCall start(Client client, OpenRequest request, Consumer<? super Restoring> progress) {
        OpenCall open = new OpenCall(client, progress);
        Lane lane = client.how().lane();
        if (!lane.execute(() -> lane.whenConnected(() -> open.begin(request)))) {
            open.fail(Errors.connection("the client is closed", null));
        }
        return open;
    }

    private void begin(OpenRequest request) {
        if (cancelled) {
            fail(Errors.connection("opening was cancelled", null));
            return;
        }
        Calls.How how = client.how();
        call = Calls.begin(how.lane(), how.options(), StateBackendServiceGrpc.getOpenMethod(), request,
                new Calls.Each<>(this::onMessage, this::onEnd));
    }

    private void onMessage(OpenResponse message) {
        if (message.hasOpened()) {
            opened = message.getOpened();
        } else if (progress != null) {
            Callbacks.run(client.callbacks(), () -> progress.accept(message.getRestoring()));
        }
    }

    private void onEnd(DstlException error) {
        if (opened != null && (error == null || error instanceof ConnectionException)) {
            complete(new OpenedBackend(client, opened));
        } else if (cancelled) {
            fail(Errors.connection("opening was cancelled", error));
        } else {
            fail(error == null ? Errors.violation("`Open` ended without `Opened`") : error);
        }
    }

    @Override
    public void cancel() {
        client.how().lane().execute(() -> {
            cancelled = true;
            if (call != null) {
                call.cancel("opening was cancelled", Status.CANCELLED.asException());
            }
        });
    }
}
