package io.dstl.examples;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.ParameterTool;

/** Where the programs read from and write to. None of it knows of dstl. */
final class Common {
    private Common() {}

    /** Events (number, user, amount), which a restore can read again: {@code --events N --per-second N}. */
    static DataStream<Tuple3<Long, String, Long>> events(StreamExecutionEnvironment environment, ParameterTool options) {
        long events = options.getLong("events", 20_000);
        double perSecond = options.getDouble("per-second", 2_000);
        DataGeneratorSource<Long> numbers = new DataGeneratorSource<>(number -> number, events,
                RateLimiterStrategy.perSecond(perSecond), Types.LONG);
        return environment.fromSource(numbers, WatermarkStrategy.noWatermarks(), "numbers").setParallelism(1)
                .map(number -> Tuple3.of(number, "user-" + number % 53, number * number % 1009))
                .returns(Types.TUPLE(Types.LONG, Types.STRING, Types.LONG)).setParallelism(1);
    }

    /** Lines "key value" of a socket, as pairs in their order: {@code --host NAME --port N}. A socket cannot be read again. */
    static DataStream<Tuple2<Long, Long>> pairs(StreamExecutionEnvironment environment, ParameterTool options) {
        return environment.socketTextStream(options.get("host", "localhost"), options.getInt("port", 9999)).map(line -> {
            String[] words = line.trim().split(" ");
            return Tuple2.of(Long.parseLong(words[0]), Long.parseLong(words[1]));
        }).returns(Types.TUPLE(Types.LONG, Types.LONG)).setParallelism(1);
    }

    /** Writes each line once to files of {@code --output DIR}, which checkpoints complete; without it, prints them. */
    static void write(SingleOutputStreamOperator<String> lines, ParameterTool options) {
        if (options.has("output")) {
            lines.sinkTo(FileSink.forRowFormat(new Path(options.get("output")), new SimpleStringEncoder<String>()).build());
        } else {
            lines.print();
        }
    }
}
