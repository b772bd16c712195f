package io.dstl.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import io.dstl.proto.v1.Error;
import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import java.nio.file.Path;

/** Turns what the daemon and gRPC say into {@link DstlException}s. */
final class Errors {
    private static final Metadata.Key<byte[]> DETAILS =
            Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

    private Errors() {}

    /** The exception for an error of the daemon. */
    static DstlException of(Error error) {
        return of(error, null);
    }

    private static DstlException of(Error error, Throwable cause) {
        Reason reason = error.getReason();
        Scope scope = error.getScope();
        boolean retryable = error.getRetryable();
        String message = error.getMessage();
        // The numbers come in tens by what the caller has to do: see `Reason`.
        if (reason == Reason.REASON_UNSUPPORTED) {
            return new UnsupportedException(message, cause);
        }
        return switch (error.getReasonValue() / 10) {
            case 0, 1 -> new InvalidRequestException(reason, scope, retryable, message, cause);
            case 2 -> new NotFoundException(reason, scope, retryable, message, cause);
            case 3 -> new FencedException(reason, scope, retryable, message, cause);
            case 4 -> new UnavailableException(reason, scope, retryable, message, cause);
            case 5 -> new ExhaustedException(reason, scope, retryable, message, cause);
            case 6 -> new CorruptException(reason, scope, retryable, message, cause);
            default -> new InternalException(reason, scope, retryable, message, cause);
        };
    }

    /** The exception for a call that ended with {@code status}. */
    static DstlException of(Status status, Metadata trailers) {
        Error error = trailers == null ? null : details(trailers.get(DETAILS));
        if (error != null) {
            return of(error, null);
        }
        String description = status.getDescription() == null ? "no reason given" : status.getDescription();
        Throwable cause = status.getCause();
        String why = cause == null || cause.getMessage() == null ? "" : ": " + cause.getMessage();
        return new ConnectionException(
                Reason.REASON_UNSPECIFIED,
                Scope.SCOPE_BATCH,
                status.getCode() != Status.Code.UNIMPLEMENTED,
                "the call broke off with " + status.getCode() + ": " + description + why,
                cause);
    }

    static DstlException of(Throwable thrown) {
        if (thrown instanceof DstlException known) {
            return known;
        }
        if (thrown instanceof StatusRuntimeException status) {
            return of(status.getStatus(), status.getTrailers());
        }
        if (thrown instanceof StatusException status) {
            return of(status.getStatus(), status.getTrailers());
        }
        return connection("the call broke off: " + thrown, thrown);
    }

    private static Error details(byte[] bytes) {
        if (bytes == null) {
            return null;
        }
        try {
            // `google.rpc.Status`: its third field has the details.
            Fields fields = new Fields(bytes, 0, bytes.length);
            while (fields.next()) {
                if (fields.tag() == 0x1a) {
                    Any any = Any.parseFrom(fields.slice().copy());
                    if (any.getTypeUrl().endsWith("dstl.v1.Error")) {
                        return Error.parseFrom(any.getValue());
                    }
                }
            }
        } catch (InvalidProtocolBufferException | IllegalArgumentException foreign) {
            // Not the daemon's: the status alone tells.
            return null;
        }
        return null;
    }

    static ConnectionException connection(String message, Throwable cause) {
        return new ConnectionException(Reason.REASON_UNSPECIFIED, Scope.SCOPE_BATCH, true, message, cause);
    }

    /** Nobody answered at {@code socket}: says what may be wrong. */
    static ConnectionException connecting(Path socket, DstlException met) {
        return connection(
                "connecting to the daemon at `" + socket + "`: " + met.getMessage()
                        + "; check that `dstl serve` runs with that `rpc.socket` and that this user may write to it",
                met);
    }

    static SessionLostException lost(String message, Throwable cause) {
        Reason reason = cause instanceof DstlException known ? known.reason() : Reason.REASON_UNSPECIFIED;
        return new SessionLostException(reason, Scope.SCOPE_SESSION, false, "the session is lost: " + message, cause);
    }

    static SessionLostException violation(String what) {
        return lost("the daemon broke the protocol: " + what, null);
    }

    static SessionLostException closed() {
        return lost("it was closed", null);
    }

    /** Whether a stream that broke with this may be opened again. */
    static boolean isBreak(DstlException error) {
        if (error instanceof ConnectionException) {
            return error.isRetryable();
        }
        return !(error instanceof FencedException) && error.isRetryable() && error.scope() == Scope.SCOPE_SESSION;
    }

    /** The last error of a session whose stream ended with {@code error} and is not opened again. */
    static DstlException ended(DstlException error) {
        if (error instanceof SessionLostException || error instanceof FencedException) {
            return error;
        }
        return lost("the daemon ended it: " + error.getMessage(), error);
    }
}
