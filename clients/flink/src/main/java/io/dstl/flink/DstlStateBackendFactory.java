package io.dstl.flink;

import org.apache.flink.configuration.IllegalConfigurationException;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.runtime.state.StateBackendFactory;

/** What {@code state.backend.type} names. */
public class DstlStateBackendFactory implements StateBackendFactory<DstlStateBackend> {
    /** For Flink, which makes it by reflection. */
    public DstlStateBackendFactory() {}

    @Override
    public DstlStateBackend createFromConfig(ReadableConfig config, ClassLoader classLoader)
            throws IllegalConfigurationException {
        return new DstlStateBackend().configure(config, classLoader);
    }
}
