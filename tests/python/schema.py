"""Descriptors that change: what is refused, what stays, what the client rewrites, what the daemon moves."""

import threading

from support import LIST, MAP, VALUE, Merge, descriptor, get, op, put, refused, restore_id, service_pb2, state_pb2
from world import scenario

COMPATIBLE = state_pb2.SchemaChange.MODE_COMPATIBLE
MIGRATE = state_pb2.SchemaChange.MODE_MIGRATE
ROWS = [b"key %d" % row for row in range(200)]


def row(version):
    return state_pb2.Serializer(id="row", version=version)


def state(version, **more):
    return descriptor("a", value_serializer=row(version), **more)


def register(client, ref, wanted, mode=None):
    """Registers one state, with a change if `mode` says one; returns what the daemon answers."""
    changes = [] if mode is None else [state_pb2.SchemaChange(state=wanted.name, mode=mode)]
    request = service_pb2.RegisterStatesRequest(backend=ref, states=[wanted], changes=changes)
    (registered,) = client.call("RegisterStates", request).states
    assert registered.descriptor == wanted, registered
    return registered


def values(client, ref, number):
    """What a state has of the rows."""
    found = client.read(ref, *[get(number, key) for key in ROWS])
    return {key: result.value for key, result in zip(ROWS, found) if result.found}


def rewrite(client, ref, registered, most):
    """Migrates up to `most` keys, each in one batch; returns how many there were."""
    old = registered.migrating_from
    (page,) = client.read(ref, op("KEYS", old, b"", all_namespaces=True, limit=most))
    for stored in page.keys:
        (value,) = client.read(ref, get(old, stored.key))
        client.apply(ref, put(registered.id, stored.key, value.value + b", new"), op("CLEAR", old, stored.key))
    return len(page.keys)


@scenario
def descriptors_that_differ_are_refused_with_both_sides(world):
    client = world.client()
    ref = client.open(world.job).backend
    register(client, ref, state(1))
    sides = [
        (state(1, kind=MAP), "kind Value", "kind Map"),
        (state(1, merge=Merge.Value("MERGE_FUNCTION_APPEND")), "merge none", "merge Append"),
        (state(2), "`row` version 1", "`row` version 2"),
        (descriptor("a", value_serializer=state_pb2.Serializer(id="other", version=1)), "`row` version 1", "`other`"),
        (descriptor("a"), "`row` version 1", "value none"),
        (state(1, key_serializer=row(7)), "key none", "key `row` version 7"),
        (state(1, namespace_serializer=row(8)), "namespace none", "namespace `row` version 8"),
    ]
    for wanted, one, other in sides:
        with refused("REASON_STATE_MISMATCH", one, other):
            register(client, ref, wanted)
    for wanted, one, other in sides[:2]:
        for mode in (COMPATIBLE, MIGRATE):
            with refused("REASON_STATE_MISMATCH", one, other):
                register(client, ref, wanted, mode)
    assert register(client, ref, state(1)).id == 1


@scenario
def schema_changes_that_make_no_sense_are_refused(world):
    client = world.client()
    ref = client.open(world.job).backend
    register(client, ref, state(1))

    def declare(*changes):
        changes = [state_pb2.SchemaChange(state=name, mode=mode) for name, mode in changes]
        request = service_pb2.RegisterStatesRequest(backend=ref, states=[state(2)], changes=changes)
        return client.call("RegisterStates", request)

    with refused("REASON_UNKNOWN_STATE", "`b`"):
        declare(("b", MIGRATE))
    with refused("REASON_INVALID_ARGUMENT", "`a`"):
        declare(("a", MIGRATE), ("a", COMPATIBLE))
    with refused("REASON_INVALID_ARGUMENT", "`a`", "`mode`"):
        declare(("a", 0))
    with refused("REASON_INVALID_ARGUMENT", "77"):
        declare(("a", 77))
    assert register(client, ref, state(1), MIGRATE).migrating_from == 0, "without difference nothing happens"


@scenario
def a_compatible_change_keeps_the_entries_and_each_checkpoint_its_own_descriptor(world):
    client = world.client()
    ref = client.open(world.job).backend
    number = register(client, ref, state(1)).id
    client.apply(ref, *[put(number, key, b"old") for key in ROWS[:100]])
    client.checkpoint(ref, 1)
    assert register(client, ref, state(2), COMPATIBLE).id == number
    client.apply(ref, *[put(number, key, b"new") for key in ROWS[100:]])
    client.checkpoint(ref, 2)
    for attempt, checkpoint, version, count in [(2, 1, 1, 100), (3, 2, 2, 200)]:
        opened = client.open(world.job, attempt=attempt, restore=restore_id(checkpoint))
        assert [known.descriptor for known in opened.states] == [state(version)], opened.states
        assert len(values(client, opened.backend, number)) == count
        (described,) = client.describe(opened.backend).states
        assert (described.state.descriptor, described.entries) == (state(version), count)
    opened = client.open(world.job, attempt=4, restore=restore_id(1))
    assert register(client, opened.backend, state(5), COMPATIBLE).id == number, "a branch goes on differently"
    client.checkpoint(opened.backend, 3)
    for attempt, checkpoint, version in [(5, 3, 5), (6, 2, 2), (7, 1, 1)]:
        opened = client.open(world.job, attempt=attempt, restore=restore_id(checkpoint))
        assert [known.descriptor for known in opened.states] == [state(version)], opened.states


