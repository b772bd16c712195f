/**
 * The client of a dstl daemon for the JVM: connect over the daemon's Unix socket, open a backend, write and read its
 * state,
 * checkpoint.
 *
 * <pre>{@code
 * // Open what the last attempt left behind: every start of a task has a higher attempt.
 * try (DstlClient client = DstlClient.connect(Path.of("/run/dstl/dstl.sock"))) {
 *     Backend backend = client.open(OpenOptions.of("word-count", "count").attempt(3).build()).await();
 *     ValueState<String, Long> counts = backend.valueState("counts", Serdes.string(), Serdes.int64(),
 *             StateOptions.merging(MergeFunction.MERGE_FUNCTION_SUM_I64));
 *     Session session = backend.session(SessionOptions.DEFAULT).await();
 *
 *     Batch batch = session.batch();
 *     for (String word : words) {
 *         counts.merge(batch, word, 1L);
 *     }
 *     session.send(batch);                                                  // pipelined: waits for room alone
 *     CheckpointCompleted completed = session.barrier(1, offsets).await();  // a cut exactly here
 *     session.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await();
 *
 *     Long seen = counts.get(session, "flink");
 *     session.finish().await();
 * }
 * }</pre>
 *
 * <p><b>Blocking or asynchronous.</b> Each call returns a {@link io.dstl.client.Pending}: {@code await()} it, or take
 * its
 * {@code future()}, which is completed on an executor.
 *
 * <p><b>Threads.</b> One daemon thread per connection moves bytes; no code of the caller runs on it: no serializer, no
 * callback. A {@code Pending} that is awaited is read on the thread that waits; futures and listeners run on the
 * executor of
 * {@link io.dstl.client.SessionOptions} or {@link io.dstl.client.ConnectOptions}. Callers' threads touch neither
 * Netty nor
 * gRPC, so that no thread-local value of theirs stays behind when the last client of a socket is closed.
 *
 * <p><b>Two levels.</b> {@link io.dstl.client.Batch} and {@link io.dstl.client.Results} are the raw level, in bytes and
 * state ids, with as few copies as possible; engines use it. {@link io.dstl.client.ValueState} and its siblings put
 * types
 * above it.
 *
 * <p><b>Errors</b> are {@link io.dstl.client.DstlException}s; their subclasses say what the caller has to do. Sizes
 * are bytes,
 * times milliseconds since the Unix epoch, ranges half-open unless said otherwise. The messages of the protocol
 * ({@code io.dstl.proto.v1}) are used as they are wherever nothing is to be added to them.
 */
package io.dstl.client;
