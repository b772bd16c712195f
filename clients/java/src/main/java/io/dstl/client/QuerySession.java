package io.dstl.client;

import io.dstl.proto.v1.QueryStarted;

/** Reads of a backend beside its writer. Thread-safe; answers come in the order asked. */
public interface QuerySession extends AutoCloseable {
    /**
     * What the daemon told at first: states with the ids to use here, key groups.
     *
     * @return the answer
     */
    QueryStarted started();

    /**
     * Asks one batch of reads.
     *
     * @param batch reads alone, on the ids of {@link #started()}
     * @return results of all of them. Fails, and the stream goes on, where nobody owns the backend
     *     ({@link NotFoundException}) or it does not only read ({@link InvalidRequestException})
     */
    Pending<QueryResults> ask(Batch batch);

    /** Ends the stream; what is pending fails. Idempotent. */
    @Override
    void close();
}
