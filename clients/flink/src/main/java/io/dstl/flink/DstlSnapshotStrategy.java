package io.dstl.flink;

import io.dstl.client.DstlException;
import io.dstl.client.Pending;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.NoticeKind;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.core.memory.DataOutputViewStreamWrapper;
import org.apache.flink.runtime.checkpoint.CheckpointOptions;
import org.apache.flink.runtime.checkpoint.SnapshotType;
import org.apache.flink.runtime.state.CheckpointStateOutputStream;
import org.apache.flink.runtime.state.CheckpointStreamFactory;
import org.apache.flink.runtime.state.CheckpointedStateScope;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyedBackendSerializationProxy;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.SnapshotResources;
import org.apache.flink.runtime.state.SnapshotResult;
import org.apache.flink.runtime.state.SnapshotStrategy;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.metainfo.StateMetaInfoSnapshot;

/**
 * Checkpoints. The synchronous part sends what was written and a barrier; the asynchronous one waits until the daemon has the
 * checkpoint, and writes the serializers.
 *
 * <p>What Flink decides about a checkpoint: COMPLETE is passed on. ABORTED and a cancelled snapshot are passed on as long as Flink
 * was not handed the checkpoint; afterwards a JobManager may have stored it although it says that it gave it up, so it stays until a
 * newer one is complete, or until {@link #MOST_ABORTED} newer ones were given up too.
 */
final class DstlSnapshotStrategy<K> implements SnapshotStrategy<KeyedStateHandle, DstlSnapshotStrategy<K>.Taken> {
    private static final int MOST_ABORTED = 16;
    private static final long GRACE_MS = 5_000;

    private final StatePath path;
    private final WriteBehind out;
    private final StateTable states;
    private final TypeSerializer<K> keySerializer;
    private final KeyGroupRange keyGroups;
    private final Settings settings;
    private final DstlMetrics metrics;
    private final UUID backend = UUID.randomUUID();
    /** Checkpoints of this owner that the daemon has, or will have: by Flink's ids. */
    private final TreeMap<Long, Taken> taken = new TreeMap<>();
    private final Deque<Taken> aborted = new ArrayDeque<>();
    private long lastId;

    DstlSnapshotStrategy(StatePath path, WriteBehind out, StateTable states, TypeSerializer<K> keySerializer,
            KeyGroupRange keyGroups, Settings settings) {
        this.path = path;
        this.out = out;
        this.states = states;
        this.keySerializer = keySerializer;
        this.keyGroups = keyGroups;
        this.settings = settings;
        this.metrics = settings.metrics;
        this.lastId = settings.lastId;
    }

    /**
     * What stays the same for all checkpoints.
     *
     * @param part of every handle, without the daemon's
     * @param timeoutMs Flink's
     * @param adopts whether the daemon builds on a checkpoint that Flink may not own
     * @param lastId the highest one of this owner so far
     * @param metrics gets sizes
     */
    record Settings(HandleCodec.Part part, long timeoutMs, boolean adopts, long lastId, DstlMetrics metrics) {}

    /** A checkpoint between its synchronous part and what Flink decides about it. */
    final class Taken implements SnapshotResources {
        final long id;
        final Pending<CheckpointCompleted> pending;
        final List<StateMetaInfoSnapshot> metas;
        private CheckpointIdentity identity;
        private boolean handedOver;

        Taken(long id, Pending<CheckpointCompleted> pending, List<StateMetaInfoSnapshot> metas) {
            this.id = id;
            this.pending = pending;
            this.metas = metas;
        }

        private CheckpointIdentity identity() {
            return identity == null ? out.session().checkpoint(id) : identity;
        }

        /** Called when the asynchronous part is over, however it ended. */
        @Override
        public void release() {
            synchronized (taken) {
                if (!handedOver) {
                    giveUp(this);
                }
            }
        }
    }

    @Override
    public Taken syncPrepareResources(long checkpointId) {
        if (states.isEmpty()) {
            return null;
        }
        long id = Math.max(checkpointId + 1, lastId + 1);
        lastId = id;
        List<StateMetaInfoSnapshot> metas = states.snapshot();
        Barrier barrier = Barrier.newBuilder().setCheckpointId(id).setTimeoutMs(settings.timeoutMs).build();
        try {
            Taken checkpoint = new Taken(id, path.barrier(barrier), metas);
            synchronized (taken) {
                taken.put(checkpointId, checkpoint);
            }
            return checkpoint;
        } catch (DstlException e) {
            throw new DaemonFailure("triggering checkpoint " + checkpointId + ": " + Messages.of(e), e);
        }
    }

