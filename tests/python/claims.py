"""Claim modes, clones of running jobs, and discarding what is not open."""

import json
import subprocess

from operator_state import Subtask
from rescale import owner
from support import (
    descriptor,
    get,
    objects,
    op,
    put,
    refused,
    restore_handles,
    restore_id,
    restore_latest,
    service_pb2,
)
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
    # Those say that the job is gone.
    tells = ("/manifest/", "/retired/", "/job/")
    left = [path for path in objects(world.folder / "store", world.job) if not any(part in path for part in tells)]
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


@scenario
def a_clone_of_another_parallelism_has_operator_state_and_inline_tails_too(world):
    one, two = world.start(), world.start()
    source, other = world.client(one), world.client(two)
    fields = dict(parallelism=2, max_parallelism=128, retention=service_pb2.Retention(count=1))
    subtasks = [Subtask(source, world.job, restore_latest(), subtask=n, **fields) for n in range(2)]
    keys = [b"key %d" % n for n in range(40)]
    for n, subtask in enumerate(subtasks):
        mine = [put(subtask.keyed, key, key * 2) for key in keys if owner(key, 2) == n]
        subtask.write(*mine)
        source.call("Materialize", service_pb2.MaterializeRequest(backend=subtask.ref))
        # Short: it lies in the manifest.
        subtask.write(
            *(op("LIST_ADD", subtask.split, b"", value=b"%d of %d" % (i, n)) for i in range(3)),
            op("LIST_ADD", subtask.union, b"", value=b"offset %d" % n),
            op("MAP_PUT", subtask.broadcast, b"", map_key=b"rule", value=b"1"),
        )
    done = [source.checkpoint(subtask.ref, 1) for subtask in subtasks]
    for subtask, each in zip(subtasks, done):
        source.notify(subtask.ref, "COMPLETE", each.checkpoint)
        pin = service_pb2.PinRequest(backend=subtask.ref, checkpoint=each.checkpoint)
        source.call("Pin", pin)
    handles = restore_handles(*(each.handle for each in done))
    clones = []
    for n in range(3):
        # The source goes on between any two.
        for subtask in subtasks:
            subtask.write(op("LIST_ADD", subtask.split, b"", value=b"later"))
            later = source.checkpoint(subtask.ref, n + 2)
            source.notify(subtask.ref, "COMPLETE", later.checkpoint)
        clones.append(Subtask(other, world.job + "-clone", handles, subtask=n, parallelism=3))
    for subtask, each in zip(subtasks, done):
        assert source.retained(subtask.ref)[0] == 1
        source.call("Release", service_pb2.ReleaseRequest(backend=subtask.ref, checkpoint=each.checkpoint))

    def check(subtasks, copies):
        read = [subtask.read() for subtask in subtasks]
        assert [split for split, _, _ in read] == [[b"%d of 0" % i for i in range(2)], [b"2 of 0", b"0 of 1"], [b"1 of 1", b"2 of 1"]]
        assert all(union == [b"offset 0", b"offset 1"] * copies for _, union, _ in read)
        assert all(broadcast == {b"rule": b"1"} for _, _, broadcast in read)
        for key in keys:
            subtask = subtasks[owner(key, 3)]
            (found,) = subtask.client.read(subtask.ref, get(subtask.keyed, key))
            assert found.value == key * 2

    check(clones, 1)
    kept = [other.checkpoint(clone.ref, 1) for clone in clones]
    assert all(each.self_sustained_since == 1 for each in kept)
    for subtask in subtasks:
        source.end(subtask.ref)
    discard(source, job=world.job)
    two.kill()
    third = world.client(world.start())
    again = restore_handles(*(each.handle for each in kept))
    # Each had the whole union list.
    check([Subtask(third, world.job + "-clone", again, subtask=n, parallelism=3, attempt=2) for n in range(3)], 3)


@scenario
def the_tool_discards_and_an_option_says_who_claims(world):
    daemon = world.start(settings=["execution.state-recovery.claim-mode=NO_CLAIM"])
    client = world.client(daemon)
    ref = client.open(world.job, attempt=1).backend
    write(client, ref, 1)
    done = client.checkpoint(ref, 1)
    opened = client.open(world.job, attempt=2, restore=restore_id(1))
    write(client, opened.backend, 2)
    assert client.checkpoint(opened.backend, 2).self_sustained_since == 2
    claimed = client.open(world.job, attempt=3, restore=restore_id(2), claim_mode=service_pb2.CLAIM_MODE_CLAIM)
    write(client, claimed.backend, 3)
    assert client.checkpoint(claimed.backend, 3).self_sustained_since == 0
    client.end(claimed.backend)

    def run(*arguments):
        command = [world.binary, "discard", "--store", str(world.folder / "store"), "--json", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused_run = run("--handle", done.handle.hex())
    assert refused_run.returncode == 1 and "is pinned" in refused_run.stderr, refused_run
    gone = run("--handle", done.handle.hex(), "--force")
    assert json.loads(gone.stdout)["checkpoints"] == 1, gone
    gone = json.loads(run(world.job).stdout)
    assert gone["checkpoints"] == 2 and gone["objects"] > 0, gone
    with refused("REASON_CHECKPOINT_NOT_FOUND"):
        client.open(world.job, attempt=4, restore=restore_id(3))
