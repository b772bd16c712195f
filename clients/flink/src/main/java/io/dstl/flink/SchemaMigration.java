package io.dstl.flink;

import io.dstl.client.Batch;
import io.dstl.client.Results;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.flink.api.common.state.StateDescriptor.Type;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import org.apache.flink.runtime.state.ttl.TtlAwareSerializer;
import org.apache.flink.runtime.state.ttl.TtlTimeProvider;
import org.apache.flink.util.StateMigrationException;

/**
 * Rewrites the entries of a state with another serializer: from one id of the daemon to another, or in place. No barrier can come
 * between, since the task's thread does it while it registers the state; after a crash the task restores a checkpoint, which has the
 * state as it was before.
 */
final class SchemaMigration {
    private final StatePath path;
    private final Type kind;
    private final TtlAwareSerializer<?, ?> before;
    private final TtlAwareSerializer<?, ?> after;
    private final TtlTimeProvider clock;
    private final DataInputDeserializer input = new DataInputDeserializer();
    private final DataOutputSerializer output = new DataOutputSerializer(256);

    SchemaMigration(StatePath path, Type kind, TypeSerializer<?> before, TypeSerializer<?> after, TtlTimeProvider clock) {
        this.path = path;
        this.kind = kind;
        this.before = TtlAwareSerializer.wrapTtlAwareSerializer(before);
        this.after = TtlAwareSerializer.wrapTtlAwareSerializer(after);
        this.clock = clock;
    }

    /** Rewrites what is under {@code from}, as {@code to}; it is applied on return. */
    void run(int from, int to) throws StateMigrationException {
        byte[] token = Batch.NONE;
        do {
            Results page = path.keys(from, null, token);
            for (Results.StoredKey key : page.keys(0)) {
                try {
                    entry(from, to, key);
                } catch (IOException | RuntimeException e) {
                    throw new StateMigrationException("Error while trying to migrate state.", e);
                }
            }
            token = page.token(0);
        } while (token.length > 0);
        // The registration that follows asks whether anything is left.
        path.settle();
    }

    private void entry(int from, int to, Results.StoredKey key) throws IOException {
        switch (kind) {
            case LIST -> list(from, to, key);
            case MAP -> map(from, to, key);
            default -> value(from, to, key);
        }
        if (from != to) {
            path.write(size(key), batch -> batch.clear(from, key.keyGroup(), key.key(), key.namespace()));
        }
    }

    private void value(int from, int to, Results.StoredKey key) throws IOException {
        Batch batch = new Batch();
        batch.get(from, key.keyGroup(), key.key(), key.namespace());
        byte[] value = path.ask(batch).value(0);
        if (value != null) {
            byte[] migrated = migrate(value, before, after);
            path.write(size(key) + migrated.length, out -> out.put(to, key.keyGroup(), key.key(), key.namespace(), migrated));
        }
    }

    private void list(int from, int to, Results.StoredKey key) throws IOException {
        TtlAwareSerializer<?, ?> elementBefore = ((TtlAwareSerializer.TtlAwareListSerializer<?>) before).getElementSerializer();
        TtlAwareSerializer<?, ?> elementAfter = ((TtlAwareSerializer.TtlAwareListSerializer<?>) after).getElementSerializer();
        List<byte[]> migrated = new ArrayList<>();
        for (byte[] element : path.elementsOf(from, new Place(null, key.keyGroup(), key.key(), key.namespace()))) {
            migrated.add(migrate(element, elementBefore, elementAfter));
        }
        if (from == to) {
            path.write(size(key), batch -> batch.clear(to, key.keyGroup(), key.key(), key.namespace()));
        }
        for (byte[] element : migrated) {
            path.write(size(key) + element.length,
                    batch -> batch.listAdd(to, key.keyGroup(), key.key(), key.namespace(), element));
        }
    }

    /** Bytes of an operation there, without what it writes. */
    private static int size(Results.StoredKey key) {
        return key.key().length + key.namespace().length + 48;
    }

    private void map(int from, int to, Results.StoredKey key) throws IOException {
        TtlAwareSerializer<?, ?> valueBefore = ((TtlAwareSerializer.TtlAwareMapSerializer<?, ?>) before).getValueSerializer();
        TtlAwareSerializer<?, ?> valueAfter = ((TtlAwareSerializer.TtlAwareMapSerializer<?, ?>) after).getValueSerializer();
        byte[] next = Batch.NONE;
        boolean more = true;
        while (more) {
            Batch batch = new Batch();
            batch.mapEntries(from, key.keyGroup(), key.key(), key.namespace(), next, StatePath.PAGE);
            Results results = path.ask(batch);
            List<Results.Entry> entries = results.entries(0);
            for (Results.Entry entry : entries) {
                byte[] migrated = migrateNullable(entry.value(), valueBefore, valueAfter);
                path.write(size(key) + entry.key().length + migrated.length,
                        out -> out.mapPut(to, key.keyGroup(), key.key(), key.namespace(), entry.key(), migrated));
            }
            more = results.more(0);
            if (more) {
                byte[] last = entries.get(entries.size() - 1).key();
                next = Arrays.copyOf(last, last.length + 1);
            }
        }
    }

    private byte[] migrateNullable(byte[] value, TtlAwareSerializer<?, ?> from, TtlAwareSerializer<?, ?> to)
            throws IOException {
        if (value[0] != 0) {
            return value;
        }
        byte[] migrated = migrate(Arrays.copyOfRange(value, 1, value.length), from, to);
        byte[] flagged = new byte[migrated.length + 1];
        System.arraycopy(migrated, 0, flagged, 1, migrated.length);
        return flagged;
    }

    private byte[] migrate(byte[] value, TtlAwareSerializer<?, ?> from, TtlAwareSerializer<?, ?> to) throws IOException {
        input.setBuffer(value);
        output.clear();
        migrate((TtlAwareSerializer) from, (TtlAwareSerializer) to);
        return output.getCopyOfBuffer();
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private void migrate(TtlAwareSerializer from, TtlAwareSerializer to) throws IOException {
        to.migrateValueFromPriorSerializer(from, () -> from.deserialize(input), output, clock);
    }
}
