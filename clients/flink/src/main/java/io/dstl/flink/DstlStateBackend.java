package io.dstl.flink;

import java.io.IOException;
import java.time.Duration;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.IllegalConfigurationException;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.configuration.StateChangelogOptions;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.runtime.jobgraph.JobType;
import org.apache.flink.runtime.state.AbstractKeyedStateBackend;
import org.apache.flink.runtime.state.AbstractStateBackend;
import org.apache.flink.runtime.state.ConfigurableStateBackend;
import org.apache.flink.runtime.state.DefaultOperatorStateBackendBuilder;
import org.apache.flink.runtime.state.OperatorStateBackend;

/**
 * Keyed state in a dstl daemon beside the TaskManager; a checkpoint is a position in the daemon's changelog. Operator state, channel
 * state and metadata stay with Flink. Set {@code state.backend.type: io.dstl.flink.DstlStateBackendFactory}; the options are
 * {@link DstlOptions}.
 *
 * <p>The JobManager and clients load this class too: it holds options alone, and names nothing of the transport.
 */
public class DstlStateBackend extends AbstractStateBackend implements ConfigurableStateBackend {
    private static final long serialVersionUID = 1;

    /** What was configured, of {@link DstlOptions}. */
    private final Configuration options = new Configuration();

    /** A backend with default options. */
    public DstlStateBackend() {}

    private DstlStateBackend(DstlStateBackend original, ReadableConfig config) {
        options.addAll(original.options);
        latencyTrackingConfigBuilder = original.latencyTrackingConfigBuilder.configure(config);
        sizeTrackingConfigBuilder = original.sizeTrackingConfigBuilder.configure(config);
        config.getOptional(DstlOptions.SOCKET).ifPresent(value -> options.set(DstlOptions.SOCKET, value));
        config.getOptional(DstlOptions.INNER).ifPresent(value -> options.set(DstlOptions.INNER, value));
        config.getOptional(DstlOptions.CACHE_SIZE).ifPresent(value -> options.set(DstlOptions.CACHE_SIZE, value));
        config.getOptional(DstlOptions.FILTER_SIZE).ifPresent(value -> options.set(DstlOptions.FILTER_SIZE, value));
        config.getOptional(DstlOptions.TIMER_PAGE).ifPresent(value -> options.set(DstlOptions.TIMER_PAGE, value));
        config.getOptional(DstlOptions.TTL_CLEANUP).ifPresent(value -> options.set(DstlOptions.TTL_CLEANUP, value));
        config.getOptional(DstlOptions.JOB_NAME).ifPresent(value -> options.set(DstlOptions.JOB_NAME, value));
        config.getOptional(DstlOptions.LINGER).ifPresent(value -> options.set(DstlOptions.LINGER, value));
        config.getOptional(DstlOptions.RECONNECT).ifPresent(value -> options.set(DstlOptions.RECONNECT, value));
        config.getOptional(DstlOptions.CONNECT).ifPresent(value -> options.set(DstlOptions.CONNECT, value));
        config.getOptional(DstlOptions.SPIN).ifPresent(value -> options.set(DstlOptions.SPIN, value));
    }

    @Override
    public DstlStateBackend configure(ReadableConfig config, ClassLoader classLoader) throws IllegalConfigurationException {
        if (config.get(StateChangelogOptions.ENABLE_STATE_CHANGE_LOG)) {
            throw new IllegalConfigurationException("`state.changelog.enabled: true` puts Flink's changelog around the state backend,"
                    + " and dstl is a changelog itself: set `state.changelog.enabled: false`");
        }
        DstlStateBackend configured = new DstlStateBackend(this, config);
        configured.check();
        return configured;
    }

    private void check() {
        if (options.get(DstlOptions.TIMER_PAGE) < 1) {
            throw new IllegalConfigurationException("`" + DstlOptions.TIMER_PAGE.key() + "` must be at least 1");
        }
        String name = options.get(DstlOptions.JOB_NAME);
        if (name != null && !TaskNames.fit(name, 100).equals(name)) {
            throw new IllegalConfigurationException("`" + DstlOptions.JOB_NAME.key() + ": " + name
                    + "`: use up to 100 ASCII letters, digits, `-`, `_`, `.`");
        }
        Duration linger = options.get(DstlOptions.LINGER);
        if (linger.isNegative() || linger.isZero()) {
            throw new IllegalConfigurationException("`" + DstlOptions.LINGER.key() + "` must be above 0");
        }
    }

    /** What was configured. */
    ReadableConfig options() {
        return options;
    }

    @Override
    public <K> AbstractKeyedStateBackend<K> createKeyedStateBackend(KeyedStateBackendParameters<K> parameters)
            throws IOException {
        if (parameters.getEnv().getJobType() == JobType.BATCH) {
            throw new IOException("jobs in BATCH execution have no checkpoints, and their tasks may run twice at once: leave"
                    + " `execution.batch-state-backend.enabled` on, so that Flink uses its own state backend for them");
        }
        return new DstlKeyedStateBackendBuilder<>(options, parameters,
                latencyTrackingConfigBuilder.setMetricGroup(parameters.getMetricGroup()).build(),
                sizeTrackingConfigBuilder.setMetricGroup(parameters.getMetricGroup()).build())
                .build();
    }

    @Override
    public OperatorStateBackend createOperatorStateBackend(OperatorStateBackendParameters parameters) throws Exception {
        return new DefaultOperatorStateBackendBuilder(
                        parameters.getEnv().getUserCodeClassLoader().asClassLoader(),
                        parameters.getEnv().getExecutionConfig(),
                        true,
                        parameters.getStateHandles(),
                        parameters.getCancelStreamRegistry())
                .build();
    }

    @Override
    public boolean useManagedMemory() {
        return false;
    }

    @Override
    public boolean supportsNoClaimRestoreMode() {
        return true;
    }

    @Override
    public boolean supportsSavepointFormat(SavepointFormatType formatType) {
        return false;
    }

    @Override
    public String getName() {
        return "dstl";
    }
}
