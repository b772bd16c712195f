package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** What is named is not there. */
public class NotFoundException extends DstlException {
    private static final long serialVersionUID = 1;

    NotFoundException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
