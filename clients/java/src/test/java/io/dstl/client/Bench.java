package io.dstl.client;

import io.dstl.proto.v1.InnerBackend;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.Locale;
import java.util.Random;

/**
 * Measures the client against a daemon process of its own: updates per second, pipelined; the latency of one read in
 * flight;
 * batches of reads. `make bench-java` runs it.
 */
final class Bench {
    private static final int KEYS = 100_000;
    private static final int VALUE_BYTES = 100;
    private static final int BATCH = 500;

    private final Backend backend;
    private final int state;
    private final Random random = new Random(1);
    private final byte[] key = new byte[Long.BYTES];
    private final byte[] value = new byte[VALUE_BYTES];

    private Bench(Backend backend) throws InterruptedException {
        this.backend = backend;
        this.state = backend.valueState("v", Serdes.int64(), Serdes.bytes(), StateOptions.NONE).registered().getId();
        random.nextBytes(value);
    }

    public static void main(String[] arguments) throws Exception {
        try (TestDaemon daemon = TestDaemon.start(); DstlClient client = daemon.connect()) {
            for (InnerBackend inner : new InnerBackend[] {InnerBackend.INNER_BACKEND_HASHMAP, InnerBackend.INNER_BACKEND_ROCKSDB}) {
                String feature = "inner." + inner.name().substring("INNER_BACKEND_".length()).toLowerCase(Locale.ROOT);
                if (client.daemon().getFeaturesList().contains(feature)) {
                    System.out.println(feature + ": " + KEYS + " keys of 8 bytes, values of " + VALUE_BYTES + " bytes");
                    Backend backend = client.open(OpenOptions.of("bench", feature).attempt(1).inner(inner).build()).await();
                    new Bench(backend).run();
                    backend.close().await();
                }
            }
        }
    }

    private void run() throws InterruptedException {
        updates(Duration.ofSeconds(3));
        System.out.printf("  updates, batches of %d, pipelined        %,12.0f /s%n", BATCH, updates(Duration.ofSeconds(5)));
        for (Duration spin : new Duration[] {Duration.ZERO, Duration.ofMillis(1)}) {
            oneGet(spin, 5_000);
            double[] micros = oneGet(spin, 20_000);
            System.out.printf("  get, one in flight, %-22s p50 %6.1f us   p99 %6.1f us%n",
                    spin.isZero() ? "parking" : "spinning", micros[micros.length / 2], micros[micros.length * 99 / 100]);
        }
        for (int inFlight : new int[] {1, 4}) {
            gets(inFlight, Duration.ofSeconds(1));
            System.out.printf("  gets, batches of %d, %d in flight        %,12.0f /s%n", BATCH, inFlight,
                    gets(inFlight, Duration.ofSeconds(4)));
        }
    }

    private byte[] nextKey() {
        ByteBuffer.wrap(key).putLong(random.nextInt(KEYS));
        return key;
    }

    private double updates(Duration time) throws InterruptedException {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        long begin = System.nanoTime();
        long batches = 0;
        Pending<Results> last = null;
        while (System.nanoTime() - begin < time.toNanos()) {
            Batch batch = new Batch(BATCH * (VALUE_BYTES + 24));
            for (int at = 0; at < BATCH; at++) {
                batch.put(state, Batch.HASHED, nextKey(), Batch.NONE, value);
            }
            last = session.send(batch);
            batches++;
        }
        last.await();
        double perSecond = batches * BATCH / ((System.nanoTime() - begin) / 1e9);
        session.finish().await();
        return perSecond;
    }

    private double[] oneGet(Duration spin, int count) throws InterruptedException {
        Session session = backend.session(SessionOptions.DEFAULT.withSpin(spin)).await();
        double[] micros = new double[count];
        for (int at = 0; at < count; at++) {
            long begin = System.nanoTime();
            Batch batch = new Batch(64);
            batch.get(state, Batch.HASHED, nextKey(), Batch.NONE);
            if (session.send(batch).await().slice(0).length() != VALUE_BYTES) {
                throw new AssertionError("a key without value");
            }
            micros[at] = (System.nanoTime() - begin) / 1e3;
        }
        session.finish().await();
        Arrays.sort(micros);
        return micros;
    }

    private double gets(int inFlight, Duration time) throws InterruptedException {
        Session session = backend.session(SessionOptions.DEFAULT).await();
        Deque<Pending<Results>> pending = new ArrayDeque<>();
        long begin = System.nanoTime();
        long read = 0;
        while (System.nanoTime() - begin < time.toNanos()) {
            while (pending.size() < inFlight) {
                Batch batch = new Batch(BATCH * 24);
                for (int at = 0; at < BATCH; at++) {
                    batch.get(state, Batch.HASHED, nextKey(), Batch.NONE);
                }
                pending.add(session.send(batch));
            }
            Results results = pending.remove().await();
            for (int at = 0; at < BATCH; at++) {
                read += results.slice(at).length() == VALUE_BYTES ? 1 : 0;
            }
        }
        double perSecond = read / ((System.nanoTime() - begin) / 1e9);
        session.finish().await();
        return perSecond;
    }
}
