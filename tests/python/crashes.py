"""kill -9 at any moment: whatever was promised is there again, on another socket, with only the store."""

import collections
import copy
import random
import subprocess
import sys
import threading
import time

from operations import i64, merge
from support import (
    LIST,
    MAP,
    PATIENCE,
    ROOT,
    VALUE,
    descriptor,
    get,
    grpc,
    op,
    put,
    refused,
    restore_handles,
    restore_id,
    restore_latest,
    retain,
)
from world import scenario

STATES = (
    descriptor("value"),
    descriptor("sum", VALUE, merge("SUM_I64")),
    descriptor("list", LIST),
    descriptor("map", MAP),
)
KEYS = [b"key %d" % number for number in range(30)]
NAMESPACES = [b"", b"window"]


class Model:
    """What the backend must contain, as plain dictionaries by (state, key, namespace)."""

    def __init__(self):
        self.values, self.sums, self.lists, self.maps = {}, {}, {}, {}

    def change(self, rng, ids):
        """One random operation, carried out here; returns it for the daemon."""
        value, total, items, table = ids
        key, ns = rng.choice(KEYS), rng.choice(NAMESPACES)
        at, data = (key, ns), rng.randbytes(rng.choice((0, 3, 200, 3000)))
        entry = b"%d" % rng.randrange(8)
        kind = rng.randrange(10)
        if kind < 3:
            self.values[at] = data
            return put(value, key, data, ns=ns)
        if kind < 5:
            number = rng.randrange(-(10**9), 10**9)
            self.sums[at] = self.sums.get(at, 0) + number
            return op("MERGE", total, key, value=i64(number), ns=ns)
        if kind == 5:
            self.lists.setdefault(at, []).append(data)
            return op("LIST_ADD", items, key, value=data, ns=ns)
        if kind == 6:
            self.lists[at] = [data, entry]
            return op("LIST_UPDATE", items, key, values=[data, entry], ns=ns)
        if kind == 7:
            self.maps.setdefault(at, {})[entry] = data
            return op("MAP_PUT", table, key, map_key=entry, value=data, ns=ns)
        if kind == 8:
            self.maps.get(at, {}).pop(entry, None)
            return op("MAP_REMOVE", table, key, map_key=entry, ns=ns)
        kept, state = rng.choice(((self.values, value), (self.sums, total), (self.lists, items), (self.maps, table)))
        kept.pop(at, None)
        return op("CLEAR", state, key, ns=ns)

    def check(self, client, ref, ids, where):
        """Reads everything back and compares."""
        value, total, items, table = ids
        places = [(key, ns) for key in KEYS for ns in NAMESPACES]
        for kind, state, expected in (
            ("GET", value, lambda at: self.values.get(at, b"")),
            ("GET", total, lambda at: i64(self.sums[at]) if at in self.sums else b""),
            ("LIST_GET", items, lambda at: self.lists.get(at, [])),
            ("MAP_ENTRIES", table, lambda at: sorted(self.maps.get(at, {}).items())),
        ):
            found = client.read(ref, *[op(kind, state, key, ns=ns) for key, ns in places])
            assert len(found) == len(places)
            for at, result in zip(places, found):
                if kind == "GET":
                    seen = result.value
                else:
                    seen = list(result.elements) or [(e.key, e.value) for e in result.entries]
                assert seen == expected(at), f"{where}: {kind} of {at}: {seen!r} is not {expected(at)!r}"


def write_until_killed(rng, client, ref, ids, model, first, restorable, models):
    """Writes batches and barriers until the stream breaks. Fills `models` by checkpoint and `restorable` by handle."""
    number, session = first, None
    try:
        session = client.session(ref)
        while True:
            for _ in range(rng.randrange(1, 6)):
                session.batch(*[model.change(rng, ids) for _ in range(rng.randrange(1, 30))])
            if rng.random() < 0.7:
                number += 1
                models[number] = copy.deepcopy(model)
                session.barrier(number, attachment=b"offset %d" % number)
            wanted = number if rng.random() < 0.5 else number - 6
            while any(n <= wanted and n not in restorable for n in range(first + 1, number + 1)):
                done = session.next("checkpoint_completed")
                restorable[done.checkpoint.checkpoint_id] = done.handle
                if rng.random() < 0.5:
                    session.notify("COMPLETE", done.checkpoint)
    except (AssertionError, grpc.RpcError):
        pass
    # What had arrived before the stream broke was promised too.
    for kind, message in session.stash if session else ():
        if kind == "checkpoint_completed":
            restorable[message.checkpoint.checkpoint_id] = message.handle
    return number


