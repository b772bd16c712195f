package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** The daemon does not offer that: it is too old, or an option of it is off. */
public class UnsupportedException extends InvalidRequestException {
    private static final long serialVersionUID = 1;

    UnsupportedException(String message, Throwable cause) {
        super(Reason.REASON_UNSUPPORTED, Scope.SCOPE_BATCH, false, message, cause);
    }
}
