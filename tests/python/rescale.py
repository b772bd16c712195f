"""Rescaling: other numbers of subtasks, on and between both inner backends, from handles, ids and the latest."""

import copy
import random
import subprocess

from opening import murmur3_32
from operations import LIST, MAP
from support import descriptor, op, put, refused, restore_handles, restore_id, restore_latest, service_pb2
from world import scenario

MAX_PARALLELISM = 128
STATES = [descriptor("v"), descriptor("m", MAP), descriptor("l", LIST)]


def owner(key, parallelism):
    return murmur3_32(key) % MAX_PARALLELISM * parallelism // MAX_PARALLELISM


class Job:
    """An operator of several subtasks, and what its state should be."""

    def __init__(self, world):
        self.world, self.random = world, random.Random(5)
        self.attempt = self.number = 0
        self.values, self.maps, self.lists = {}, {}, {}

    def start(self, parallelism, inner, restore):
        """Kills the daemon there was, and opens every subtask on one of two new ones."""
        for daemon in self.world.started:
            daemon.kill()
        self.attempt += 1
        daemons = [self.world.start(), self.world.start()]
        self.clients = [self.world.client(daemons[subtask % 2]) for subtask in range(parallelism)]
        self.parallelism, self.refs, self.ids = parallelism, [], []
        order = list(range(parallelism))
        self.random.shuffle(order)
        opened = {}
        for subtask in order:
            opened[subtask] = self.clients[subtask].open(
                self.world.job,
                subtask=subtask,
                parallelism=parallelism,
                max_parallelism=MAX_PARALLELISM if self.attempt == 1 else 0,
                attempt=self.attempt,
                inner=inner,
                restore=restore,
            )
        for subtask in range(parallelism):
            self.refs.append(opened[subtask].backend)
            wanted = self.random.sample(STATES, len(STATES))
            ids = self.clients[subtask].register(self.refs[subtask], *wanted)
            by_name = {state.name: number for state, number in zip(wanted, ids)}
            self.ids.append([by_name[state.name] for state in STATES])
        return [opened[subtask] for subtask in range(parallelism)]

    def write(self, keys):
        batches = {}
        for _ in range(keys):
            key = b"key %d" % self.random.randrange(400)
            subtask, value = owner(key, self.parallelism), b"%d" % self.random.randrange(10**6)
            (v, m, l), batch = self.ids[subtask], batches.setdefault(owner(key, self.parallelism), [])
            self.values[key] = value
            self.maps.setdefault(key, {})[value[:1]] = value
            self.lists.setdefault(key, []).append(value)
            batch.append(put(v, key, value))
            batch.append(op("MAP_PUT", m, key, map_key=value[:1], value=value))
            batch.append(op("LIST_ADD", l, key, value=value))
        for subtask, batch in batches.items():
            self.clients[subtask].apply(self.refs[subtask], *batch)

    def materialize(self):
        for client, ref in zip(self.clients, self.refs):
            client.call("Materialize", service_pb2.MaterializeRequest(backend=ref))

    def checkpoint(self):
        self.number += 1
        done = [
            client.checkpoint(ref, self.number, attachment=b"offset of %d" % subtask)
            for subtask, (client, ref) in enumerate(zip(self.clients, self.refs))
        ]
        for client, ref, checkpoint in zip(self.clients, self.refs, done):
            client.notify(ref, "COMPLETE", checkpoint.checkpoint)
        return [checkpoint.handle for checkpoint in done]

    def check(self):
        """Every entry is there, once, where it belongs."""
        found = {}
        for subtask, (client, ref) in enumerate(zip(self.clients, self.refs)):
            v, m, l = self.ids[subtask]
            token, keys = b"", []
            while True:
                (page,) = client.read(ref, op("KEYS", v, b"", token=token))
                keys += [stored.key for stored in page.keys]
                token = page.token
                if not token:
                    break
            for key in keys:
                assert owner(key, self.parallelism) == subtask and key not in found, key
                value, entries, elements = client.read(
                    ref, op("GET", v, key), op("MAP_ENTRIES", m, key), op("LIST_GET", l, key)
                )
                found[key] = value.value
                assert {entry.key: entry.value for entry in entries.entries} == self.maps[key], key
                assert list(elements.elements) == self.lists[key], key
            counts = {s.state.descriptor.name: (s.entries, s.entries_at_least) for s in client.describe(ref).states}
            mine = [key for key in self.values if owner(key, self.parallelism) == subtask]
            assert counts["v"] == (len(mine), False), counts
            assert counts["m"] == (sum(len(self.maps[key]) for key in mine), False), counts
            assert counts["l"] == (sum(len(self.lists[key]) for key in mine), False), counts
        assert found == self.values


