package io.dstl.flink;

import com.google.protobuf.ByteString;
import io.dstl.client.Backend;
import io.dstl.client.ConnectOptions;
import io.dstl.client.DstlClient;
import io.dstl.client.DstlException;
import io.dstl.client.Opening;
import io.dstl.client.Session;
import io.dstl.client.SessionOptions;
import io.dstl.flink.HandleCodec.Part;
import io.dstl.proto.v1.InnerBackend;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.TaskInfo;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.TypeSerializerSchemaCompatibility;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.configuration.StateRecoveryOptions;
import org.apache.flink.core.execution.RecoveryClaimMode;
import org.apache.flink.core.memory.DataInputViewStreamWrapper;
import org.apache.flink.runtime.execution.Environment;
import org.apache.flink.runtime.state.BackendBuildingException;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyedBackendSerializationProxy;
import org.apache.flink.runtime.state.StateBackend.KeyedStateBackendParameters;
import org.apache.flink.runtime.state.StateSerializerProvider;
import org.apache.flink.runtime.state.metainfo.StateMetaInfoSnapshot;
import org.apache.flink.runtime.state.metrics.LatencyTrackingStateConfig;
import org.apache.flink.runtime.state.metrics.SizeTrackingStateConfig;
import org.apache.flink.util.StateMigrationException;

/** Opens the daemon's backend of a subtask, restored from Flink's handles, and makes Flink's backend of it. */
final class DstlKeyedStateBackendBuilder<K> {
    private static final String[] FEATURES = {
        "open.attempt-token", "open.peer-group", "open.run", "open.linger", "handles.vouched", "timers.count"
    };

    private final ReadableConfig options;
    private final KeyedStateBackendParameters<K> parameters;
    private final Environment environment;
    private final LatencyTrackingStateConfig latencyTracking;
    private final SizeTrackingStateConfig sizeTracking;

    DstlKeyedStateBackendBuilder(ReadableConfig options, KeyedStateBackendParameters<K> parameters,
            LatencyTrackingStateConfig latencyTracking, SizeTrackingStateConfig sizeTracking) {
        this.options = options;
        this.parameters = parameters;
        this.environment = parameters.getEnv();
        this.latencyTracking = latencyTracking;
        this.sizeTracking = sizeTracking;
    }

    DstlKeyedStateBackend<K> build() throws BackendBuildingException {
        DstlClient client = null;
        boolean built = false;
        try {
            List<IncrementalRemoteKeyedStateHandle> handles = HandleCodec.own(parameters.getStateHandles());
            List<Part> parts = new ArrayList<>();
            List<StateMetaInfoSnapshot> metas = new ArrayList<>();
            StateSerializerProvider<K> keys = readHandles(handles, parts, metas);
            TypeSerializer<K> keySerializer = keySerializer(keys);
            client = connect();
            OpenPlan plan = OpenPlan.of(task(), parts, settings());
            Backend opened = open(client, plan);
            DstlKeyedStateBackend<K> backend = make(client, opened, plan, keySerializer, metas);
            built = true;
            return backend;
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new BackendBuildingException("interrupted while the state backend was opened", e);
        } catch (DstlException e) {
            throw new BackendBuildingException(Messages.of(e), e);
        } catch (Exception e) {
            throw new BackendBuildingException("opening the state backend dstl: " + e.getMessage(), e);
        } finally {
            if (!built && client != null) {
                client.close();
            }
        }
    }

    private StateSerializerProvider<K> readHandles(List<IncrementalRemoteKeyedStateHandle> handles, List<Part> parts,
            List<StateMetaInfoSnapshot> metas) throws IOException {
        StateSerializerProvider<K> keys = null;
        ClassLoader userCode = environment.getUserCodeClassLoader().asClassLoader();
        for (IncrementalRemoteKeyedStateHandle handle : handles) {
            parts.add(HandleCodec.part(handle));
            KeyedBackendSerializationProxy<K> proxy = new KeyedBackendSerializationProxy<>(userCode);
            try (InputStream in = handle.getMetaDataStateHandle().openInputStream()) {
                proxy.read(new DataInputViewStreamWrapper(in));
            }
            metas.addAll(proxy.getStateMetaInfoSnapshots());
            keys = StateSerializerProvider.fromPreviousSerializerSnapshot(proxy.getKeySerializerSnapshot());
        }
        return keys;
    }

    private TypeSerializer<K> keySerializer(StateSerializerProvider<K> restored) throws StateMigrationException {
        TypeSerializer<K> wanted = parameters.getKeySerializer();
        if (restored == null) {
            return wanted;
        }
        TypeSerializer<K> before = restored.previousSchemaSerializer();
        TypeSerializerSchemaCompatibility<K> compatibility = restored.registerNewSerializerForRestoredState(wanted);
        if (compatibility.isCompatibleAfterMigration() || compatibility.isIncompatible()) {
            throw new StateMigrationException("The new key serializer (" + wanted
                    + ") must be compatible with the previous key serializer (" + before + ").");
        }
        return restored.currentSchemaSerializer();
    }

