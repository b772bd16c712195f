package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** There is no connection, or it broke off without a word of the daemon. The call may be repeated. */
public class ConnectionException extends DstlException {
    private static final long serialVersionUID = 1;

    ConnectionException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
