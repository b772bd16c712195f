"""The view over a job, and falling back to an older checkpoint where the one asked for is damaged."""

import os

from rescale import owner
from support import (
    descriptor,
    get,
    objects,
    put,
    refused,
    restore_empty,
    restore_id,
    restore_latest,
    retain,
    service_pb2,
)
from world import scenario

# The subtask of two that has the key.
OWNER = owner(b"k", 2)


def view(client, job):
    """What the job, and each operator, can restore, as (attempt, id)."""
    answer = client.call("DescribeJob", service_pb2.DescribeJobRequest(job=job))
    named = lambda found: (found.attempt, found.id)
    operators = {of.operator: list(of.checkpoints) for of in answer.operators}
    return [named(found) for found in answer.checkpoints], operators, [named(d.checkpoint) for d in answer.damaged]


def falling_back(restore):
    restore.fallback = True
    return restore


def two_subtasks(world, client, attempt, restore):
    """Opens both subtasks of the job."""
    return [client.open(world.job, subtask=n, parallelism=2, attempt=attempt, restore=restore, retention=retain())
            for n in range(2)]


def build(world, client, store):
    """A job of two subtasks with three checkpoints; returns a state and which segment the newest checkpoint adds."""
    opened = two_subtasks(world, client, 1, restore_empty())
    states = [client.register(each.backend, descriptor("v")) for each in opened]
    for number in (1, 2, 3):
        before = set(objects(store))
        # What is large is not read before it is restored.
        value = os.urandom(100_000) if number == 3 else b"%d" % number
        client.apply(opened[OWNER].backend, put(states[OWNER][0], b"k", value))
        for each in opened:
            done = client.checkpoint(each.backend, number)
            client.notify(each.backend, "COMPLETE", done.checkpoint)
        new = [name for name in set(objects(store)) - before if "/segments/" in name]
    for each in opened:
        client.end(each.backend)
    return states[OWNER][0], max(new, key=lambda name: (store / name).stat().st_size)


@scenario
def a_job_tells_what_all_its_subtasks_can_restore(world):
    client = world.client(world.start())
    assert view(client, world.job) == ([], {}, [])
    opened = two_subtasks(world, client, 1, restore_empty())
    sink = client.open(world.job, operator="sink", retention=retain())
    for ref, numbers in ((opened[0].backend, (1, 2, 3)), (opened[1].backend, (1, 3)), (sink.backend, (1, 2))):
        for number in numbers:
            client.checkpoint(ref, number)
    consistent, operators, damaged = view(client, world.job)
    assert (consistent, damaged) == ([(1, 1)], []), consistent
    assert len(operators) == 2 and "sink" in operators
    (name,) = set(operators) - {"sink"}
    found = [(c.checkpoint.id, c.parallelism, c.restorable, list(c.missing_subtasks)) for c in operators[name]]
    assert found == [(1, 2, True, []), (2, 2, False, [1]), (3, 2, True, [])], found
    assert [c.restorable for c in operators["sink"]] == [True, True]
    assert opened[0].backend.id.job == world.job
    with refused("REASON_INVALID_ARGUMENT", "job"):
        client.call("DescribeJob", service_pb2.DescribeJobRequest())


@scenario
def a_missing_object_makes_all_subtasks_fall_back_only_when_asked(world):
    daemon = world.start()
    client = world.client(daemon)
    state, newest = build(world, client, daemon.store)
    (daemon.store / newest).unlink()
    with refused("REASON_MISSING_OBJECT", newest, "spoils: 3 (epoch", "still restore: 1 (epoch"):
        client.open(world.job, subtask=OWNER, parallelism=2, attempt=2, restore=restore_latest(), retention=retain())
    opened = two_subtasks(world, client, 3, falling_back(restore_latest()))
    for each in opened:
        assert each.checkpoint.checkpoint_id == 2, each.checkpoint
        (skipped,) = each.skipped
        assert (skipped.checkpoint.attempt, skipped.checkpoint.id) == (1, 3) and newest in skipped.what, skipped
    (found,) = client.read(opened[OWNER].backend, get(state, b"k"))
    assert found.value == b"2"
    with refused("REASON_INVALID_ARGUMENT", "fallback"):
        client.open(world.job, parallelism=2, attempt=4, restore=falling_back(restore_empty()))


@scenario
def damage_that_only_a_restore_finds_is_skipped_by_the_next_attempt(world):
    daemon = world.start()
    client = world.client(daemon)
    state, newest = build(world, client, daemon.store)
    contents = bytearray((daemon.store / newest).read_bytes())
    contents[len(contents) // 2] ^= 0x10
    (daemon.store / newest).write_bytes(contents)
    with refused("REASON_CORRUPT_OBJECT", newest, "higher attempt", "still restore: 1 (epoch"):
        restore = falling_back(restore_id(3))
        client.open(world.job, subtask=OWNER, parallelism=2, attempt=2, restore=restore, retention=retain())
    assert view(client, world.job)[2] == [(1, 3)]
    opened = two_subtasks(world, client, 3, falling_back(restore_id(3)))
    assert [each.checkpoint.checkpoint_id for each in opened] == [2, 2]
    (found,) = client.read(opened[OWNER].backend, get(state, b"k"))
    assert found.value == b"2"
