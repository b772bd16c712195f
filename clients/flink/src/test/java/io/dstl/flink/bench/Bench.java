package io.dstl.flink.bench;

import io.dstl.flink.Daemon;
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
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.checkpoint.AbstractCheckpointStats;
import org.apache.flink.runtime.checkpoint.CompletedCheckpointStats;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * A saturated job of one task with checkpoints each second: W1 value update (8-byte key, 100-byte value), W2 counter read and written, W3 map
 * put, W4 list append (one of 32 clears). {@code keys} are filled first; then keys are uniform, or (zipf) skewed with exponent 0.99.
 *
 * <pre>{@code Bench backend=dstl|hashmap|rocksdb changelog=on|off inner=hashmap|rocksdb work=1..4 keys=1000000 zipf=off|on seconds=10}</pre>
 */
public final class Bench {
    private static final Map<String, String> ARGUMENTS = new LinkedHashMap<>();
    /** What the one task of this process has processed. */
    static volatile long processed;

    private Bench() {}

    /**
     * Runs one configuration and prints a line.
     *
     * @param arguments see above
     * @throws Exception if the job fails
     */
    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            ARGUMENTS.put(argument.substring(0, argument.indexOf('=')), argument.substring(argument.indexOf('=') + 1));
        }
        String backend = argument("backend", "dstl");
        Path directory = Files.createTempDirectory(Path.of(System.getProperty("java.io.tmpdir")), "dstl-bench");
        Daemon daemon = backend.equals("dstl") ? Daemon.start() : null;
        try {
            run(backend, directory, daemon);
        } finally {
            if (daemon != null) {
                daemon.close();
            }
            new ProcessBuilder("rm", "-rf", directory.toString()).start().waitFor();
            Runtime.getRuntime().halt(0);
        }
    }

    private static String argument(String name, String otherwise) {
        return ARGUMENTS.getOrDefault(name, otherwise);
    }

    private static void run(String backend, Path directory, Daemon daemon) throws Exception {
        Configuration configuration = configuration(backend, directory, daemon);
        MiniCluster cluster = new MiniCluster(new MiniClusterConfiguration.Builder().setConfiguration(configuration)
                .setNumTaskManagers(1).setNumSlotsPerTaskManager(1).withRandomPorts().build());
        cluster.start();
        long keys = Long.parseLong(argument("keys", "1000000"));
        StreamExecutionEnvironment environment = new StreamExecutionEnvironment(configuration);
        environment.setParallelism(1);
        environment.setMaxParallelism(128);
        Work work = new Work(Integer.parseInt(argument("work", "1")), keys);
        Keys select = new Keys(keys, argument("zipf", "off").equals("on"));
        environment.fromSource(new NumberSequenceSource(0, Long.MAX_VALUE / 4), WatermarkStrategy.noWatermarks(), "numbers")
                .keyBy(select::key, Types.LONG).process(work).returns(Types.LONG);
        var graph = environment.getStreamGraph().getJobGraph();
        JobID job = graph.getJobID();
        cluster.submitJob(graph).get();
        long seconds = Long.parseLong(argument("seconds", "10"));
        while (processed < keys) {
            Thread.sleep(50);
        }
        Thread.sleep(Long.parseLong(argument("warm", "5")) * 1000);
        List<Long> rates = new ArrayList<>();
        long from = System.currentTimeMillis();
        for (int window = 0; window < 3; window++) {
            long before = processed;
            long start = System.nanoTime();
            Thread.sleep(seconds * 1000 / 3);
            rates.add((long) ((processed - before) * 1e9 / (System.nanoTime() - start)));
        }
        Thread.sleep(1500);
        List<Long> durations = new ArrayList<>();
        for (AbstractCheckpointStats stats : cluster.getExecutionGraph(job).get().getCheckpointStatsSnapshot().getHistory()
                .getCheckpoints()) {
            if (stats instanceof CompletedCheckpointStats && stats.getTriggerTimestamp() >= from) {
                durations.add(stats.getEndToEndDuration());
            }
        }
        Collections.sort(rates);
        Collections.sort(durations);
        System.out.printf(Locale.ROOT, "| %s | %s | W%s | %s | %s | %d | %s / %s (%d) |%n", backend,
                backend.equals("dstl") ? argument("inner", "hashmap") : "changelog " + argument("changelog", "off"),
                argument("work", "1"), argument("keys", "1000000"), argument("zipf", "off").equals("on") ? "zipf 0.99" : "uniform",
                rates.get(1) / 1000, durations.isEmpty() ? "-" : durations.get(durations.size() / 2),
                durations.isEmpty() ? "-" : durations.get(durations.size() - 1), durations.size());
    }

    private static Configuration configuration(String backend, Path directory, Daemon daemon) {
        Configuration configuration = new Configuration();
        configuration.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.parse(backend.equals("dstl") ? "64m" : "512m"));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.parse("64m"));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.parse("64m"));
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put("execution.checkpointing.dir", directory.resolve("checkpoints").toUri().toString());
        settings.put("execution.checkpointing.interval", "1 s");
        settings.put("execution.checkpointing.incremental", "true");
        settings.put("execution.checkpointing.tolerable-failed-checkpoints", "1000");
        settings.put("web.checkpoints.history", "10000");
        settings.put("restart-strategy.type", "disable");
        settings.put("io.tmp.dirs", directory.toString());
        if (daemon != null) {
            settings.put("state.backend.type", "io.dstl.flink.DstlStateBackendFactory");
            settings.put("state.backend.dstl.socket", daemon.socket().toString());
            settings.put("state.backend.dstl.inner", argument("inner", "hashmap"));
        } else {
            settings.put("state.backend.type", backend);
        }
        if (argument("changelog", "off").equals("on")) {
            settings.put("state.changelog.enabled", "true");
            settings.put("state.changelog.storage", "filesystem");
            settings.put("state.changelog.dstl.dfs.base-path", directory.resolve("log").toUri().toString());
            settings.put("state.changelog.periodic-materialize.enabled", "false");
        }
        ARGUMENTS.forEach((key, value) -> {
            if (key.contains(".")) {
                settings.put(key, value);
            }
        });
        settings.forEach(configuration::setString);
        return configuration;
    }

    private static long mix(long z) {
        long x = z + 0x9E3779B97F4A7C15L;
        x = (x ^ (x >>> 30)) * 0xBF58476D1CE4E5B9L;
        x = (x ^ (x >>> 27)) * 0x94D049BB133111EBL;
        return x ^ (x >>> 31);
    }

    /** Which key a number touches: the first ones fill. */
    static final class Keys implements java.io.Serializable {
        private static final long serialVersionUID = 1;
        private static final double EXPONENT = 0.99;
        private final long keys;
        private final boolean zipf;
        private final double zeta;
        private final double eta;

        Keys(long keys, boolean zipf) {
            this.keys = keys;
            this.zipf = zipf;
            double sum = 0;
            for (long i = 1; zipf && i <= keys; i++) {
                sum += 1 / Math.pow(i, EXPONENT);
            }
            zeta = sum;
            eta = (1 - Math.pow(2.0 / keys, 1 - EXPONENT)) / (1 - (1 + Math.pow(0.5, EXPONENT)) / Math.max(sum, 1e-9));
        }

        Long key(Long number) {
            return mix(index(number) ^ 0x5bd1e995L);
        }

        /** Zipf as YCSB draws it (Gray et al., "Quickly generating billion-record synthetic databases"). */
        private long index(long number) {
            if (number < keys) {
                return number;
            }
            if (!zipf) {
                return Long.remainderUnsigned(mix(number), keys);
            }
            double u = (mix(number) >>> 11) * 0x1.0p-53;
            double uz = u * zeta;
            if (uz < 1) {
                return 0;
            }
            if (uz < 1 + Math.pow(0.5, EXPONENT)) {
                return 1;
            }
            return Math.min(keys - 1, (long) (keys * Math.pow(eta * u - eta + 1, 1 / (1 - EXPONENT))));
        }
    }

    private static final class Work extends KeyedProcessFunction<Long, Long, Long> {
        private static final long serialVersionUID = 1;
        private static final int VALUE = 100;
        private final int kind;
        private final long keys;
        private transient ValueState<byte[]> value;
        private transient ValueState<Long> counter;
        private transient MapState<Long, byte[]> map;
        private transient ListState<byte[]> list;
        private transient byte[] pool;
        private transient long count;

        Work(int kind, long keys) {
            this.kind = kind;
            this.keys = keys;
        }

        @Override
        public void open(OpenContext context) {
            TypeInformation<byte[]> bytes = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;
            switch (kind) {
                case 1 -> value = getRuntimeContext().getState(new ValueStateDescriptor<>("value", bytes));
                case 2 -> counter = getRuntimeContext().getState(new ValueStateDescriptor<>("counter", Types.LONG));
                case 3 -> map = getRuntimeContext().getMapState(new MapStateDescriptor<>("map", Types.LONG, bytes));
                default -> list = getRuntimeContext().getListState(new ListStateDescriptor<>("list", bytes));
            }
            pool = new byte[(1 << 20) + VALUE];
            new Random(7).nextBytes(pool);
        }

        @Override
        public void processElement(Long number, Context context, Collector<Long> out) throws Exception {
            long random = mix(number ^ 0x77777777L);
            switch (kind) {
                case 1 -> value.update(bytes(random));
                case 2 -> {
                    Long before = counter.value();
                    counter.update(before == null ? 1L : before + 1);
                }
                case 3 -> map.put((random >>> 3) % 10, bytes(random));
                default -> {
                    if ((random >>> 5 & 31) == 0) {
                        list.clear();
                    } else {
                        list.add(bytes(random));
                    }
                }
            }
            if ((++count & 31) == 0) {
                processed = count;
            }
        }

        private byte[] bytes(long random) {
            int from = (int) (random >>> 44);
            return Arrays.copyOfRange(pool, from, from + VALUE);
        }
    }
}
