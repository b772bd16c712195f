"""Inline tails: a checkpoint with few changes lies in the manifest alone, and restores like any other."""

from support import descriptor, get, objects, put, restore_id, restore_latest, retain
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


@scenario
def manifests_do_not_grow_with_the_log_nor_with_the_owners_that_wrote_it(world):
    last, most = 0, 0
    for attempt in range(1, 5):
        daemon = world.start()
        client = world.client(daemon)
        opened = client.open(world.job, attempt=attempt, restore=restore_latest(), retention=retain(2))
        ref = opened.backend
        state = client.register(ref, descriptor("v"))[0]
        assert client.describe(ref).log_change_sets == last
        for last in range(last + 1, last + 161):
            client.apply(ref, put(state, b"k%d" % (last % 50), b"%d" % last))
            completed = client.checkpoint(ref, last)
            client.notify(ref, "COMPLETE", completed.checkpoint)
        found = objects(daemon.store, world.job)
        assert any("/index/" in path for path in found), "most of the log index lies in pages"
        most = max([most] + [size for path, (size, _) in found.items() if "/manifest/" in path])
        daemon.kill()
    assert most < 30_000, most
    client = world.client(world.start())
    ref = client.open(world.job, attempt=9, restore=restore_latest()).backend
    state = client.register(ref, descriptor("v"))[0]
    found = client.read(ref, *[get(state, b"k%d" % (number % 50)) for number in range(last - 49, last + 1)])
    assert [entry.value for entry in found] == [b"%d" % number for number in range(last - 49, last + 1)]
