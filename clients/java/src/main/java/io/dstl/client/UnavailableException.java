package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** It may work later, unchanged. */
public class UnavailableException extends DstlException {
    private static final long serialVersionUID = 1;

    UnavailableException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
