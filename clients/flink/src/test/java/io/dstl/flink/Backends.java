package io.dstl.flink;

import java.time.Duration;
import org.apache.flink.configuration.Configuration;

/** Backends of the tests. */
public final class Backends {
    private Backends() {}

    public static Configuration options(Daemon daemon, DstlOptions.Inner inner) {
        Configuration options = new Configuration();
        options.set(DstlOptions.SOCKET, daemon.socket().toString());
        options.set(DstlOptions.INNER, inner);
        // Suites leave a backend a test behind. On a busy machine a session may begin seconds after its backend was opened.
        options.set(DstlOptions.LINGER, Duration.ofSeconds(20));
        options.set(DstlOptions.CONNECT, Duration.ofMinutes(2));
        return options;
    }

    public static DstlStateBackend of(DstlOptions.Inner inner) {
        return of(options(Daemon.shared(), inner));
    }

    public static DstlStateBackend of(Configuration options) {
        return new DstlStateBackend().configure(options, Backends.class.getClassLoader());
    }
}
