package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/**
 * A batch was applied and its answer was lost with a broken stream: timers that fired, or reads that must not be
 * asked again.
 * Restore the last checkpoint.
 */
public class AnswerLostException extends SessionLostException {
    private static final long serialVersionUID = 1;

    AnswerLostException(String message) {
        super(Reason.REASON_UNSPECIFIED, Scope.SCOPE_SESSION, false, message, null);
    }
}
