"""Backends without changelog: each checkpoint is a snapshot at its barrier; the mode may change at every restore."""

from support import (
    descriptor,
    get,
    objects,
    put,
    refused,
    restore_handles,
    restore_id,
    retain,
    service_pb2,
)
from world import scenario

ON, OFF = service_pb2.CHANGELOG_MODE_ENABLED, service_pb2.CHANGELOG_MODE_DISABLED


def opened_off(world, client, **more):
    ref = client.open(world.job, changelog=OFF, **more).backend
    return ref, client.register(ref, descriptor("v"))[0]


@scenario
def without_changelog_every_barrier_cuts_exactly_and_writes_no_segment(world):
    client = world.client()
    ref, state = opened_off(world, client, retention=retain())
    session = client.session(ref)
    for number in range(1, 11):
        session.batch(put(state, b"k", b"before %d" % number), put(state, b"only %d" % number, b""))
        session.barrier(number)
        session.batch(put(state, b"k", b"after %d" % number))
    done = {}
    for _ in range(10):
        completed = session.next("checkpoint_completed")
        done[completed.checkpoint.checkpoint_id] = completed
        assert completed.applied_to == 2 * completed.checkpoint.checkpoint_id - 1
    session.wait("persisted", 19)
    assert session.ack.persisted_to < 20, "the last batch is in no snapshot"
    session.finish()
    assert not [path for path in objects(world.daemon.store, world.job) if "segments" in str(path)]
    for attempt, number in enumerate((7, 10, 1), start=2):
        ref = client.open(world.job, attempt=attempt, changelog=OFF, restore=restore_handles(done[number].handle)).backend
        found = client.read(
            ref, get(state, b"k"), get(state, b"only %d" % number), get(state, b"only %d" % (number + 1))
        )
        assert [f.value for f in found][0] == b"before %d" % number
        assert found[1].found and not found[2].found


@scenario
def the_changelog_is_switched_on_and_off_at_restores(world):
    client = world.client()
    ref = client.open(world.job, changelog=OFF).backend
    (state,) = client.register(ref, descriptor("v"))
    for attempt, mode in enumerate((OFF, ON, OFF, OFF, ON, ON), start=1):
        if attempt > 1:
            ref = client.open(world.job, attempt=attempt, changelog=mode, restore=restore_id(attempt - 1)).backend
        for earlier in range(1, attempt):
            assert client.read(ref, get(state, b"%d" % earlier))[0].value == b"x" * earlier
        client.apply(ref, put(state, b"%d" % attempt, b"x" * attempt))
        done = client.checkpoint(ref, attempt)
        assert done.handle
        client.apply(ref, put(state, b"%d" % attempt, b"lost"))


@scenario
def without_changelog_there_is_nothing_to_persist_or_materialize(world):
    client = world.client()
    ref, state = opened_off(world, client)
    with refused("REASON_UNSUPPORTED", "checkpoint"):
        client.call("Persist", service_pb2.PersistRequest(backend=ref))
    with refused("REASON_UNSUPPORTED", "checkpoint"):
        client.call("Materialize", service_pb2.MaterializeRequest(backend=ref))
    session = client.session(ref)
    session.batch(put(state, b"k", b"v"))
    session.send(persist={"token": 5})
    session.next("error")
    session.checkpoint(1)
    session.finish()
    with refused("REASON_BACKEND_MISMATCH", "changelog"):
        client.open(world.job, changelog=ON)
    assert client.open(world.job).backend == ref, "unspecified is as it runs"


@scenario
def without_changelog_an_outage_fails_one_checkpoint_and_not_the_next(world):
    client = world.client()
    ref, state = opened_off(world, client)
    session = client.session(ref)
    session.batch(put(state, b"k", b"1"))
    # The folder of its snapshots is a file for a while.
    snapshots = world.daemon.store / world.job / "operators" / "op" / "0" / "snapshot"
    snapshots.write_text("not a folder")
    session.barrier(1, timeout_ms=1500)
    session.batch(put(state, b"k", b"2"))
    assert session.failed(1).reason == "REASON_CHECKPOINT_TIMEOUT"
    snapshots.unlink()
    session.checkpoint(2)
    session.finish()
    again = client.open(world.job, attempt=2, changelog=OFF, restore=restore_id(2))
    assert client.read(again.backend, get(state, b"k"))[0].value == b"2"
