package io.dstl.flink;

import io.dstl.flink.StateTable.Form;
import io.dstl.flink.StateTable.Registered;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateKind;
import io.dstl.proto.v1.Ttl;
import java.io.IOException;
import java.util.List;
import org.apache.flink.api.common.state.StateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.TypeSerializerSchemaCompatibility;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.MapSerializer;
import org.apache.flink.api.common.typeutils.base.MapSerializerSnapshot;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.runtime.state.RegisteredKeyValueStateBackendMetaInfo;
import org.apache.flink.runtime.state.RegisteredPriorityQueueStateBackendMetaInfo;
import org.apache.flink.runtime.state.RegisteredStateMetaInfoBase;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;
import org.apache.flink.util.FlinkRuntimeException;
import org.apache.flink.util.StateMigrationException;

/**
 * Registers states: compares what Flink asks for with what was restored, tells the daemon, and brings entries into the new form where
 * the serializer changed. A key or namespace must be readable as it is; values may be migrated.
 */
final class StateRegistration {
    /** Longer times to live are for ever. */
    private static final long MOST_TTL_MS = 1000L * 365 * 24 * 3600 * 1000;

    private final StateTable states;
    private final StatePath path;
    private final TtlTimeProvider clock;
    private final ReadableConfig options;

    StateRegistration(StateTable states, StatePath path, TtlTimeProvider clock, ReadableConfig options) {
        this.states = states;
        this.path = path;
        this.clock = clock;
        this.options = options;
    }

    /** Registers a state of keys and values. */
    <N, V> Registered keyValue(StateDescriptor<?, V> descriptor, TypeSerializer<N> namespaces, boolean upgradable)
            throws Exception {
        String name = descriptor.getName();
        Registered before = states.get(name);
        List<Form> forms = states.forms(name);
        RegisteredKeyValueStateBackendMetaInfo<N, V> meta;
        SchemaMigration migration = null;
        if (before != null) {
            // What was written so far goes under the id that the state has now. A registration overtakes batches.
            path.settle();
            meta = keyValue(before.meta);
            migration = update(meta, descriptor, namespaces);
        } else if (!forms.isEmpty()) {
            meta = keyValue(RegisteredKeyValueStateBackendMetaInfo.fromMetaInfoSnapshot(forms.get(0).snapshot()));
            migration = update(meta, descriptor, namespaces);
        } else {
            meta = new RegisteredKeyValueStateBackendMetaInfo<>(descriptor.getType(), name, namespaces,
                    descriptor.getSerializer());
        }
        if (upgradable) {
            meta = meta.withSerializerUpgradesAllowed();
        }
        io.dstl.proto.v1.StateDescriptor wanted = states.descriptor(meta.snapshot(), kind(descriptor), ttl(descriptor));
        if (forms.size() > 1) {
            return unite(descriptor, namespaces, meta, wanted);
        }
        Registered state = register(name, before, meta, wanted, forms.isEmpty());
        if (migration != null) {
            path.flush(true);
            migration.run(state.ref.id, state.ref.id);
        }
        return state;
    }

    @SuppressWarnings("unchecked")
    private static <N, V> RegisteredKeyValueStateBackendMetaInfo<N, V> keyValue(RegisteredStateMetaInfoBase meta) {
        return (RegisteredKeyValueStateBackendMetaInfo<N, V>) meta;
    }