def survive(world, seed, rounds):
    rng = random.Random(seed)
    daemon = world.start()
    store, number, model = daemon.store, 0, Model()
    models, restorable = {0: Model()}, {}
    for attempt in range(1, rounds + 2):
        client = world.client(daemon)
        where = f"seed {seed}, attempt {attempt}"
        newest = max(restorable, default=0)
        restore = restore_latest()
        if restorable and rng.random() < 0.3:
            restore = rng.choice((restore_id(newest), restore_handles(restorable[newest])))
        opened = client.open(world.job, attempt=attempt, restore=restore, retention=retain(4))
        restored = opened.checkpoint.checkpoint_id
        assert restored >= newest, f"{where}: {newest} was promised, {restored} came back"
        assert restored in models, f"{where}: {restored} never was"
        assert opened.attachment == (b"offset %d" % restored if restored else b"")
        ids = client.register(opened.backend, *STATES)
        model = copy.deepcopy(models[restored])
        model.check(client, opened.backend, ids, f"{where}, checkpoint {restored}")
        if attempt > rounds:
            break
        number = max(number, restored)
        restorable = {}
        delay = rng.choice((0.01, 0.05, 0.2, 0.5)) * rng.random() + 0.005
        killer = threading.Timer(delay, daemon.kill)
        killer.start()
        number = write_until_killed(rng, client, opened.backend, ids, model, number, restorable, models)
        killer.join()
        daemon = world.start(store=store)
    return len(models)


@scenario
def kill_9_at_random_moments_loses_nothing_that_was_promised(world):
    survive(world, 1, 6)


@scenario
def kill_9_with_another_seed_loses_nothing_that_was_promised(world):
    survive(world, 2, 6)


@scenario
def kill_9_with_a_fresh_seed_loses_nothing_that_was_promised(world):
    survive(world, int(time.time()), 6)


@scenario
def kill_9_while_a_backend_opens_leaves_it_restorable(world):
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    for number in range(1, 4):
        client.apply(ref, *[put(state, b"%d" % k, b"x" * 20_000) for k in range(100)], put(state, b"k", b"%d" % number))
        client.checkpoint(ref, number, attachment=b"%d" % number)
    daemon.kill()
    for attempt in range(2, 7):
        broken = world.start(store=daemon.store)
        client = world.client(broken)
        call = client.stub.Open(client.open_request(world.job, attempt=attempt), timeout=20)
        time.sleep(0.003 * attempt)
        broken.kill()
        call.cancel()
    client = world.client(world.start(store=daemon.store))
    opened = client.open(world.job, attempt=9)
    assert opened.checkpoint.checkpoint_id == 3 and opened.attachment == b"3"
    (found,) = client.read(opened.backend, get(state, b"k"))
    assert found.value == b"3"
    with refused("REASON_FENCED"):
        client.open(world.job, attempt=8)


@scenario
def the_example_counts_exactly_once_over_kills_of_itself_and_the_daemon(world):
    rng = random.Random(7)
    words = [b"w%d" % number for number in range(2000)]
    text = world.folder / "text"
    text.parent.mkdir(parents=True)
    lines = [b" ".join(rng.choices(words, k=6)) for _ in range(30_000)]
    text.write_bytes(b"\n".join(lines))
    daemon = world.start()
    example = str(ROOT / "examples/python/wordcount.py")
    for attempt in range(1, 10):
        command = [sys.executable, example, str(daemon.socket), str(attempt), str(text)]
        task = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if attempt <= 4:
            time.sleep(0.6 + rng.random())
            task.kill()
            if attempt % 2:
                daemon.kill()
                daemon = world.start(store=daemon.store)
        said, complaint = task.communicate(timeout=60)
        if task.returncode == 0:
            break
    counts = collections.Counter(word for line in lines for word in line.split())
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    found = [(line.split()[1], int(line.split()[0])) for line in said.splitlines()]
    assert found == expected, (attempt, found, expected, complaint)