    private DstlClient connect() throws IOException, InterruptedException {
        String socket = options.getOptional(DstlOptions.SOCKET).orElseGet(DstlOptions::defaultSocket);
        DstlClient client;
        try {
            client = DstlClient.connect(ConnectOptions.of(Path.of(socket)).withName("flink")
                    .withConnectTimeout(options.get(DstlOptions.CONNECT)));
        } catch (DstlException e) {
            throw new IOException("no dstl daemon can be reached at `" + socket + "`: start one beside this TaskManager"
                    + " (`dstl serve --socket " + socket + " --store …`), set `" + DstlOptions.SOCKET.key() + "` to where it listens,"
                    + " or let this user connect (`rpc.socket-mode`, `rpc.socket-group` and `rpc.allowed-uids` of the daemon). "
                    + e.getMessage(), e);
        }
        try {
            client.require(FEATURES);
        } catch (DstlException e) {
            client.close();
            throw new IOException("the dstl daemon at `" + socket + "` is too old for this plug-in: upgrade it (version "
                    + client.daemon().getVersion() + " runs). " + e.getMessage(), e);
        }
        return client;
    }

    private OpenPlan.Task task() {
        TaskInfo task = environment.getTaskInfo();
        String directory = configured(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "");
        String job = options.getOptional(DstlOptions.JOB_NAME)
                .orElseGet(() -> TaskNames.job(parameters.getJobID().toHexString(), directory));
        return new OpenPlan.Task(job, TaskNames.operator(parameters.getOperatorIdentifier()), task.getIndexOfThisSubtask(),
                Math.max(task.getNumberOfParallelSubtasks(), task.getIndexOfThisSubtask() + 1),
                parameters.getKeyGroupRange().getStartKeyGroup(), parameters.getKeyGroupRange().getEndKeyGroup(),
                parameters.getNumberOfKeyGroups(), TaskNames.graph(environment.getExecutionId().toString()),
                environment.getExecutionId().getAttemptNumber(),
                TaskNames.hash64(configured(StateRecoveryOptions.SAVEPOINT_PATH, "")),
                configured(StateRecoveryOptions.RESTORE_MODE, RecoveryClaimMode.DEFAULT) == RecoveryClaimMode.CLAIM);
    }

    private OpenPlan.Settings settings() {
        InnerBackend inner = switch (options.get(DstlOptions.INNER)) {
            case HASHMAP -> InnerBackend.INNER_BACKEND_HASHMAP;
            case ROCKSDB -> InnerBackend.INNER_BACKEND_ROCKSDB;
            case DAEMON -> InnerBackend.INNER_BACKEND_UNSPECIFIED;
        };
        // The JobManager counts by its own configuration: of what this task can see, the one that keeps more.
        int retained = Math.max(1, Math.max(environment.getJobConfiguration().get(CheckpointingOptions.MAX_RETAINED_CHECKPOINTS),
                taskManager().get(CheckpointingOptions.MAX_RETAINED_CHECKPOINTS)));
        return new OpenPlan.Settings(inner, retained, options.get(DstlOptions.LINGER).toMillis());
    }

    /** What the job says, else the TaskManager. */
    private <T> T configured(ConfigOption<T> option, T otherwise) {
        return environment.getJobConfiguration().getOptional(option)
                .or(() -> taskManager().getOptional(option))
                .orElse(otherwise);
    }

    private Configuration taskManager() {
        return environment.getTaskManagerInfo().getConfiguration();
    }

    private Backend open(DstlClient client, OpenPlan plan) throws IOException, InterruptedException {
        Opening opening = client.open(plan.request());
        Closeable cancel = opening::cancel;
        parameters.getCancelStreamRegistry().registerCloseable(cancel);
        try {
            return opening.await();
        } finally {
            parameters.getCancelStreamRegistry().unregisterCloseable(cancel);
        }
    }

    private DstlKeyedStateBackend<K> make(DstlClient client, Backend opened, OpenPlan plan, TypeSerializer<K> keySerializer,
            List<StateMetaInfoSnapshot> metas) throws IOException, InterruptedException {
        StateTable states = new StateTable(opened);
        states.restore(metas);
        Failures failures = new Failures(environment);
        Session session = opened.session(SessionOptions.DEFAULT
                .withOnRejection(SessionOptions.OnRejection.FAIL)
                .withReconnectTimeout(options.get(DstlOptions.RECONNECT))
                .withSpin(options.get(DstlOptions.SPIN))
                .withOnFailure(failures)).await();
        DstlMetrics metrics = new DstlMetrics();
        WriteBehind out = new WriteBehind(session, metrics, opened.limits());
        failures.tells(out);
        EntryCache cache = new EntryCache(options.get(DstlOptions.CACHE_SIZE).getBytes());
        metrics.register(parameters.getMetricGroup(), cache);
        StatePath path = new StatePath(cache, out, opened.limits(), metrics);
        Part part = new Part(plan.job(), plan.operator(), environment.getTaskInfo().getIndexOfThisSubtask(), plan.run(),
                task().origin(), ByteString.EMPTY);
        DstlSnapshotStrategy<K> snapshots = new DstlSnapshotStrategy<>(path, out, states, keySerializer,
                parameters.getKeyGroupRange(), new DstlSnapshotStrategy.Settings(part,
                        configured(CheckpointingOptions.CHECKPOINTING_TIMEOUT,
                                CheckpointingOptions.CHECKPOINTING_TIMEOUT.defaultValue()).toMillis(),
                        plan.adopts(), opened.opened().getLastCheckpointId(), metrics));
        return new DstlKeyedStateBackend<>(parameters, keySerializer, latencyTracking, sizeTracking,
                new DstlKeyedStateBackend.Parts<>(client, path, out, states, snapshots, options));
    }
}
