package io.dstl.client;

import io.dstl.proto.v1.CheckpointIdentity;

/**
 * What a batch of a {@link QuerySession} read.
 *
 * @param results by operation; {@link Results#outcome} is {@code OUTCOME_ASK_AGAIN} for those that did not fit the
 *      message
 * @param checkpoint the checkpoint that was read; null with {@code VIEW_APPLIED}
 * @param appliedTo with {@code VIEW_APPLIED} the batches that the first operations saw
 */
public record QueryResults(Results results, CheckpointIdentity checkpoint, long appliedTo) {}
