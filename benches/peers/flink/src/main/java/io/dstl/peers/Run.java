package io.dstl.peers;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.util.EnvironmentInformation;

/** A run of {@link Job} or {@link Bare}: its work, its configuration of Flink, its keys and values, and its result. */
final class Run {
    private final Map<String, String> arguments = new LinkedHashMap<>();
    final boolean counts;
    final boolean hasChangelog;
    final long keys;
    final int valueBytes;
    final long warmUpNanos;
    final long windowNanos;
    final Path folder;

    /** Measures a run and returns its result. */
    interface Measurement {
        String of(Run run) throws Exception;
    }

    private Run(String[] pairs) {
        for (String pair : pairs) {
            int equals = pair.indexOf('=');
            arguments.put(pair.substring(0, equals), pair.substring(equals + 1));
        }
        counts = argument("work", "update").equals("rmw");
        hasChangelog = argument("changelog", "false").equals("true");
        keys = Long.parseLong(argument("keys", "1000000"));
        valueBytes = Integer.parseInt(argument("valueBytes", "100"));
        warmUpNanos = Long.parseLong(argument("warmUp", "4")) * 1_000_000_000;
        windowNanos = Long.parseLong(argument("seconds", "10")) * 1_000_000_000;
        folder = Path.of(argument("folder", "."));
    }

    /** Prints the result of a measurement, and ends the process: whatever else still runs in it is of no interest. */
    static void main(String[] pairs, Measurement measurement) {
        int status = 1;
        try {
            System.out.println(measurement.of(new Run(pairs)));
            System.out.flush();
            status = 0;
        } catch (Throwable e) {
            e.printStackTrace();
        } finally {
            Runtime.getRuntime().halt(status);
        }
    }

    String argument(String name, String otherwise) {
        return arguments.getOrDefault(name, otherwise);
    }

    /** The configuration of state and checkpoints, with all files in the folder of the run. */
    Configuration configuration() {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put("state.backend.type", argument("backend", "hashmap"));
        settings.put("execution.checkpointing.dir", folder.resolve("checkpoints").toUri().toString());
        settings.put("execution.checkpointing.interval", "1 s");
        settings.put("execution.checkpointing.incremental", "true");
        settings.put("execution.checkpointing.tolerable-failed-checkpoints", "1000");
        settings.put("web.checkpoints.history", "10000");
        settings.put("restart-strategy.type", "disable");
        settings.put("io.tmp.dirs", folder.toString());
        if (hasChangelog) {
            settings.put("state.changelog.enabled", "true");
            settings.put("state.changelog.storage", "filesystem");
            settings.put("state.changelog.dstl.dfs.base-path", folder.resolve("log").toUri().toString());
            settings.put("state.changelog.periodic-materialize.enabled", "false");
        }
        Configuration configuration = new Configuration();
        settings.forEach(configuration::setString);
        return configuration;
    }

    /** Which key a number touches: the first ones fill, later ones are uniform. */
    static long key(long number, long keys) {
        return mix((number < keys ? number : Long.remainderUnsigned(mix(number), keys)) ^ 0x5bd1e995L);
    }

    /** SplitMix64. */
    static long mix(long z) {
        long x = z + 0x9E3779B97F4A7C15L;
        x = (x ^ (x >>> 30)) * 0xBF58476D1CE4E5B9L;
        x = (x ^ (x >>> 27)) * 0x94D049BB133111EBL;
        return x ^ (x >>> 31);
    }

    /** Values of random bytes. */
    static final class Values {
        /** Values are cut from so many bytes, at random places. */
        private static final int POOL = 1 << 20;
        private final byte[] pool;
        private final int length;

        Values(int length) {
            this.length = length;
            pool = new byte[POOL + length];
            new Random(7).nextBytes(pool);
        }

        byte[] value(long number) {
            // Twenty random bits choose a place in the pool.
            int from = (int) (mix(number ^ 0x77777777L) >>> 44);
            return Arrays.copyOfRange(pool, from, from + length);
        }
    }

    /** A window, from now on. */
    static final class Window {
        final long beganMillis = System.currentTimeMillis();
        private final long began = System.nanoTime();
        private final long cpu = cpuNanos();
        private final long done;

        /** A window that begins when so many operations are done. */
        Window(long done) {
            this.done = done;
        }

        long elapsedNanos() {
            return System.nanoTime() - began;
        }

        /** The result when so many operations are done, without the durations of checkpoints. */
        Measured end(long doneNow) {
            double operations = doneNow - done;
            return new Measured(operations / (elapsedNanos() / 1e9), (cpuNanos() - cpu) / 1e9 / (operations / 1e6));
        }
    }

    /** Operations per second, and processor seconds of this process for a million of them. */
    record Measured(double rate, double cpuPerMillion) {
        /** One line of JSON. */
        String line(List<Double> checkpointMillis) throws IOException {
            return String.format(Locale.ROOT,
                    "{\"version\": \"%s\", \"operations_per_second\": %.1f, \"cpu_seconds_per_million\": %.4f, "
                            + "\"durable_ms\": %s, \"peak_rss_bytes\": %d}",
                    EnvironmentInformation.getVersion(), rate, cpuPerMillion, distribution(checkpointMillis),
                    peakBytes());
        }
    }

    private static String distribution(List<Double> values) {
        if (values.isEmpty()) {
            return "null";
        }
        List<Double> sorted = new ArrayList<>(values);
        Collections.sort(sorted);
        return String.format(Locale.ROOT, "{\"count\": %d, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", sorted.size(),
                rank(sorted, 50), rank(sorted, 99), rank(sorted, 100));
    }

    private static double rank(List<Double> sorted, int percent) {
        return sorted.get((sorted.size() * percent + 99) / 100 - 1);
    }

    private static long cpuNanos() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime();
    }

    private static long peakBytes() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("[^0-9]", "")) << 10;
            }
        }
        return 0;
    }
}
