package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** The daemon refuses the request as it is: change it. */
public class InvalidRequestException extends DstlException {
    private static final long serialVersionUID = 1;

    InvalidRequestException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
