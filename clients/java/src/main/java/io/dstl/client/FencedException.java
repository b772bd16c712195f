package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** Another owner has the backend, or the session was replaced: stop. */
public class FencedException extends DstlException {
    private static final long serialVersionUID = 1;

    FencedException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
