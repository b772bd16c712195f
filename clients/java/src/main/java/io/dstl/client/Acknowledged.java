package io.dstl.client;

/**
 * How far batches have come. Each number holds for all batches below it and never goes back:
 * {@code confirmedTo <= persistedTo <= appliedTo}.
 *
 * @param appliedTo in the inner backend
 * @param persistedTo durable in the object store
 * @param confirmedTo part of a completed checkpoint
 */
public record Acknowledged(long appliedTo, long persistedTo, long confirmedTo) {}
