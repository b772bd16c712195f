package io.dstl.flink.suites;

import io.dstl.flink.Backends;
import io.dstl.flink.DstlOptions.Inner;
import org.apache.flink.runtime.state.StateBackend;
import org.apache.flink.runtime.state.ttl.StateBackendTestContext;
import org.apache.flink.runtime.state.ttl.TtlStateTestBase;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;

/** Flink's suite for TTL, as it is, in all of its contexts. */
abstract class FlinkTtlSuite extends TtlStateTestBase {
    private final Inner inner;

    FlinkTtlSuite(Inner inner) {
        this.inner = inner;
    }

    @Override
    protected StateBackendTestContext createStateBackendTestContext(TtlTimeProvider timeProvider) {
        return new StateBackendTestContext(timeProvider) {
            @Override
            protected StateBackend createStateBackend() {
                return Backends.of(inner);
            }
        };
    }

    /** As Flink's own suite of incremental checkpoints: no snapshot leaves expired entries out. */
    @Override
    public boolean isSavepoint() {
        return false;
    }

    /** Cleaning up by walking the heap. */
    @Override
    protected boolean incrementalCleanupSupported() {
        return false;
    }
}