@scenario
def every_entry_is_there_once_through_rescales_and_switches_of_the_inner_backend(world):
    hashmap, rocksdb = service_pb2.INNER_BACKEND_HASHMAP, service_pb2.INNER_BACKEND_ROCKSDB
    job, handles = Job(world), []
    restores = {
        "latest": lambda: restore_latest(),
        "id": lambda: restore_id(job.number),
        "handles": lambda: restore_handles(*handles),
    }
    generations = [
        (1, hashmap, "latest"),
        (3, rocksdb, "handles"),
        (2, hashmap, "latest"),
        (5, rocksdb, "id"),
        (5, rocksdb, "latest"),
        (1, hashmap, "handles"),
        (4, rocksdb, "latest"),
    ]
    for parallelism, inner, restore in generations:
        parts_before = [b"offset of %d" % subtask for subtask in range(len(handles))]
        opened = job.start(parallelism, inner, restores[restore]())
        if restore == "handles":
            assert all([part.attachment for part in o.parts] == parts_before for o in opened), opened
        job.check()
        job.write(150)
        if parallelism != 2:
            job.materialize()
        job.write(100)
        handles = job.checkpoint()
        job.write(50)
        handles = job.checkpoint()
        # What follows the checkpoint is lost with its owners.
        kept = copy.deepcopy((job.values, job.maps, job.lists))
        job.write(50)
        job.check()
        job.values, job.maps, job.lists = kept
    store = world.folder / "store"
    for _ in range(2):
        sweep = [world.binary, "gc", "--store", str(store), world.job, "--delete", "--grace", "0s"]
        swept = subprocess.run(sweep, capture_output=True, text=True)
        assert swept.returncode == 0, swept.stderr
        job.start(2, hashmap, restore_latest())
        job.check()


@scenario
def a_rescale_that_lacks_key_groups_says_which_and_changes_nothing(world):
    client = world.client()
    refs = [client.open(world.job, subtask=s, parallelism=3, max_parallelism=9).backend for s in range(3)]
    handles = [client.checkpoint(ref, 1).handle for ref in refs]
    with refused("REASON_INVALID_ARGUMENT", "3..=5", "subtasks 1 of 3"):
        client.open(world.job, attempt=2, parallelism=1, restore=restore_handles(handles[0], handles[2]))
    later = [client.checkpoint(ref, 2).handle for ref in refs]
    with refused("REASON_INVALID_ARGUMENT", "different checkpoints"):
        client.open(world.job, attempt=2, parallelism=1, restore=restore_handles(handles[0], later[1], later[2]))
    for number, ref in enumerate(refs):
        assert client.checkpoint(ref, 3).handle, f"owner {number} goes on"
    opened = client.open(world.job, attempt=2, parallelism=1, restore=restore_handles(*later))
    assert (opened.key_groups.first, opened.key_groups.last) == (0, 8)
    with refused("REASON_FENCED"):
        client.checkpoint(refs[0], 4)
    for ref in refs[1:]:
        with refused("REASON_FENCED", "taken over"):
            client.checkpoint(ref, 4)
