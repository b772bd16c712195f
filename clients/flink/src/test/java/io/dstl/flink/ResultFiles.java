package io.dstl.flink;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.functions.sink.legacy.RichSinkFunction;

/**
 * Results of jobs that run in other processes: each task appends to a file of its own. They are there before the checkpoint that they
 * belong to. A result has a key of its own, so that writing it twice changes nothing.
 */
public final class ResultFiles extends RichSinkFunction<Tuple2<String, String>> implements CheckpointedFunction {
    private static final long serialVersionUID = 1;
    private final String directory;
    private final boolean atOnce;
    private transient BufferedWriter file;

    /** Into a directory that is there. */
    public ResultFiles(String directory) {
        this(directory, false);
    }

    /** The same; with {@code atOnce}, each result can be read as soon as it is written, not only those before a checkpoint. */
    public ResultFiles(String directory, boolean atOnce) {
        this.directory = directory;
        this.atOnce = atOnce;
    }

    /** What the files say; of a key with two values both, as one text. */
    public static Map<String, String> read(Path results) throws IOException {
        Map<String, String> found = new TreeMap<>();
        try (var files = Files.list(results)) {
            for (Path file : files.toList()) {
                for (String line : Files.readAllLines(file)) {
                    int tab = line.indexOf('\t');
                    if (tab < 0 || !line.endsWith(";")) {
                        // Its writer was killed.
                        continue;
                    }
                    found.merge(line.substring(0, tab), line.substring(tab + 1, line.length() - 1),
                            (before, value) -> before.equals(value) ? value : before + " and " + value);
                }
            }
        }
        return found;
    }

    @Override
    public void initializeState(FunctionInitializationContext context) throws IOException {
        file = Files.newBufferedWriter(Path.of(directory).resolve(UUID.randomUUID().toString()));
    }

    @Override
    public void snapshotState(FunctionSnapshotContext context) throws IOException {
        file.flush();
    }

    @Override
    public void invoke(Tuple2<String, String> result, Context context) throws IOException {
        file.write(result.f0 + "\t" + result.f1 + ";\n");
        if (atOnce) {
            file.flush();
        }
    }

    @Override
    public void close() throws IOException {
        if (file != null) {
            file.close();
        }
    }
}