    /** Checks new serializers against those of entries. Null: entries can stay as they are. */
    private <N, V> SchemaMigration update(RegisteredKeyValueStateBackendMetaInfo<N, V> meta, StateDescriptor<?, V> descriptor,
            TypeSerializer<N> namespaces) throws StateMigrationException {
        TypeSerializer<N> namespacesBefore = meta.getNamespaceSerializer();
        TypeSerializerSchemaCompatibility<N> ofNamespaces = meta.updateNamespaceSerializer(namespaces);
        if (ofNamespaces.isCompatibleAfterMigration() || ofNamespaces.isIncompatible()) {
            throw new StateMigrationException("The new namespace serializer (" + namespaces
                    + ") must be compatible with the old namespace serializer (" + namespacesBefore + ").");
        }
        meta.checkStateMetaInfo(descriptor);
        TypeSerializer<V> before = meta.getStateSerializer();
        TypeSerializer<V> after = descriptor.getSerializer();
        TypeSerializerSchemaCompatibility<V> ofValues = meta.updateStateSerializer(after);
        if (ofValues.isIncompatible()) {
            throw new StateMigrationException("The new state serializer (" + after
                    + ") must not be incompatible with the old state serializer (" + before + ").");
        }
        if (!ofValues.isCompatibleAfterMigration()) {
            return null;
        }
        checkMapKeys(meta, descriptor);
        return new SchemaMigration(path, descriptor.getType(), meta.getPreviousStateSerializer(), meta.getStateSerializer(), clock);
    }

    @SuppressWarnings("unchecked")
    private <V, UK> void checkMapKeys(RegisteredKeyValueStateBackendMetaInfo<?, V> meta, StateDescriptor<?, V> descriptor)
            throws StateMigrationException {
        if (descriptor.getType() != StateDescriptor.Type.MAP) {
            return;
        }
        TypeSerializerSnapshot<V> previous = meta.getPreviousStateSerializerSnapshot();
        TypeSerializerSnapshot<UK> before = (TypeSerializerSnapshot<UK>) ((MapSerializerSnapshot<?, ?>) (Object) previous)
                .getKeySerializerSnapshot();
        TypeSerializer<UK> after = (TypeSerializer<UK>) ((MapSerializer<?, ?>) (Object) meta.getStateSerializer()).getKeySerializer();
        if (!after.snapshotConfiguration().resolveSchemaCompatibility(before).isCompatibleAsIs()) {
            throw new StateMigrationException("The new serializer for a MapState requires state migration in order for the job to"
                    + " proceed, since the key schema has changed. However, migration for MapState currently only allows value"
                    + " schema evolutions.");
        }
    }

    /** Brings entries that different serializers wrote into the new form, one form after another. */
    private <N, V> Registered unite(StateDescriptor<?, V> descriptor, TypeSerializer<N> namespaces,
            RegisteredKeyValueStateBackendMetaInfo<N, V> meta, io.dstl.proto.v1.StateDescriptor wanted) throws Exception {
        List<Form> forms = states.forms(descriptor.getName());
        RegisteredState registered = states.register(wanted, SchemaChange.Mode.MODE_MIGRATE);
        int from = registered.getMigratingFrom();
        while (from != 0) {
            int id = from;
            Form form = forms.stream().filter(one -> one.id() == id).findFirst().orElseThrow(
                    () -> new IOException("the daemon has entries of state `" + descriptor.getName() + "` under an unknown id"));
            RegisteredKeyValueStateBackendMetaInfo<N, V> old =
                    keyValue(RegisteredKeyValueStateBackendMetaInfo.fromMetaInfoSnapshot(form.snapshot()));
            TypeSerializer<V> before = old.getStateSerializer();
            update(old, descriptor, namespaces);
            new SchemaMigration(path, descriptor.getType(), before, meta.getStateSerializer(), clock)
                    .run(id, registered.getId());
            registered = states.register(wanted, SchemaChange.Mode.MODE_MIGRATE);
            from = registered.getMigratingFrom();
            if (from == id) {
                throw new IOException("entries of state `" + descriptor.getName() + "` are left in a form that was migrated");
            }
        }
        return put(descriptor.getName(), null, meta, registered, false);
    }

    private Registered register(String name, Registered before, RegisteredStateMetaInfoBase meta,
            io.dstl.proto.v1.StateDescriptor wanted, boolean fresh) {
        RegisteredState registered = states.register(wanted, before == null && fresh ? null : SchemaChange.Mode.MODE_COMPATIBLE);
        return put(name, before, meta, registered, before == null && fresh);
    }

