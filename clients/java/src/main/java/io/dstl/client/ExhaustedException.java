package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** Something must be freed, or a limit raised, first. */
public class ExhaustedException extends DstlException {
    private static final long serialVersionUID = 1;

    ExhaustedException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(reason, scope, retryable, message, cause);
    }
}
