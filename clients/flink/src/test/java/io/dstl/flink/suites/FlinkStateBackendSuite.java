package io.dstl.flink.suites;

import io.dstl.flink.Backends;
import io.dstl.flink.DstlOptions.Inner;
import io.dstl.flink.DstlStateBackend;
import java.util.List;
import org.apache.flink.runtime.state.CheckpointStorage;
import org.apache.flink.runtime.state.ConfigurableStateBackend;
import org.apache.flink.runtime.state.StateBackendTestBase;
import org.apache.flink.runtime.state.storage.JobManagerCheckpointStorage;
import org.apache.flink.testutils.junit.extensions.parameterized.Parameter;
import org.apache.flink.testutils.junit.extensions.parameterized.ParameterizedTestExtension;
import org.apache.flink.testutils.junit.extensions.parameterized.Parameters;
import org.junit.jupiter.api.extension.ExtendWith;

/** Flink's suite for state backends, as it is. */
@ExtendWith(ParameterizedTestExtension.class)
public class FlinkStateBackendSuite extends StateBackendTestBase<DstlStateBackend> {
    @Parameter
    public Inner inner;

    @Parameters(name = "inner = {0}")
    public static List<Object[]> inners() {
        return List.of(new Object[] {Inner.HASHMAP}, new Object[] {Inner.ROCKSDB});
    }

    @Override
    protected ConfigurableStateBackend getStateBackend() {
        return Backends.of(inner);
    }

    @Override
    protected CheckpointStorage getCheckpointStorage() {
        return new JobManagerCheckpointStorage();
    }

    @Override
    protected boolean isSerializerPresenceRequiredOnRestore() {
        return false;
    }

    @Override
    protected boolean supportsAsynchronousSnapshots() {
        return true;
    }

    /** The three tests that stop a snapshot inside Flink's stream: dstl writes state to no such stream. */
    @Override
    protected boolean snapshotUsesStreamFactory() {
        return false;
    }

    @Override
    protected boolean isSafeToReuseKVState() {
        return true;
    }
}
