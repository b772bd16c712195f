package io.dstl.flink.jobs;

import static org.assertj.core.api.Assertions.assertThat;

import io.dstl.flink.Daemon;
import io.dstl.flink.DstlOptions.Inner;
import java.nio.file.Path;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.legacy.RichSinkFunction;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Queries in SQL on dstl, whose tasks and daemon fail meanwhile, beside the same on Flink's heap, undisturbed: by operators of the
 * synchronous state API and by those of the asynchronous one.
 */
class SqlTest {
    /** Each row has a key of its own in its first column; the last change of a key is its result. */
    private static final Map<String, String> QUERIES = new TreeMap<>(Map.of(
            "aggregates", """
                    SELECT f0, COUNT(*), COUNT(DISTINCT f1 % 10), SUM(f1), MAX(f1), MIN(f1 % 1000) FROM events GROUP BY f0""",
            "join", """
                    SELECT CAST(a.f1 AS STRING) || ' ' || CAST(b.f1 AS STRING), a.f0
                    FROM events a JOIN events b ON a.f0 = b.f0
                    WHERE a.f1 % 40 = 0 AND b.f1 % 40 = 1 AND ABS(a.f1 - b.f1) < 4000""",
            "top", """
                    SELECT f0 || ' ' || CAST(f1 AS STRING), rank_in_key FROM (
                      SELECT f0, f1, ROW_NUMBER() OVER (PARTITION BY f0 ORDER BY f1 % 1000 DESC, f1) AS rank_in_key FROM events)
                    WHERE rank_in_key <= 3""",
            "first", """
                    SELECT f0 || ' ' || CAST(f1 / 500 AS STRING), f1 FROM (
                      SELECT *, ROW_NUMBER() OVER (PARTITION BY f0, f1 / 500 ORDER BY t) AS n FROM events) WHERE n = 1""",
            "tumbling", """
                    SELECT f0 || ' ' || CAST(window_start AS STRING), COUNT(*), SUM(f1) FROM TABLE(
                      TUMBLE(TABLE events, DESCRIPTOR(t), INTERVAL '0.700' SECOND)) GROUP BY f0, window_start, window_end""",
            "sessions", """
                    SELECT f0 || ' ' || CAST(window_start AS STRING), COUNT(*), SUM(f1) FROM TABLE(
                      SESSION(TABLE events PARTITION BY f0, DESCRIPTOR(t), INTERVAL '0.180' SECOND))
                    GROUP BY f0, window_start, window_end""",
            "over", """
                    SELECT CAST(f1 AS STRING), f0, SUM(f1) OVER (
                      PARTITION BY f0 ORDER BY t ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) FROM events"""));

    @TempDir
    Path directory;

    @ParameterizedTest
    @CsvSource({"false, HASHMAP", "true, ROCKSDB"})
    void results_are_those_of_the_heap_though_tasks_and_daemon_fail(boolean async, Inner inner) throws Exception {
        String run = "sql " + (async ? "async " : "");
        Configuration configuration = new Configuration();
        try (Cluster cluster = Cluster.start(configuration); Daemon daemon = Daemon.start()) {
            cluster.run(Cluster.onHeap(directory), 2, environment -> build(environment, "heap " + run, async), () -> { });
            Disturbance disturbance = new Disturbance(daemon, run);
            cluster.run(Cluster.onDstl(daemon, inner, directory), 2, environment -> build(environment, run, async), disturbance);
            assertThat(disturbance.done()).as("disturbances").isGreaterThanOrEqualTo(2);
        }
        for (String query : QUERIES.keySet()) {
            Map<String, String> expected = of(query, "heap " + run);
            assertThat(expected).as(query).isNotEmpty();
            Map<String, String> found = of(query, run);
            Map<String, String> wrong = new TreeMap<>();
            Stream.concat(expected.keySet().stream(), found.keySet().stream())
                    .filter(key -> !Objects.equals(expected.get(key), found.get(key)))
                    .forEach(key -> wrong.put(key, found.get(key) + ", must be " + expected.get(key)));
            assertThat(wrong).as(query).isEmpty();
        }
    }

    private static Map<String, String> of(String query, String run) {
        Map<String, String> results = new TreeMap<>(Cluster.RESULTS.get(run));
        results.keySet().removeIf(key -> !key.startsWith(query + " "));
        return results;
    }

    private static void build(StreamExecutionEnvironment environment, String run, boolean async) {
        DataStream<Tuple2<String, Long>> events = Jobs.ordered(environment, run, "sql");
        StreamTableEnvironment tables = StreamTableEnvironment.create(environment);
        tables.getConfig().set("table.exec.async-state.enabled", Boolean.toString(async));
        tables.getConfig().setLocalTimeZone(java.time.ZoneOffset.UTC);
        tables.createTemporaryView("events", events, Schema.newBuilder()
                .column("f0", "STRING").column("f1", "BIGINT")
                .columnByMetadata("t", "TIMESTAMP_LTZ(3)", "rowtime", true).watermark("t", "SOURCE_WATERMARK()").build());
        QUERIES.forEach((name, query) -> tables.toChangelogStream(tables.sqlQuery(query)).addSink(new Last(run, name)));
    }

    /** Keeps the last change of each key. */
    private static final class Last extends RichSinkFunction<Row> {
        private static final long serialVersionUID = 1;
        private final String run;
        private final String query;

        Last(String run, String query) {
            this.run = run;
            this.query = query;
        }

        @Override
        public void invoke(Row row, Context context) {
            Map<String, String> results = Cluster.RESULTS.computeIfAbsent(run, any -> new ConcurrentHashMap<>());
            String key = query + " " + row.getField(0);
            if (row.getKind() == RowKind.INSERT || row.getKind() == RowKind.UPDATE_AFTER) {
                row.setKind(RowKind.INSERT);
                results.put(key, row.toString());
            } else if (row.getKind() == RowKind.DELETE) {
                results.remove(key);
            }
        }
    }
}
