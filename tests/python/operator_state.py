"""Operator state: lists that are split or united and broadcast maps, live, restored and rescaled, beside keyed state."""

import random

from operations import LIST, MAP
from support import (
    descriptor,
    get,
    op,
    put,
    refused,
    restore_handles,
    restore_id,
    restore_latest,
    service_pb2,
    state_pb2,
)
from world import scenario

SPLIT = descriptor("split", LIST, redistribution=state_pb2.REDISTRIBUTION_SPLIT)
UNION = descriptor("union", LIST, redistribution=state_pb2.REDISTRIBUTION_UNION)
BROADCAST = descriptor("broadcast", MAP, redistribution=state_pb2.REDISTRIBUTION_BROADCAST)
KEYED = descriptor("keyed")


class Subtask:
    """A subtask of a sink that buffers, whose source remembers offsets and which knows rules."""

    def __init__(self, client, job, restore, **fields):
        self.client = client
        self.opened = client.open(job, restore=restore, **fields)
        self.ref = self.opened.backend
        self.split, self.union, self.broadcast, self.keyed = client.register(self.ref, SPLIT, UNION, BROADCAST, KEYED)

    def write(self, *operations):
        self.client.apply(self.ref, *operations)

    def read(self):
        split, union, broadcast = self.client.read(
            self.ref,
            op("LIST_GET", self.split, b""),
            op("LIST_GET", self.union, b""),
            op("MAP_ENTRIES", self.broadcast, b""),
        )
        entries = {entry.key: entry.value for entry in broadcast.entries}
        return list(split.elements), list(union.elements), entries


def cut(elements, parallelism):
    each, more = divmod(len(elements), parallelism)
    begins = [n * each + min(n, more) for n in range(parallelism + 1)]
    return [elements[begins[n] : begins[n + 1]] for n in range(parallelism)]


@scenario
def operator_state_goes_to_whom_it_belongs_through_restores_and_rescales(world):
    chance = random.Random(11)
    had, handles, number = [], [], 0
    inners = [service_pb2.INNER_BACKEND_HASHMAP, service_pb2.INNER_BACKEND_ROCKSDB]
    for attempt, parallelism in enumerate([1, 3, 3, 2, 4, 1], 1):
        for daemon in world.started:
            daemon.kill()
        daemons = [world.start(), world.start()]
        restore = [restore_latest(), restore_handles(*handles), restore_id(number)][attempt % 3 if attempt > 1 else 0]
        order = chance.sample(range(parallelism), parallelism)
        opened = {
            n: Subtask(
                world.client(daemons[n % 2]),
                world.job,
                restore,
                subtask=n,
                parallelism=parallelism,
                max_parallelism=128 if attempt == 1 else 0,
                attempt=attempt,
                inner=inners[attempt % 2],
            )
            for n in order
        }
        subtasks = [opened[n] for n in range(parallelism)]
        if had:
            splits = [split for split, _, _ in had]
            splits = splits if len(had) == parallelism else cut(sum(splits, []), parallelism)
            union = sum((union for _, union, _ in had), [])
            expected = [(splits[n], union, had[n % len(had)][2]) for n in range(parallelism)]
            assert [subtask.read() for subtask in subtasks] == expected, attempt
        for n, subtask in enumerate(subtasks):
            buffered = [b"%d/%d/%d" % (attempt, n, i) for i in range(chance.randrange(1, 6))]
            subtask.write(
                op("LIST_ADD_ALL", subtask.split, b"", values=buffered),
                op("LIST_UPDATE", subtask.union, b"", values=[b"offset of %d" % n]),
                op("MAP_PUT", subtask.broadcast, b"", map_key=b"rule %d" % attempt, value=b"is in force"),
            )
            if chance.random() < 0.5:
                subtask.client.call("Materialize", service_pb2.MaterializeRequest(backend=subtask.ref))
                subtask.write(op("LIST_ADD", subtask.split, b"", value=b"after %d" % attempt))
        subtasks[0].write(op("MAP_REMOVE", subtasks[0].broadcast, b"", map_key=b"not there"))
        number += 1
        done = [subtask.client.checkpoint(subtask.ref, number) for subtask in subtasks]
        for subtask, checkpoint in zip(subtasks, done):
            subtask.client.notify(subtask.ref, "COMPLETE", checkpoint.checkpoint)
        handles, had = [checkpoint.handle for checkpoint in done], [subtask.read() for subtask in subtasks]
        for subtask, (split, union, broadcast) in zip(subtasks, had):
            counts = {s.state.descriptor.name: s.entries for s in subtask.client.describe(subtask.ref).states}
            lengths = {"split": len(split), "union": len(union), "broadcast": len(broadcast), "keyed": 0}
            assert counts == lengths, counts
            # What comes after the checkpoint is gone with its owner.
            subtask.write(op("CLEAR", subtask.split, b""), op("LIST_ADD", subtask.union, b"", value=b"lost"))


