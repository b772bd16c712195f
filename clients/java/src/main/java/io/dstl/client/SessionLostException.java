package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/**
 * The session is over; batches that were not acknowledged may be applied or not. Open the backend again, from a
 * checkpoint.
 */
public class SessionLostException extends DstlException {
    private static final long serialVersionUID = 1;

    SessionLostException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
