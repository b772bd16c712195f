package io.dstl.flink.suites;

import io.dstl.flink.DstlOptions.Inner;

/** With state in memory. */
public class FlinkTtlOnHashmapSuite extends FlinkTtlSuite {
    public FlinkTtlOnHashmapSuite() {
        super(Inner.HASHMAP);
    }
}
