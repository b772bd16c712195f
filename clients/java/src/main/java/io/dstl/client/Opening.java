package io.dstl.client;

/** A backend that is being opened and restored. */
public interface Opening extends Pending<Backend> {
    /**
     * Ends the restore, unless it has succeeded already. {@link #await()} fails with {@link ConnectionException}
     * then.
     */
    void cancel();
}