    private Registered put(String name, Registered before, RegisteredStateMetaInfoBase meta, RegisteredState registered,
            boolean fresh) {
        if (before != null) {
            before.meta = meta;
            if (before.ref.id != registered.getId()) {
                path.moved(before.ref, registered.getId());
            }
            return before;
        }
        StateRef ref = new StateRef(name, registered.getId(),
                new AbsentFilter(options.get(DstlOptions.FILTER_SIZE).getBytes(), fresh));
        path.add(ref);
        Registered state = new Registered(meta, ref);
        states.put(name, state);
        return state;
    }

    /**
     * A registered queue.
     *
     * @param state its state
     * @param written the serializer of its elements at the daemon
     * @param migrate whether they must be written anew
     */
    record Queue<T>(Registered state, TypeSerializer<T> written, boolean migrate) {}

    /** Registers a queue. */
    @SuppressWarnings("unchecked")
    <T> Queue<T> queue(String name, TypeSerializer<T> serializer, boolean timers, boolean upgradable) {
        Registered before = states.get(name);
        List<Form> forms = states.forms(name);
        if (before != null) {
            path.settle();
        }
        RegisteredPriorityQueueStateBackendMetaInfo<T> meta;
        TypeSerializer<T> written = serializer;
        boolean migrate = false;
        if (before != null || !forms.isEmpty()) {
            meta = before != null
                    ? (RegisteredPriorityQueueStateBackendMetaInfo<T>) before.meta
                    : new RegisteredPriorityQueueStateBackendMetaInfo<>(forms.get(0).snapshot());
            written = meta.getElementSerializer();
            TypeSerializerSchemaCompatibility<T> compatibility = meta.updateElementSerializer(serializer);
            migrate = compatibility.isCompatibleAfterMigration();
            if (compatibility.isIncompatible() || timers && migrate) {
                throw new FlinkRuntimeException(
                        new StateMigrationException("The new priority queue serializer must not be incompatible."));
            }
        } else {
            meta = new RegisteredPriorityQueueStateBackendMetaInfo<>(name, serializer);
        }
        if (upgradable) {
            meta = meta.withSerializerUpgradesAllowed();
        }
        try {
            io.dstl.proto.v1.StateDescriptor wanted = states.descriptor(meta.snapshot(),
                    timers ? StateKind.STATE_KIND_TIMER : StateKind.STATE_KIND_MAP, null);
            return new Queue<>(register(name, before, meta, wanted, forms.isEmpty()), written, migrate);
        } catch (IOException e) {
            throw new FlinkRuntimeException("registering queue `" + name + "`", e);
        }
    }

    private static StateKind kind(StateDescriptor<?, ?> descriptor) {
        return switch (descriptor.getType()) {
            case LIST -> StateKind.STATE_KIND_LIST;
            case MAP -> StateKind.STATE_KIND_MAP;
            default -> StateKind.STATE_KIND_VALUE;
        };
    }

    /** What the daemon removes by itself; null: nothing. */
    private Ttl ttl(StateDescriptor<?, ?> descriptor) {
        StateTtlConfig config = descriptor.getTtlConfig();
        if (!config.isEnabled() || clock != TtlTimeProvider.DEFAULT || !options.get(DstlOptions.TTL_CLEANUP)) {
            return null;
        }
        long millis = config.getTimeToLive().toMillis();
        if (millis > MOST_TTL_MS) {
            return null;
        }
        return Ttl.newBuilder()
                .setDurationMs(Math.max(1, millis))
                .setUpdate(Ttl.Update.UPDATE_ON_CREATE_AND_WRITE)
                .setVisibility(Ttl.Visibility.VISIBILITY_RETURN_EXPIRED_IF_NOT_CLEANED_UP)
                .build();
    }
}
