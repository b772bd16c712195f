package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.proto.v1.MergeFunction;
import io.dstl.proto.v1.Ttl;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

/**
 * What whoever waits for credit relies on: a session that has nothing under way is granted the largest batch, sooner or later, whatever
 * it has done before. The count of both sides is the same for that, to the byte.
 */
class CreditTest {
    private static final int ROUNDS = 150;
    private static final Duration PATIENCE = Duration.ofMinutes(2);

    private final Random random = new Random(7);
    private ValueState<String, byte[]> values;
    private AggregatingState<String, byte[], byte[]> texts;
    private ListState<String, byte[]> lists;
    private TimerState<String> timers;
    private ValueState<String, byte[]> touched;

    /** Room for few changes, the shortest messages, and a log whose limit is met again and again. */
    private static TestDaemon daemon() {
        return TestDaemon.start("rpc.max-message-size=128 KiB", "rpc.max-value-size=16 KiB",
                "state.changelog.dstl.dfs.upload.max-in-flight=1 MiB",
                "state.changelog.dstl.dfs.preemptive-persist-threshold=512 KiB",
                "state.changelog.dstl.dfs.batch.persist-size-threshold=512 KiB",
                "recovery.max-replay-time=1 s", "recovery.replay-rate=1000");
    }

    @Test
    void aSessionWithNothingUnderWayIsGrantedTheLargestBatchWhateverItHasDone() throws Exception {
        try (TestDaemon daemon = daemon(); SocketProxy proxy = new SocketProxy(daemon);
                DstlClient client = TestDaemon.connect(proxy.path())) {
            List<Backend> backends = new ArrayList<>();
            List<Session> sessions = new ArrayList<>();
            for (int subtask = 0; subtask < 3; subtask++) {
                Backend backend = client.open(OpenOptions.of("credit-" + subtask, "op").attempt(1).build()).await();
                backends.add(backend);
                sessions.add(backend.session(SessionOptions.DEFAULT.withReconnectTimeout(PATIENCE)).await());
            }
            long largest = backends.get(0).limits().getMaxMessageBytes();
            for (int round = 0; round < ROUNDS; round++) {
                int which = random.nextInt(sessions.size());
                register(backends.get(which));
                Session session = sessions.get(which);
                for (int batch = random.nextInt(4); batch >= 0; batch--) {
                    session.send(batch(largest));
                }
                if (random.nextInt(10) == 0) {
                    session.barrier(round + 1, Batch.NONE);
                }
                if (random.nextInt(20) == 0) {
                    proxy.breakAll();
                }
                Eventually.holds("batches of round " + round + " are answered", PATIENCE, () -> session.inFlight() == 0);
                Eventually.holds("credit for the largest batch after round " + round, PATIENCE, () -> session.credit() >= largest);
                assertThat(session.unsentBytes()).isZero();
                assertThat(session.failure()).isEmpty();
            }
            for (Session session : sessions) {
                session.finish().await();
            }
        }
    }

    private void register(Backend backend) throws InterruptedException {
        values = backend.valueState("values", Serdes.string(), Serdes.bytes(), StateOptions.NONE);
        texts = backend.aggregatingState("texts", Serdes.string(), Aggregation.of(MergeFunction.MERGE_FUNCTION_APPEND, Serdes.bytes()), StateOptions.NONE);
        lists = backend.listState("lists", Serdes.string(), Serdes.bytes(), StateOptions.NONE);
        timers = backend.timerState("timers", Serdes.string(), StateOptions.NONE);
        touched = backend.valueState("touched", Serdes.string(), Serdes.bytes(), StateOptions.NONE.withTtl(Ttl.newBuilder()
                .setDurationMs(100_000).setUpdate(Ttl.Update.UPDATE_ON_READ_AND_WRITE).build()));
    }

    /** Up to the largest; some are rejected, some have writes that are refused, some only read. */
    private Batch batch(long largest) {
        Batch batch = new Batch();
        int most = random.nextInt(3) == 0 ? (int) largest - 64 : 1 + random.nextInt((int) largest / 4);
        boolean reads = random.nextInt(4) == 0;
        for (int bytes = 1 + random.nextInt(16_000); batch.encodedLength() + bytes + 64 < most; bytes = 1 + random.nextInt(16_000)) {
            String key = "k" + random.nextInt(20);
            byte[] value = new byte[bytes];
            switch (reads ? 5 + random.nextInt(2) : random.nextInt(7)) {
                case 0 -> values.put(batch, key, value);
                case 1 -> texts.add(batch, key, value);
                case 2 -> lists.add(batch, key, value);
                case 3 -> timers.register(batch, key, bytes);
                case 4 -> touched.put(batch, key, value);
                case 5 -> touched.get(batch, key);
                default -> values.get(batch, key);
            }
            if (reads && batch.operations() > 50) {
                break;
            }
        }
        if (random.nextInt(15) == 0) {
            batch.put(999, Batch.HASHED, new byte[] {1}, Batch.NONE, Batch.NONE);
        }
        return batch;
    }
}
