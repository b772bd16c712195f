package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/** The plug-in in the jars of jobs, rather than in Flink's `lib/`. */
class LoaderTest {
    @Test
    void two_jobs_with_the_plug_in_in_their_jars_do_not_meet_and_leave_neither_classes_nor_threads() throws Exception {
        Process process = new ProcessBuilder(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED",
                "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                "-cp", System.getProperty("java.class.path"), LoaderProbe.class.getName(), Daemon.shared().socket().toString())
                .redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes());
        assertThat(process.waitFor()).as(output).isZero();
        assertThat(output).contains("collected");
    }
}
