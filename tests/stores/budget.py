"""Counts the requests of what a backend does, and compares them with the table of `docs/stores.md`: `budget.py STORE_URL DOCUMENT`.

In the environment of the client for Python. The counts are those of the metric `dstl_object_requests_total`.
"""

import pathlib
import sys

import dstl
from serving import Serving

OPERATIONS = ["create", "get", "get_range", "head", "list", "delete"]
# Nothing else may ask the store meanwhile; the change sets of backends whose barriers come together share a segment.
SETTINGS = ["gc.interval=0 s", "state.changelog.periodic-materialize.interval=1h", "state.changelog.dstl.dfs.batch.persist-delay=500 ms"]
TOGETHER, MANY = 4, 32


def documented(path):
    """The rows of the table, by their first column."""
    rows = {}
    for line in pathlib.Path(path).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(OPERATIONS) + 1 and all(cell.isdigit() or cell == "" for cell in cells[1:]):
            rows[cells[0]] = [int(cell or 0) for cell in cells[1:]]
    return rows


class Counter:
    def __init__(self, serving):
        self.serving, self.rows = serving, {}

    def count(self, what, action):
        before = self.serving.settled()[0]
        result = action()
        after = self.serving.settled()[0]
        self.rows[what] = [after.get(name, 0) - before.get(name, 0) for name in OPERATIONS]
        return result


class Task:
    """A backend with a state and a session."""

    def __init__(self, client, operator, attempt=1, **options):
        self.backend = client.open("budget", operator, attempt=attempt, retain=1, **options)
        self.state = self.backend.value_state("values", dstl.INT64, dstl.BYTES)
        self.session = self.backend.session()
        self.id = 0

    def checkpoint(self, kib):
        return self.finish(self.begin(kib))

    def begin(self, kib):
        if kib:
            self.state.put_many(list(range(kib)), [bytes([self.id % 251]) * 1000] * kib)
        self.id += 1
        return self.session.barrier(self.id)

    def finish(self, pending):
        completed = pending.completed()
        self.session.complete(completed)
        return completed

    def close(self):
        self.session.close()
        self.backend.close()


def measure(store):
    with Serving(store, SETTINGS) as serving, serving.client() as client:
        counter = Counter(serving)
        task = counter.count("a new backend opens", lambda: Task(client, "alone"))
        task.checkpoint(1)
        counter.count("a checkpoint with nothing new", lambda: task.checkpoint(0))
        counter.count("a checkpoint of 1 KiB of changes", lambda: task.checkpoint(1))
        counter.count("a checkpoint of 100 KiB of changes", lambda: task.checkpoint(100))
        counter.count(f"{MANY} checkpoints of 1 KiB, one after the other", lambda: [task.checkpoint(1) for _ in range(MANY)])
        tasks = [Task(client, f"together-{number}") for number in range(TOGETHER)]

        def together():
            for task, pending in [(task, task.begin(100)) for task in tasks]:
                task.finish(pending)

        together()
        counter.count(f"a checkpoint of {TOGETHER} backends of a job, 100 KiB each, at one time", together)
        counter.count("a materialization of 100 KiB of state", task.backend.materialize)
        handle = task.checkpoint(1).handle
        serving.settled()
    with Serving(store, SETTINGS) as serving, serving.client() as client:
        restore = dstl.Restore.handles([handle])
        counter.serving = serving
        counter.count("another daemon restores it", lambda: Task(client, "alone", attempt=2, restore=restore))
    return counter.rows


def main():
    store, document = sys.argv[1:]
    rows, expected = measure(store), documented(document)
    for what, counts in rows.items():
        print(f"| {what} | {' | '.join(map(str, counts))} |", flush=True)
    wrong = {what: (counts, expected.get(what)) for what, counts in rows.items() if not fits(counts, expected.get(what))}
    assert not wrong, f"counted, and documented: {wrong}"


def fits(counts, most):
    """Whether there are no more than the document says, and not so few that it says too much."""
    return most is not None and all(most // 2 <= count <= most for count, most in zip(counts, most))


if __name__ == "__main__":
    main()
