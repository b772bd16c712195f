package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** A bug, or a backend that serves only reads after a fatal fault. */
public class InternalException extends DstlException {
    private static final long serialVersionUID = 1;

    InternalException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
