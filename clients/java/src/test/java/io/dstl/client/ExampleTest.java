package io.dstl.client;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.reflect.Method;
import java.net.URL;
import java.net.URLClassLoader;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The example of the README compiles, and counts. */
class ExampleTest {
    @TempDir
    private Path folder;

    @Test
    void theWordCountOfTheReadmeRuns() throws Exception {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        int code = compiler.run(null, null, null, "-d", folder.toString(), "-cp", System.getProperty("java.class.path"),
                "examples/WordCount.java");
        assertThat(code).isZero();
        Path text = folder.resolve("text");
        Files.write(text, Collections.nCopies(2500, "to be or not to be"));
        try (TestDaemon daemon = TestDaemon.start();
                URLClassLoader loader = new URLClassLoader(new URL[] {folder.toUri().toURL()})) {
            Method main = loader.loadClass("WordCount").getMethod("main", String[].class);
            assertThat(output(main, daemon.socket().toString(), text.toString(), "1"))
                    .contains("to 5000", "be 5000", "or 2500", "not 2500");
            daemon.restart();
            // The second run restores the end of the first one: nothing is counted twice.
            assertThat(output(main, daemon.socket().toString(), text.toString(), "2")).contains("to 5000", "not 2500");
        }
    }

    private static String output(Method main, String... arguments) throws Exception {
        PrintStream before = System.out;
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        System.setOut(new PrintStream(bytes, true));
        try {
            main.invoke(null, (Object) arguments);
        } finally {
            System.setOut(before);
        }
        return bytes.toString();
    }
}