    @Override
    public SnapshotResultSupplier<KeyedStateHandle> asyncSnapshot(Taken checkpoint, long checkpointId, long timestamp,
            CheckpointStreamFactory streams, CheckpointOptions options) {
        if (checkpoint == null) {
            return registry -> SnapshotResult.empty();
        }
        return registry -> {
            CheckpointCompleted answer = await(checkpoint, checkpointId, registry);
            StreamStateHandle meta = writeMeta(checkpoint.metas, streams, registry);
            HandleCodec.Part part = settings.part;
            KeyedStateHandle handle = HandleCodec.encode(backend, keyGroups, checkpointId,
                    new HandleCodec.Part(part.job(), part.operator(), part.subtask(), part.run(), part.origin(), answer.getHandle()),
                    new HandleCodec.Completed(answer, meta));
            synchronized (taken) {
                if (out.failed() != null || taken.get(checkpointId) != checkpoint) {
                    meta.discardState();
                    throw new IOException("checkpoint " + checkpointId + " was given up", out.failed());
                }
                checkpoint.identity = answer.getCheckpoint();
                checkpoint.handedOver = true;
            }
            metrics.incrementalBytes = answer.getIncrementalBytes();
            metrics.fullBytes = answer.getFullBytes();
            return SnapshotResult.of(handle);
        };
    }

    /** Refuses what dstl cannot make. */
    void check(CheckpointOptions options) {
        SnapshotType type = options.getCheckpointType();
        if (type.isSavepoint()) {
            throw new UnsupportedOperationException("dstl makes no savepoints yet: keep checkpoints"
                    + " (`execution.checkpointing.externalized-checkpoint-retention: RETAIN_ON_CANCELLATION`) and start from one");
        }
        if (settings.adopts && type.getSharingFilesStrategy() == SnapshotType.SharingFilesStrategy.FORWARD) {
            throw new IllegalStateException("the job was started with claim mode CLAIM by the configuration of the TaskManager, and with"
                    + " NO_CLAIM by its own: set `execution.state-recovery.claim-mode` in the configuration of the job to what is meant");
        }
    }

    void complete(long checkpointId) {
        Taken checkpoint;
        synchronized (taken) {
            checkpoint = taken.get(checkpointId);
            if (checkpoint != null && checkpoint.handedOver) {
                aborted.removeIf(other -> other.id < checkpoint.id);
                taken.headMap(checkpointId, true).clear();
            }
        }
        if (checkpoint != null && checkpoint.handedOver) {
            out.session().notify(NoticeKind.NOTICE_KIND_COMPLETE, checkpoint.identity());
        }
    }

    void abort(long checkpointId) {
        synchronized (taken) {
            Taken checkpoint = taken.remove(checkpointId);
            if (checkpoint == null) {
                return;
            }
            if (!checkpoint.handedOver) {
                giveUp(checkpoint);
            } else {
                aborted.add(checkpoint);
                while (aborted.size() > MOST_ABORTED) {
                    out.session().notify(NoticeKind.NOTICE_KIND_DISCARD, aborted.remove().identity());
                }
            }
        }
    }

    private void giveUp(Taken checkpoint) {
        taken.values().remove(checkpoint);
        if (out.failed() == null) {
            out.session().notify(NoticeKind.NOTICE_KIND_ABORT, checkpoint.identity());
        }
    }

    private CheckpointCompleted await(Taken checkpoint, long checkpointId, CloseableRegistry registry) throws Exception {
        CompletableFuture<CheckpointCompleted> answer = checkpoint.pending.future();
        java.io.Closeable cancel = () -> answer.cancel(true);
        registry.registerCloseable(cancel);
        try {
            return settings.timeoutMs == 0
                    ? answer.get()
                    : answer.get(settings.timeoutMs + GRACE_MS, TimeUnit.MILLISECONDS);
        } catch (ExecutionException e) {
            if (e.getCause() instanceof DstlException error) {
                throw new IOException("checkpoint " + checkpointId + ": " + Messages.of(error), error);
            }
            throw e;
        } catch (TimeoutException e) {
            throw new IOException("the daemon did not answer checkpoint " + checkpointId + " within its timeout and 5 s", e);
        } finally {
            registry.unregisterCloseable(cancel);
        }
    }

    private StreamStateHandle writeMeta(List<StateMetaInfoSnapshot> metas, CheckpointStreamFactory streams,
            CloseableRegistry registry) throws Exception {
        CheckpointStateOutputStream stream = streams.createCheckpointStateOutputStream(CheckpointedStateScope.EXCLUSIVE);
        registry.registerCloseable(stream);
        try {
            new KeyedBackendSerializationProxy<>(keySerializer, metas, false).write(new DataOutputViewStreamWrapper(stream));
            if (registry.unregisterCloseable(stream)) {
                StreamStateHandle meta = stream.closeAndGetHandle();
                stream = null;
                return meta;
            }
            throw new IOException("the stream of the serializers was closed already");
        } finally {
            if (stream != null && registry.unregisterCloseable(stream)) {
                stream.close();
            }
        }
    }
}
