package io.dstl.flink.demo;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The demo, on dstl alone and with fewer lines. */
@Tag("long")
class DemoTest {
    @Test
    void a_cluster_of_processes_has_every_result_though_they_are_killed_stopped_and_rescaled(@TempDir Path directory)
            throws Exception {
        Random random = new Random(1);
        List<String> lines = new ArrayList<>();
        for (int line = 0; line < 500; line++) {
            StringBuilder words = new StringBuilder();
            for (int word = 0; word < 6; word++) {
                words.append("word").append((int) Math.abs(random.nextGaussian() * 60)).append(' ');
            }
            lines.add(words.toString());
        }
        Path text = Files.write(directory.resolve("text"), lines);
        assertThat(Demo.run(Demo.Backend.DSTL, text, 60_000, 200)).contains("all equal");
    }
}
