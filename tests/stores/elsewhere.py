"""A restore by another host, and rescales: `elsewhere.py STORE_URL`, in the environment of the client for Python; DSTL_BIN names dstl.

A host is a daemon with a data folder of its own: dstl knows another by nothing else. Each one is killed at once when it has written, and the
next one finds its work in the store alone. Every entry is compared with a plain dictionary.
"""

import random
import sys

import dstl
from dstl.testing import Daemon

KEYS = 600
# By how many subtasks the state is held, host after host: as it was, more, fewer, as it was.
PARALLELISMS = [2, 2, 3, 1, 1]
SETTINGS = ["state.changelog.periodic-materialize.interval=1h"]


def open_all(client, inner, job, attempt, parallelism, restore):
    for subtask in range(parallelism):
        backend = client.open(
            job, "op", subtask=subtask, parallelism=parallelism, max_parallelism=128, attempt=attempt, inner=inner, restore=restore
        )
        yield backend, backend.value_state("values", dstl.INT64, dstl.STR), backend.map_state("maps", dstl.INT64, dstl.STR, dstl.INT64)


def read(subtasks):
    """All that is there, of all subtasks; no key may be in two of them."""
    found = {}
    for backend, values, maps in subtasks:
        with backend.session():
            for key in values.keys():
                assert key not in found, f"{key} is in two subtasks"
                found[key] = (values.get(key), dict(maps.entries(key)))
    return found


def write(subtasks, model, chance, attempt):
    """Changes some of the state, and cuts a checkpoint after one materialization; gives the handles."""
    handles = []
    for backend, values, maps in subtasks:
        with backend.session() as session:
            for round in range(2):
                for key in chance.sample(range(KEYS), KEYS // 4):
                    value, field = f"{key} by {attempt} {round}", f"field {chance.randrange(3)}"
                    try:
                        values.put(key, value)
                    except dstl.WrongKeyGroupError:
                        continue
                    maps.put(key, field, attempt)
                    model[key] = (value, {**model.get(key, ("", {}))[1], field: attempt})
                if round == 0:
                    backend.materialize()
            handles.append(session.checkpoint(attempt, b"at %d" % attempt).handle)
            # In no checkpoint.
            for key in range(KEYS, KEYS + 20):
                try:
                    values.put(key, "lost")
                except dstl.WrongKeyGroupError:
                    continue
    return handles


def run(url, inner):
    chance, model, handles = random.Random(7), {}, None
    job = f"elsewhere-{inner.name.lower()}"
    for attempt, parallelism in enumerate(PARALLELISMS, 1):
        daemon = Daemon(settings=SETTINGS, store=url)
        try:
            with daemon, daemon.client() as client:
                restore = dstl.Restore.handles(handles) if handles else dstl.Restore.empty()
                subtasks = list(open_all(client, inner, job, attempt, parallelism, restore))
                assert read(subtasks) == model, f"attempt {attempt} restored something else"
                handles = write(subtasks, model, chance, attempt)
                daemon.kill()
        except BaseException:
            print(daemon.log.read_text(errors="replace")[-3000:] if daemon.log.exists() else "", file=sys.stderr)
            raise
    return len(model)


def main():
    for inner in (dstl.Inner.HASHMAP, dstl.Inner.ROCKSDB):
        entries = run(sys.argv[1], inner)
        assert entries > KEYS // 2
        print(f"{inner.name.lower()}: {len(PARALLELISMS)} hosts, {entries} keys", flush=True)


if __name__ == "__main__":
    main()
