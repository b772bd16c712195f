"""Backends that write and checkpoint for a while: `load.py STORE_URL BACKENDS SECONDS [SETTING…]`, in the environment of the client for Python.

Then the daemon is killed, another one restores all, and what each has is compared with what it wrote. Prints JSON: how many
checkpoints there were, how long the slowest took, and the requests by outcome.
"""

import json
import sys
import threading
import time

import dstl
from serving import Serving

KEYS = 50
PAUSE_SECONDS = 0.2


class Writer(threading.Thread):
    """The only task of its job."""

    def __init__(self, client, number, end):
        super().__init__()
        # A job of its own: the tasks of one would have to begin with the same checkpoint.
        self.client, self.job, self.end = client, f"load-{number}", end
        self.rounds, self.durations, self.handle, self.error = 0, [], None, None

    def run(self):
        try:
            with self.client.open(self.job, "op", attempt=1) as backend:
                counts = backend.value_state("counts", dstl.INT64, dstl.INT64)
                with backend.session() as session:
                    self.round(counts, session)
                    while time.monotonic() < self.end:
                        self.round(counts, session)
        except BaseException as error:
            self.error = error

    def round(self, counts, session):
        self.rounds += 1
        counts.put_many(list(range(KEYS)), [self.rounds] * KEYS)
        begun = time.monotonic()
        completed = session.checkpoint(self.rounds)
        self.durations.append(time.monotonic() - begun)
        session.complete(completed)
        self.handle = completed.handle
        time.sleep(PAUSE_SECONDS)


def main():
    store, backends, seconds, *settings = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    with Serving(store, settings) as serving, serving.client() as client:
        writers = [Writer(client, number, end) for number in range(int(backends))]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        failed = [repr(writer.error) for writer in writers if writer.error]
        assert not failed, failed
        outcomes = serving.requests()[1]
        paced = [line.split()[1] for line in serving.metrics().splitlines() if line.startswith("dstl_object_paced_seconds_total ")]
    with Serving(store, settings) as serving, serving.client() as client:
        for writer in writers:
            restore = dstl.Restore.handles([writer.handle])
            with client.open(writer.job, "op", attempt=2, restore=restore) as backend:
                counts = backend.value_state("counts", dstl.INT64, dstl.INT64)
                with backend.session():
                    found = counts.get_many(list(range(KEYS)))
                    assert found == [writer.rounds] * KEYS, (writer.job, writer.rounds, found)
    durations = [duration for writer in writers for duration in writer.durations]
    print(json.dumps({
        "checkpoints": len(durations), "slowest": round(max(durations), 3), "outcomes": outcomes, "paced_seconds": float(paced[0]),
    }))


if __name__ == "__main__":
    main()
