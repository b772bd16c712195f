package io.dstl.flink.suites;

import io.dstl.flink.DstlOptions.Inner;

/** With state on disk. */
public class FlinkTtlOnRocksdbSuite extends FlinkTtlSuite {
    public FlinkTtlOnRocksdbSuite() {
        super(Inner.ROCKSDB);
    }
}
