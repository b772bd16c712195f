"""Random operations on all kinds of state, beside a plain model; restores, breaks and kills in between, on both inner backends."""

import copy
import os
import random

import pytest

import dstl
from dstl.testing import Daemon

SEED = int(os.environ.get("DSTL_SEED", "0")) or random.randrange(1 << 32)
STEPS = 250


class Model:
    """What the states should have."""

    def __init__(self):
        self.values, self.sums, self.maps, self.lists, self.timers, self.longest, self.queue = {}, {}, {}, {}, set(), {}, []


class Task:
    """States of one attempt."""

    def __init__(self, client, job, attempt, inner, restore=None):
        self.backend = client.open(job, "op", attempt=attempt, inner=inner, retain=2, restore=restore)
        backend = self.backend
        self.values = backend.value_state("values", dstl.INT64, dstl.JSON)
        self.sums = backend.merging_state("sums", dstl.STR, dstl.SUM_I64, namespace=dstl.INT64)
        self.maps = backend.map_state("maps", dstl.STR, dstl.ORDERED_INT64, dstl.STR)
        self.lists = backend.list_state("lists", dstl.STR, dstl.FLOAT64)
        self.timers = backend.timer_state("timers", dstl.STR, namespace=dstl.STR)
        self.longest = backend.reducing_state("longest", dstl.STR, dstl.STR, lambda a, b: max(a, b, key=len))
        self.queue = backend.operator_list("queue", dstl.INT64)
        self.session = backend.session()

    def check(self, model):
        assert {key: self.values.get(key) for key in self.values.keys()} == model.values
        stored = [(at.key, at.namespace) for at in self.sums.all_keys(page=3)]
        assert {at: self.sums.in_namespace(at[1]).get(at[0]) for at in stored} == model.sums
        assert {key: dict(self.maps.entries(key, page=2)) for key in self.maps.keys()} == model.maps
        for key, entries in model.maps.items():
            assert [at for at, _ in self.maps.entries(key)] == sorted(entries)
        assert {key: self.lists.get(key) for key in self.lists.keys()} == model.lists
        assert [(t.time, t.key, t.namespace) for t in self.timers.due(1 << 62, page=3)] == sorted(model.timers)
        assert {key: self.longest.get(key) for key in self.longest.values.keys()} == model.longest
        assert self.queue.get(None) == model.queue


def step(chance, task, model):
    """One random operation, or several in a batch."""
    key, number = chance.choice("abcde"), chance.randrange(-9, 9)
    what = chance.randrange(14)
    if what == 0:
        keys = [chance.randrange(40) for _ in range(chance.randrange(1, 60))]
        task.values.put_many(keys, [{"v": at} for at in keys])
        model.values.update({at: {"v": at} for at in keys})
    elif what == 1:
        task.values.put(number, [number])
        model.values[number] = [number]
    elif what == 2:
        task.values.clear_many([number, number + 1])
        for at in (number, number + 1):
            model.values.pop(at, None)
    elif what == 3:
        window = chance.randrange(4)
        keys = [chance.choice("abcde") for _ in range(5)]
        task.sums.in_namespace(window).merge_many(keys, [number] * 5)
        for at in keys:
            model.sums[at, window] = model.sums.get((at, window), 0) + number
    elif what == 4:
        task.sums.in_namespace(9).merge_namespaces(key, [0, 1])
        found = [model.sums.pop((key, window)) for window in (9, 0, 1) if (key, window) in model.sums]
        if found:
            model.sums[key, 9] = sum(found)
    elif what == 5:
        task.maps.put(key, number, str(number))
        model.maps.setdefault(key, {})[number] = str(number)
    elif what == 6:
        task.maps.remove(key, number)
        model.maps.get(key, {}).pop(number, None)
        model.maps = {at: entries for at, entries in model.maps.items() if entries}
    elif what == 7:
        task.lists.add_all(key, [number / 2, 0.25])
        model.lists.setdefault(key, []).extend([number / 2, 0.25])
    elif what == 8:
        task.lists.update(key, [1.5] * chance.randrange(3))
        model.lists[key] = task.lists.get(key)
        model.lists = {at: elements for at, elements in model.lists.items() if elements}
    elif what == 9:
        task.timers.in_namespace(key).register(key, number)
        model.timers.add((number, key, key))
    elif what == 10:
        fired, more = task.timers.fire(number, 2)
        due = sorted(at for at in model.timers if at[0] <= number)
        assert ([(t.time, t.key, t.namespace) for t in fired], more) == (due[:2], len(due) > 2)
        model.timers -= set(due[:2])
    elif what == 11:
        task.longest.add_all([(key, "x" * abs(number)), (key, "")])
        model.longest[key] = max(model.longest.get(key, ""), "x" * abs(number), key=len)
    elif what == 12:
        task.queue.add(None, number)
        model.queue.append(number)
    else:
        batch = task.session.batch()
        slot = batch.get(task.values, number)
        batch.put(task.values, number, "batch")
        batch.clear(task.lists, key)
        assert task.session.send(batch).applied()[slot] == model.values.get(number)
        model.values[number] = "batch"
        model.lists.pop(key, None)


@pytest.mark.parametrize("other", [dstl.Inner.HASHMAP, dstl.Inner.ROCKSDB], ids=["hashmap", "rocksdb"])
def test_states_are_those_of_the_model_whatever_breaks(inner, other):
    chance = random.Random(SEED)
    print(f"DSTL_SEED={SEED}")
    with Daemon() as daemon:
        client = daemon.client()
        attempt, checkpoint_id = 1, 0
        model, saved, last = Model(), Model(), None
        task = Task(client, "model", attempt, inner)
        for _ in range(STEPS):
            what = chance.random()
            if what < 0.94:
                step(chance, task, model)
            elif what < 0.97:
                checkpoint_id += 1
                last = task.session.checkpoint(checkpoint_id)
                task.session.complete(last)
                saved = copy.deepcopy(model)
            else:
                # The last completed checkpoint comes back; the inner backend may be another one.
                attempt += 1
                if chance.random() < 0.4:
                    daemon.kill()
                    daemon.start()
                    task.session.abort()
                elif chance.random() < 0.5:
                    task.backend.close()
                inner = chance.choice([inner, other])
                restore = dstl.Restore.handles([last.handle]) if last and chance.random() < 0.3 else None
                task = Task(client, "model", attempt, inner, restore)
                model = copy.deepcopy(saved)
                task.check(model)
        task.check(model)
        task.session.close()
        client.close()