@scenario
def a_rescale_by_handles_needs_those_of_every_subtask_that_had_operator_state(world):
    client = world.client()
    subtasks = [Subtask(client, world.job, None, subtask=n, parallelism=3, max_parallelism=12) for n in range(3)]
    for n, subtask in enumerate(subtasks):
        subtask.write(op("LIST_ADD", subtask.split, b"", value=b"%d" % n))
    handles = [client.checkpoint(subtask.ref, 1).handle for subtask in subtasks]
    fields = dict(subtask=0, parallelism=6, attempt=2)
    with refused("REASON_INVALID_ARGUMENT", "operator state", "1, 2 of 3"):
        client.open(world.job, restore=restore_handles(handles[0]), **fields)
    for subtask in subtasks:
        assert client.checkpoint(subtask.ref, 2).handle, "nobody was fenced"
    opened = Subtask(client, world.job, restore_handles(*handles), **fields)
    assert opened.read()[0] == [b"0"]


@scenario
def operator_state_has_no_key_and_is_of_the_kind_that_its_redistribution_is_for(world):
    client = world.client()
    subtask = Subtask(client, world.job, None)
    wrong = [
        (op("LIST_ADD", subtask.split, b"k", value=b"v"), "REASON_INVALID_ARGUMENT"),
        (op("LIST_ADD", subtask.split, b"", ns=b"n", value=b"v"), "REASON_INVALID_ARGUMENT"),
        (op("LIST_ADD", subtask.split, b"", key_group=0, value=b"v"), "REASON_WRONG_KEY_GROUP"),
        (op("KEYS", subtask.split, b""), "REASON_INVALID_ARGUMENT"),
        (op("MERGE_NAMESPACES", subtask.split, b"", values=[b"n"]), "REASON_INVALID_ARGUMENT"),
        (op("MAP_COUNT", subtask.split, b""), "REASON_WRONG_KIND"),
        (get(subtask.keyed, b""), "REASON_INVALID_ARGUMENT"),
    ]
    for operation, reason in wrong:
        with refused(reason):
            client.apply(subtask.ref, op("LIST_ADD", subtask.split, b"", value=b"v"), operation)
    subtask.write(put(subtask.keyed, b"k", b"v"), op("LIST_ADD", subtask.split, b"", value=b""))
    assert subtask.read() == ([b""], [], {})
    with refused("REASON_STATE_MISMATCH", "Split", "Union"):
        client.register(subtask.ref, descriptor("split", LIST, redistribution=state_pb2.REDISTRIBUTION_UNION))
    with refused("REASON_INVALID_ARGUMENT", "Broadcast"):
        client.register(subtask.ref, descriptor("other", LIST, redistribution=state_pb2.REDISTRIBUTION_BROADCAST))
    with refused("REASON_INVALID_ARGUMENT", "TTL"):
        ttl = state_pb2.Ttl(duration_ms=1000)
        client.register(subtask.ref, descriptor("o", LIST, ttl=ttl, redistribution=state_pb2.REDISTRIBUTION_SPLIT))
