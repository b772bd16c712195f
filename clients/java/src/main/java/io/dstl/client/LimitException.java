package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/** A batch is beyond what the daemon takes; it was not sent. */
public class LimitException extends InvalidRequestException {
    private static final long serialVersionUID = 1;

    LimitException(String message) {
        super(Reason.REASON_LIMIT_EXCEEDED, Scope.SCOPE_BATCH, false, message, null);
    }
}
