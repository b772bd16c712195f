package io.dstl.client;

import com.google.protobuf.MessageLite;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;

/** Unary calls and server streams on a lane: started on its thread, answered by a {@link Completion}. */
final class Calls {
    private Calls() {}

    /** How a call is made. */
    record How(Lane lane, int maxMessageBytes, Executor callbacks) {
        CallOptions options() {
            return CallOptions.DEFAULT
                    .withMaxInboundMessageSize(maxMessageBytes)
                    .withMaxOutboundMessageSize(maxMessageBytes);
        }

        CallOptions within(Duration deadline) {
            return options().withDeadlineAfter(deadline.toNanos(), TimeUnit.NANOSECONDS);
        }
    }

    /** One request, one answer; {@code take} runs on the lane's thread. */
    static <A extends MessageLite, B, T> Completion<T> unary(
            How how, MethodDescriptor<A, B> method, A request, Function<? super B, ? extends T> take) {
        Completion<T> completion = new Completion<>(how.callbacks);
        start(how, how.options(), method, request, new Answer<>(completion, take));
        return completion;
    }

    /** Starts a call with its only request; whatever happens, {@code listener} is told. */
    static <A, B> void start(
            How how, CallOptions options, MethodDescriptor<A, B> method, A request, ClientCall.Listener<B> listener) {
        boolean handed = how.lane.execute(
                () -> how.lane.whenConnected(() -> begin(how.lane, options, method, request, listener)));
        if (!handed) {
            listener.onClose(Status.UNAVAILABLE.withDescription("the client is closed"), new Metadata());
        }
    }

    /** The same on the lane's thread. */
    static <A, B> ClientCall<A, B> begin(
            Lane lane, CallOptions options, MethodDescriptor<A, B> method, A request, ClientCall.Listener<B> listener) {
        ClientCall<A, B> call = lane.call(method, options);
        call.start(listener, new Metadata());
        call.request(Integer.MAX_VALUE);
        call.sendMessage(request);
        call.halfClose();
        return call;
    }

    private static final class Answer<B, T> extends ClientCall.Listener<B> {
        private final Completion<T> completion;
        private final Function<? super B, ? extends T> take;
        private B answer;

        Answer(Completion<T> completion, Function<? super B, ? extends T> take) {
            this.completion = completion;
            this.take = take;
        }

        @Override
        public void onMessage(B message) {
            answer = message;
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            if (!status.isOk()) {
                completion.fail(Errors.of(status, trailers));
            } else if (answer == null) {
                completion.fail(Errors.violation("a call without answer"));
            } else {
                try {
                    completion.complete(take.apply(answer));
                } catch (DstlException malformed) {
                    completion.fail(malformed);
                }
            }
        }
    }

    /** Gives every message of a server stream, then its end, to whom it concerns; on the lane's thread. */
    static final class Each<B> extends ClientCall.Listener<B> {
        private final Consumer<? super B> message;
        private final Consumer<? super DstlException> end;

        /** {@code end} gets null where the stream ended in order. */
        Each(Consumer<? super B> message, Consumer<? super DstlException> end) {
            this.message = message;
            this.end = end;
        }

        @Override
        public void onMessage(B next) {
            message.accept(next);
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            end.accept(status.isOk() ? null : Errors.of(status, trailers));
        }
    }
}
