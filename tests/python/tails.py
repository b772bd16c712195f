"""Inline tails: a checkpoint with few changes lies in the manifest alone, and restores like any other."""

from support import descriptor, get, objects, put, restore_id
from world import scenario


@scenario
def a_checkpoint_of_few_changes_makes_no_segment_and_restores(world):
    daemon = world.start(settings=["execution.checkpointing.data-inline-threshold=20 KiB"])
    client = world.client(daemon)
    ref = client.open(world.job).backend
    state = client.register(ref, descriptor("v"))[0]
    session = client.session(ref)
    for number in range(1, 21):
        session.batch(put(state, b"k", b"%d" % number))
        session.barrier(number)
        session.next("checkpoint_completed")
    session.wait("persisted", 20)
    assert not [path for path in objects(daemon.store, world.job) if "/segments/" in str(path)]
    session.batch(put(state, b"big", bytes(30_000)))
    session.barrier(21)
    session.next("checkpoint_completed")
    session.finish()
    assert [path for path in objects(daemon.store, world.job) if "/segments/" in str(path)], "that one is long"
    for attempt, number in ((2, 20), (3, 21)):
        ref = client.open(world.job, attempt=attempt, restore=restore_id(number)).backend
        found = client.read(ref, get(state, b"k"), get(state, b"big"))
        assert found[0].value == b"20"
        assert found[1].found == (number == 21)
