package io.dstl.client;

import io.dstl.proto.v1.Reason;
import io.dstl.proto.v1.Scope;

/**
 * What a call met. Subclasses say what the caller has to do; {@link #reason()} says why, exactly. The message names
 * values
 * and what to do.
 */
public abstract class DstlException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** Why, as the daemon gave it. */
    private final Reason reason;
    /** What is spoilt. */
    private final Scope scope;
    /** Whether the same call may succeed later, unchanged. */
    private final boolean retryable;

    DstlException(Reason reason, Scope scope, boolean retryable, String message, Throwable cause) {
        super(message, cause);
        this.reason = reason;
        this.scope = scope;
        this.retryable = retryable;
    }

    /**
     * The reason that the daemon gave.
     *
     * @return {@code REASON_UNSPECIFIED} where it gave none
     */
    public Reason reason() {
        return reason;
    }

    /**
     * What is spoilt.
     *
     * @return this call, the session, the backend or the daemon
     */
    public Scope scope() {
        return scope;
    }

    /**
     * Whether the same call may succeed later, unchanged.
     *
     * @return true if so
     */
    public boolean isRetryable() {
        return retryable;
    }
}
