package io.dstl.client;

import io.dstl.proto.v1.KeyGroupAssignment;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateDescriptor;
import io.dstl.proto.v1.StateKind;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;

/**
 * Moves the entries of a state whose serializers cannot read what those before wrote: reads them page by page in the
 * old form,
 * writes them in the new one, and removes them there, each key in one batch. After a crash it goes on where the
 * restored
 * checkpoint was. Only the caller's thread writes to the state meanwhile.
 */
public final class Migration {
    private static final int KEYS_PER_PAGE = 500;

    private final Backend backend;
    private final StateDescriptor descriptor;
    private RegisteredState registered;

    private Migration(Backend backend, StateDescriptor descriptor) {
        this.backend = backend;
        this.descriptor = descriptor;
    }

    /**
     * Declares the change. Where nothing differs, there is nothing to move.
     *
     * @param backend which has the state
     * @param descriptor the new form; a value, list or map
     * @return the migration, to be {@link #run}
     * @throws DstlException as {@link Backend#register} fails
     * @throws InterruptedException if the waiting thread was interrupted
     */
    public static Migration begin(Backend backend, StateDescriptor descriptor) throws InterruptedException {
        Migration migration = new Migration(backend, descriptor);
        migration.register();
        return migration;
    }

    private void register() throws InterruptedException {
        SchemaChange change = SchemaChange.newBuilder()
                .setState(descriptor.getName())
                .setMode(SchemaChange.Mode.MODE_MIGRATE)
                .build();
        registered = backend.register(List.of(descriptor), List.of(change)).await().get(0);
    }

    /**
     * Moves everything, and ends the migration.
     *
     * @param session where to read and write
     * @param rewrite makes the new bytes of a value, element or map value of the old ones; keys stay
     * @return how many keys (with their namespaces) were moved
     * @throws DstlException what the session met
     * @throws InterruptedException if the waiting thread was interrupted
     */
    public long run(Session session, Function<Slice, byte[]> rewrite) throws InterruptedException {
        long moved = 0;
        // Of several old forms the next one is told when the one before has no entries any more.
        while (registered.getMigratingFrom() != 0) {
            moved += move(session, registered.getMigratingFrom(), rewrite);
            register();
        }
        return moved;
    }

    private long move(Session session, int old, Function<Slice, byte[]> rewrite) throws InterruptedException {
        long moved = 0;
        byte[] token = Batch.NONE;
        do {
            Batch page = session.batch();
            int at = page.keysOfAllNamespaces(old, token, KEYS_PER_PAGE);
            Results results = session.send(page).await();
            List<Results.StoredKey> keys = results.keys(at);
            List<Pending<Results>> values = new ArrayList<>();
            if (descriptor.getKind() == StateKind.STATE_KIND_VALUE) {
                for (Results.StoredKey key : keys) {
                    Batch read = session.batch();
                    read.get(old, group(key), key.key(), key.namespace());
                    values.add(session.send(read));
                }
            }
            List<Pending<Results>> writes = new ArrayList<>();
            for (int index = 0; index < keys.size(); index++) {
                Results.StoredKey key = keys.get(index);
                Batch batch = session.batch();
                switch (descriptor.getKind()) {
                    case STATE_KIND_VALUE -> value(values.get(index).await(), key, rewrite, batch);
                    case STATE_KIND_LIST -> list(session, old, key, rewrite, batch);
                    case STATE_KIND_MAP -> map(session, old, key, rewrite, batch);
                    default -> throw new IllegalArgumentException("a " + descriptor.getKind() + " is not migrated");
                }
                batch.clear(old, group(key), key.key(), key.namespace());
                writes.add(session.send(batch));
                moved++;
            }
            for (Pending<Results> write : writes) {
                write.await();
            }
            token = results.token(at);
        } while (token.length > 0);
        return moved;
    }

    private int group(Results.StoredKey key) {
        boolean given = backend.opened().getKeyGroupAssignment() == KeyGroupAssignment.KEY_GROUP_ASSIGNMENT_GIVEN;
        return given ? key.keyGroup() : Batch.HASHED;
    }

    private void value(Results read, Results.StoredKey key, Function<Slice, byte[]> rewrite, Batch batch) {
        if (read.found(0)) {
            batch.put(registered.getId(), group(key), key.key(), key.namespace(), rewrite.apply(read.slice(0)));
        }
    }

    private void list(Session session, int old, Results.StoredKey key, Function<Slice, byte[]> rewrite, Batch batch)
            throws InterruptedException {
        byte[] token = Batch.NONE;
        do {
            Batch read = session.batch();
            read.listGet(old, group(key), key.key(), key.namespace(), token, 0);
            Results results = session.send(read).await();
            for (Slice element : results.elements(0)) {
                batch.listAdd(registered.getId(), group(key), key.key(), key.namespace(), rewrite.apply(element));
            }
            token = results.token(0);
        } while (token.length > 0);
    }

    private void map(Session session, int old, Results.StoredKey key, Function<Slice, byte[]> rewrite, Batch batch)
            throws InterruptedException {
        byte[] from = Batch.NONE;
        Results results;
        do {
            Batch read = session.batch();
            read.mapEntries(old, group(key), key.key(), key.namespace(), from, 0);
            results = session.send(read).await();
            for (Results.Entry entry : results.entries(0)) {
                byte[] value = rewrite.apply(State.slice(entry.value()));
                batch.mapPut(registered.getId(), group(key), key.key(), key.namespace(), entry.key(), value);
                from = Arrays.copyOf(entry.key(), entry.key().length + 1);
            }
        } while (results.more(0));
    }
}
