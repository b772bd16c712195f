package io.dstl.flink;

import io.dstl.client.Backend;
import io.dstl.client.DstlException;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.Serializer;
import io.dstl.proto.v1.StateDescriptor;
import io.dstl.proto.v1.StateKind;
import io.dstl.proto.v1.Ttl;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.state.RegisteredStateMetaInfoBase;
import org.apache.flink.runtime.state.metainfo.StateMetaInfoSnapshot;
import org.apache.flink.runtime.state.metainfo.StateMetaInfoSnapshot.CommonSerializerKeys;

/**
 * The states of a backend: those that were registered by this task, and those that were restored and nobody has registered yet. A
 * checkpoint lists all of them, each with the serializer that its entries were written by.
 *
 * <p>At dstl a state's {@code value_serializer.id} is a hash of the snapshot of its serializer. Where subtasks of an operator wrote with
 * different serializers, and were rescaled, a state has several <em>forms</em>: dstl keeps their entries apart, each under an id of its
 * own, until they are brought into one (see {@link SchemaMigration}).
 */
final class StateTable {
    private final Backend backend;
    private final Map<String, Registered> registered = new LinkedHashMap<>();
    private final Map<String, List<Form>> restored = new LinkedHashMap<>();
    private final int mostName;

    StateTable(Backend backend) {
        this.backend = backend;
        this.mostName = backend.limits().getMaxNameBytes();
    }

    /** A state that this task registered. */
    static final class Registered {
        RegisteredStateMetaInfoBase meta;
        final StateRef ref;
        /** The state or queue itself. */
        Object object;

        Registered(RegisteredStateMetaInfoBase meta, StateRef ref) {
            this.meta = meta;
            this.ref = ref;
        }
    }

    /**
     * Entries of a restored state that one serializer wrote.
     *
     * @param snapshot what the checkpoint says of the state
     * @param id the daemon's
     */
    record Form(StateMetaInfoSnapshot snapshot, int id) {}

    /** Takes the states of restored checkpoints: what Flink's streams list, and what the daemon has. */
    void restore(List<StateMetaInfoSnapshot> snapshots) throws IOException {
        Map<String, StateMetaInfoSnapshot> byHash = new LinkedHashMap<>();
        Map<String, StateMetaInfoSnapshot> byName = new LinkedHashMap<>();
        for (StateMetaInfoSnapshot snapshot : snapshots) {
            byHash.put(name(snapshot.getName()) + ' ' + hash(snapshot), snapshot);
            byName.put(name(snapshot.getName()), snapshot);
        }
        for (RegisteredState state : backend.opened().getStatesList()) {
            String name = state.getStateDescriptor().getName();
            StateMetaInfoSnapshot snapshot = byHash.get(name + ' ' + state.getStateDescriptor().getValueSerializer().getId());
            if (snapshot == null) {
                snapshot = byName.get(name);
            }
            if (snapshot == null) {
                throw new IOException("the checkpoint has a state `" + name + "` of which Flink's part of it tells no serializer: it is"
                        + " damaged, start from another one (`execution.state-recovery.path`)");
            }
            restored.computeIfAbsent(snapshot.getName(), any -> new ArrayList<>()).add(new Form(snapshot, state.getId()));
        }
    }

    Registered get(String name) {
        return registered.get(name);
    }

    /** The forms of a restored state that nobody has registered yet; none: it is new. */
    List<Form> forms(String name) {
        return restored.getOrDefault(name, List.of());
    }

    void put(String name, Registered state) {
        registered.put(name, state);
        restored.remove(name);
    }

    /** What a checkpoint lists. */
    List<StateMetaInfoSnapshot> snapshot() {
        List<StateMetaInfoSnapshot> all = new ArrayList<>();
        registered.values().forEach(state -> all.add(state.meta.snapshot()));
        restored.values().forEach(forms -> forms.forEach(form -> all.add(form.snapshot)));
        return all;
    }

    /** Whether there is nothing to make a checkpoint of. */
    boolean isEmpty() {
        return registered.isEmpty() && restored.isEmpty() && backend.opened().getPartsCount() == 0;
    }

    Iterable<Registered> all() {
        return registered.values();
    }

    /** The descriptor of a state at dstl. */
    StateDescriptor descriptor(StateMetaInfoSnapshot snapshot, StateKind kind, Ttl ttl) throws IOException {
        StateDescriptor.Builder descriptor = StateDescriptor.newBuilder()
                .setName(name(snapshot.getName()))
                .setKind(kind)
                .setValueSerializer(Serializer.newBuilder().setId(hash(snapshot)));
        if (ttl != null) {
            descriptor.setTtl(ttl);
        }
        return descriptor.build();
    }

    /** Registers a state at the daemon. */
    RegisteredState register(StateDescriptor descriptor, SchemaChange.Mode mode) {
        List<SchemaChange> changes = mode == null
                ? List.of()
                : List.of(SchemaChange.newBuilder().setState(descriptor.getName()).setMode(mode).build());
        boolean interrupted = false;
        try {
            while (true) {
                try {
                    return backend.register(List.of(descriptor), changes).await().get(0);
                } catch (InterruptedException e) {
                    if (interrupted) {
                        throw new DaemonFailure("interrupted while state `" + descriptor.getName() + "` was registered", e);
                    }
                    interrupted = true;
                } catch (DstlException e) {
                    throw new DaemonFailure("registering state `" + descriptor.getName() + "`: " + Messages.of(e), e);
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private String name(String name) {
        return TaskNames.fitState(name, mostName);
    }

    /** 128 bits of the serializer's snapshot. */
    static String hash(StateMetaInfoSnapshot snapshot) throws IOException {
        DataOutputSerializer out = new DataOutputSerializer(256);
        TypeSerializerSnapshot<?> serializer = snapshot.getTypeSerializerSnapshot(CommonSerializerKeys.VALUE_SERIALIZER);
        TypeSerializerSnapshot.writeVersionedSnapshot(out, serializer);
        return HexFormat.of().formatHex(TaskNames.hash(out.getCopyOfBuffer()), 0, 16);
    }
}
