"""Claim modes, clones of running jobs, and discarding what is not open."""

from support import descriptor, get, objects, put, refused, restore_handles, restore_id, service_pb2
from world import scenario

NO_CLAIM = service_pb2.CLAIM_MODE_NO_CLAIM


def discard(client, force=False, **what):
    return client.call("Discard", service_pb2.DiscardRequest(force=force, **what))


def write(client, ref, value):
    """Writes under some keys; returns the id of the state."""
    (state,) = client.register(ref, descriptor("v"))
    client.apply(ref, *[put(state, b"key %d" % i, b"%d of %d" % (value, i)) for i in range(20)])
    return state


def check(client, ref, state, value):
    found = client.read(ref, *[get(state, b"key %d" % i) for i in range(20)])
    assert [f.value for f in found] == [b"%d of %d" % (value, i) for i in range(20)]


@scenario
def a_clone_of_a_running_job_survives_that_all_of_it_is_discarded(world):
    one, two = world.start(), world.start()
    source, other = world.client(one), world.client(two)
    ref = source.open(world.job, attempt=1).backend
    write(source, ref, 1)
    done = source.checkpoint(ref, 1, attachment=b"offset")
    clone = other.open(world.job + "-clone", attempt=1, restore=restore_handles(done.handle))
    assert (clone.attachment, clone.self_sustained_since) == (b"offset", 0)
    (state,) = other.register(clone.backend, descriptor("v"))
    check(other, clone.backend, state, 1)
    # Its owner goes on.
    write(source, ref, 2)
    source.checkpoint(ref, 2)
    write(other, clone.backend, 7)
    kept = other.checkpoint(clone.backend, 1)
    assert kept.self_sustained_since == 1
    assert other.describe(clone.backend).self_sustained_since == 1
    with refused("REASON_IN_USE", world.job):
        discard(source, job=world.job)
    source.call("Close", service_pb2.CloseRequest(backend=ref))
    gone = discard(source, job=world.job)
    assert gone.checkpoints == 2 and gone.objects > 0, gone
    assert discard(source, job=world.job).checkpoints == 0
    left = [path for path in objects(world.folder / "store", world.job) if "/manifest/" not in path and "/job/" not in path]
    assert left == [], left
    two.kill()
    third = world.client(world.start())
    again = third.open(world.job + "-clone", attempt=2, restore=restore_handles(kept.handle)).backend
    (state,) = third.register(again, descriptor("v"))
    check(third, again, state, 7)


@scenario
def without_a_claim_the_restored_checkpoint_stays_until_it_is_discarded(world):
    client = world.client(world.start())
    ref = client.open(world.job, attempt=1, retention=service_pb2.Retention(count=1)).backend
    write(client, ref, 1)
    done = client.checkpoint(ref, 1)
    opened = client.open(
        world.job, attempt=2, restore=restore_id(1), claim_mode=NO_CLAIM, retention=service_pb2.Retention(count=1)
    )
    for number in (2, 3):
        write(client, opened.backend, number)
        completed = client.checkpoint(opened.backend, number)
        assert completed.self_sustained_since == 2
        client.notify(opened.backend, "COMPLETE", completed.checkpoint)
    assert client.retained(opened.backend) == [1, 3]
    client.call("Close", service_pb2.CloseRequest(backend=opened.backend))
    with refused("REASON_IN_USE", "pinned"):
        discard(client, handle=done.handle)
    assert discard(client, force=True, handle=done.handle).checkpoints == 1
    assert discard(client, handle=done.handle).checkpoints == 0
    with refused("REASON_CHECKPOINT_NOT_FOUND", "1"):
        client.open(world.job, attempt=3, restore=restore_id(1))
    with refused("REASON_INVALID_ARGUMENT", "cloned"):
        client.open(
            world.job + "-other",
            restore=restore_handles(completed.handle),
            claim_mode=service_pb2.CLAIM_MODE_CLAIM,
        )
