package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** Objects of the store are damaged; the message names them, and what still restores. */
public class CorruptException extends DstlException {
    private static final long serialVersionUID = 1;

    CorruptException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
