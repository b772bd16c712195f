package io.dstl.flink.suites;

import io.dstl.flink.Backends;
import io.dstl.flink.DstlOptions.Inner;
import io.dstl.flink.DstlStateBackend;
import java.util.List;
import org.apache.flink.runtime.state.CheckpointStorage;
import org.apache.flink.runtime.state.StateBackendMigrationTestBase;
import org.apache.flink.runtime.state.storage.JobManagerCheckpointStorage;
import org.apache.flink.testutils.junit.extensions.parameterized.Parameter;
import org.apache.flink.testutils.junit.extensions.parameterized.ParameterizedTestExtension;
import org.apache.flink.testutils.junit.extensions.parameterized.Parameters;
import org.junit.jupiter.api.extension.ExtendWith;

/** Flink's suite for schema migration, as it is. */
@ExtendWith(ParameterizedTestExtension.class)
public class FlinkMigrationSuite extends StateBackendMigrationTestBase<DstlStateBackend> {
    @Parameter
    public Inner inner;

    @Parameters(name = "inner = {0}")
    public static List<Object[]> inners() {
        return List.of(new Object[] {Inner.HASHMAP}, new Object[] {Inner.ROCKSDB});
    }

    @Override
    protected DstlStateBackend getStateBackend() {
        return Backends.of(inner);
    }

    @Override
    protected CheckpointStorage getCheckpointStorage() {
        return new JobManagerCheckpointStorage();
    }
}