@scenario
def a_migration_goes_on_where_the_restored_checkpoint_was(world):
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job).backend
    old = register(client, ref, state(1)).id
    client.apply(ref, *[put(old, key, key) for key in ROWS])
    client.checkpoint(ref, 1)
    registered = register(client, ref, state(2), MIGRATE)
    assert registered.migrating_from == old != registered.id
    assert rewrite(client, ref, registered, 70) == 70
    client.call("Materialize", service_pb2.MaterializeRequest(backend=ref))
    client.checkpoint(ref, 2)
    rewrite(client, ref, registered, 50)
    daemon.kill()
    client = world.client(world.start())
    opened = client.open(world.job, attempt=2, restore=restore_id(2))
    ref = opened.backend
    assert [(known.id, known.migrating_from) for known in opened.states] == [(old, 0), (registered.id, old)]
    assert register(client, ref, state(2)) == registered, "it is under way, declared again or not"
    assert len(values(client, ref, old)) == 130 and len(values(client, ref, registered.id)) == 70
    while rewrite(client, ref, registered, 60):
        pass
    registered = register(client, ref, state(2), MIGRATE)
    assert registered.migrating_from == 0
    assert values(client, ref, registered.id) == {key: key + b", new" for key in ROWS}
    with refused("REASON_UNKNOWN_STATE"):
        client.read(ref, get(old, b"k"))
    client.checkpoint(ref, 3)
    opened = client.open(world.job, attempt=3, restore=restore_id(3))
    assert list(opened.states) == [registered]
    opened = client.open(world.job, attempt=4, restore=restore_id(1))
    assert [known.descriptor for known in opened.states] == [state(1)]
    assert values(client, opened.backend, old) == {key: key for key in ROWS}


@scenario
def a_default_value_stands_for_what_is_not_there(world):
    client = world.client()
    ref = client.open(world.job).backend
    number = register(client, ref, descriptor("d", default_value=b"zero")).id
    found = client.read(ref, get(number, b"k"))
    assert [(result.found, result.value) for result in found] == [(False, b"zero")]
    client.apply(ref, put(number, b"k", b""))
    found = client.read(ref, get(number, b"k"), get(number, b"other"))
    assert [(result.found, result.value) for result in found] == [(True, b""), (False, b"zero")]
    client.checkpoint(ref, 1)
    ref = client.open(world.job, attempt=2, restore=restore_id(1)).backend
    assert register(client, ref, descriptor("d", default_value=b"one")).id == number, "needs no declaration"
    assert client.read(ref, get(number, b"other"))[0].value == b"one"
    for kind in (LIST, MAP):
        with refused("REASON_INVALID_ARGUMENT", "default value"):
            register(client, ref, descriptor("e", kind, default_value=b"x"))
    with refused("REASON_INVALID_ARGUMENT", "default value"):
        register(client, ref, descriptor("e", merge=Merge.Value("MERGE_FUNCTION_SUM_I64"), default_value=b"x"))
    with refused("REASON_LIMIT_EXCEEDED", "default value"):
        register(client, ref, descriptor("e", default_value=bytes((1 << 20) + 1)))


@scenario
def ttl_goes_on_and_off_with_every_entry(world):
    client = world.client()
    ref = client.open(world.job).backend
    lives = state_pb2.Ttl(duration_ms=3_600_000, update=1, visibility=1)
    lives.cleanup.at_materialization = True
    kinds = {"v": VALUE, "m": MAP, "l": LIST}

    def read(kind, number):
        kind = {VALUE: "GET", MAP: "MAP_ENTRIES", LIST: "LIST_GET"}[kind]
        found = client.read(ref, *[op(kind, number, key) for key in ROWS])
        return [(r.value, [(e.key, e.value) for e in r.entries], list(r.elements)) for r in found]

    before = {}
    for name, kind in kinds.items():
        number = register(client, ref, descriptor(name, kind)).id
        write = {
            VALUE: lambda key: op("PUT", number, key, value=key),
            MAP: lambda key: op("MAP_PUT", number, key, map_key=key, value=b"v"),
            LIST: lambda key: op("LIST_ADD_ALL", number, key, values=[key, b"more"]),
        }[kind]
        client.apply(ref, *[write(key) for key in ROWS])
        before[name] = read(kind, number)
    client.checkpoint(ref, 1)
    checkpoint = 1
    for attempt, ttl in enumerate((lives, None, lives, None), 2):
        ref = client.open(world.job, attempt=attempt, restore=restore_id(checkpoint)).backend
        for name, kind in kinds.items():
            number = register(client, ref, descriptor(name, kind, ttl=ttl)).id
            assert read(kind, number) == before[name], (name, ttl)
            checkpoint += 1
            client.checkpoint(ref, checkpoint)
        assert len(client.describe(ref).states) == 3, "the other forms are gone"


@scenario
def registering_while_a_session_writes_moves_on(world):
    client = world.client()
    ref = client.open(world.job).backend
    number = register(client, ref, state(1)).id
    session = client.session(ref)
    session.batch(*[put(number, key, b"v") for key in ROWS])
    changed = []
    beside = threading.Thread(target=lambda: changed.append(register(client, ref, state(2), COMPATIBLE)))
    beside.start()
    for key in ROWS:
        session.batch(put(number, key, b"w"))
    beside.join()
    session.wait("applied", session.number)
    assert changed[0].id == number
    assert session.read(get(number, ROWS[0]))[0].value == b"w"
    session.checkpoint(1)
    session.finish()
