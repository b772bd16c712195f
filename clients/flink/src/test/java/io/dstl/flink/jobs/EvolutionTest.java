package io.dstl.flink.jobs;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.CompiledClass;
import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions.Inner;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.formats.avro.typeutils.AvroSerializer;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.jobgraph.SavepointRestoreSettings;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** A job whose records in state, of Avro and plain, get other fields at a restart from a checkpoint; before and after it, it fails. */
class EvolutionTest {
    private static final String PERSON = "public String name; public long count;";
    private static final String LATER_PERSON = "public long count;"
            + "@org.apache.avro.reflect.AvroDefault(\"\\\"nowhere\\\"\") public String city; public String name;";
    private static final String PLAIN = "public String name; public int gone; public long count;";
    private static final String LATER_PLAIN = "public long count; public String city; public String name;";

    @TempDir
    Path directory;

    @ParameterizedTest
    @EnumSource(value = Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void records_get_other_fields_at_a_restart_from_a_checkpoint_though_the_job_fails_before_and_after(Inner inner) throws Exception {
        Path before = CompiledClass.jar(directory.resolve("before.jar"),
                CompiledClass.of("Person", PERSON, directory.resolve("before")), CompiledClass.of("Plain", PLAIN, directory.resolve("before")));
        Path after = CompiledClass.jar(directory.resolve("after.jar"),
                CompiledClass.of("Person", LATER_PERSON, directory.resolve("after")),
                CompiledClass.of("Plain", LATER_PLAIN, directory.resolve("after")));
        String run = "evolution on " + inner;
        Path checkpoints = directory.resolve("checkpoints");
        try (Daemon daemon = Daemon.start(); Cluster cluster = Cluster.start(new Configuration())) {
            Configuration configuration = Cluster.onDstl(daemon, inner, checkpoints);
            Disturbance disturbance = new Disturbance(daemon, run);
            JobID first = submit(cluster, configuration, run, before, null);
            while (disturbance.done() < 2) {
                disturbance.run();
                Thread.sleep(50);
            }
            cluster.awaitRunning(first);
            cluster.await("a checkpoint", () -> newest(checkpoints).isPresent());
            cluster.cluster.cancelJob(first).get();
            cluster.await("the end of the first run", () -> cluster.cluster.getJobStatus(first).get().isGloballyTerminalState());
            JobID second = submit(cluster, configuration, run, after, newest(checkpoints).orElseThrow());
            cluster.finish(second, disturbance);
            assertThat(disturbance.done()).as("disturbances").isEqualTo(3);
        }
        assertThat(Cluster.RESULTS.get(run)).isEqualTo(expected());
    }

    private static JobID submit(Cluster cluster, Configuration configuration, String run, Path jar, String checkpoint) throws Exception {
        JobGraph graph = cluster.graph(configuration, 2, environment -> Jobs.sink(
                Jobs.ordered(environment, run, "evolution").keyBy(event -> event.f0).process(new Remembering()).uid("remembering"), run));
        graph.addJar(new org.apache.flink.core.fs.Path(jar.toUri()));
        if (checkpoint != null) {
            graph.setSavepointRestoreSettings(SavepointRestoreSettings.forPath(checkpoint, false, RecoveryClaimMode.CLAIM));
        }
        cluster.cluster.submitJob(graph).get();
        return graph.getJobID();
    }

    /** The newest checkpoint that is complete; none while one of them is being deleted. */
    private static Optional<String> newest(Path checkpoints) {
        try (Stream<Path> all = Files.walk(checkpoints)) {
            return all.filter(path -> path.endsWith("_metadata")).max(Comparator.comparing(EvolutionTest::written))
                    .map(metadata -> metadata.getParent().toUri().toString());
        } catch (IOException | UncheckedIOException e) {
            return Optional.empty();
        }
    }

    private static FileTime written(Path path) {
        try {
            return Files.getLastModifiedTime(path);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static Map<String, String> expected() {
        Map<String, Long> counts = new TreeMap<>();
        for (long number = 0; number < Jobs.EVENTS; number++) {
            counts.merge(Jobs.key(number), 1L, Long::sum);
        }
        Map<String, String> results = new TreeMap<>();
        counts.forEach((key, count) -> results.put(key, "value " + key + " " + count + " nowhere, list " + key + " " + count
                + " nowhere, map " + key + " " + count + " null, plain " + key + " " + count + " null"));
        return results;
    }

    /** Counts in records of the user code's classes, which this class knows by name only, and tells at the end of time. */
    private static final class Remembering extends KeyedProcessFunction<String, Tuple2<String, Long>, Tuple2<String, String>> {
        private transient ValueState<Object> value;
        private transient ListState<Object> list;
        private transient MapState<Integer, Object> map;
        private transient ValueState<Object> plain;
        private transient Class<?> person;
        private transient Class<?> plainType;

        @Override
        @SuppressWarnings("unchecked")
        public void open(OpenContext context) throws Exception {
            ClassLoader userCode = getRuntimeContext().getUserCodeClassLoader();
            person = userCode.loadClass("Person");
            plainType = userCode.loadClass("Plain");
            TypeSerializer<Object> avro = new AvroSerializer<>((Class<Object>) person);
            TypeInformation<Object> plainObject = (TypeInformation<Object>) TypeInformation.of(plainType);
            value = getRuntimeContext().getState(new ValueStateDescriptor<>("value", avro));
            list = getRuntimeContext().getListState(new ListStateDescriptor<>("list", avro));
            map = getRuntimeContext().getMapState(new MapStateDescriptor<>("map", Types.INT, plainObject));
            plain = getRuntimeContext().getState(new ValueStateDescriptor<>("plain", plainObject));
        }

        @Override
        public void processElement(Tuple2<String, Long> event, Context context, Collector<Tuple2<String, String>> out)
                throws Exception {
            value.update(counted(value.value(), person, event.f0));
            Object listed = null;
            for (Object each : list.get()) {
                listed = each;
            }
            list.update(List.of(counted(listed, person, event.f0)));
            map.put(1, counted(map.get(1), plainType, event.f0));
            plain.update(counted(plain.value(), plainType, event.f0));
            context.timerService().registerEventTimeTimer(Long.MAX_VALUE);
        }

        private static Object counted(Object before, Class<?> type, String key) throws Exception {
            Object record = before == null ? type.getConstructor().newInstance() : before;
            type.getField("name").set(record, key);
            type.getField("count").setLong(record, type.getField("count").getLong(record) + 1);
            return record;
        }

        @Override
        public void onTimer(long timestamp, OnTimerContext context, Collector<Tuple2<String, String>> out) throws Exception {
            out.collect(Tuple2.of(context.getCurrentKey(), "value " + text(value.value()) + ", list " + text(list.get().iterator().next())
                    + ", map " + text(map.get(1)) + ", plain " + text(plain.value())));
        }

        private static String text(Object record) throws Exception {
            Class<?> type = record.getClass();
            return type.getField("name").get(record) + " " + type.getField("count").get(record) + " " + type.getField("city").get(record);
        }
    }
}
