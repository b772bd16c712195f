"""Savepoints: files that tools of others read, and that a job begins with elsewhere."""

import json
import shutil
import subprocess

import duckdb

from support import LIST, MAP, Refused, descriptor, op, put, refused, service_pb2, state_pb2
from world import scenario

MEMORY, DISK = service_pb2.INNER_BACKEND_HASHMAP, service_pb2.INNER_BACKEND_ROCKSDB
KEYS = [b"key %d" % number for number in range(300)]
DESCRIPTORS = [
    descriptor("value"),
    descriptor("list", LIST),
    descriptor("map", MAP),
    descriptor("timer", state_pb2.STATE_KIND_TIMER),
]


def tool(world, store, *arguments, code=0):
    """The answer of `dstl`, which looks at the store alone."""
    command = [world.binary, *arguments, "--store", f"file://{store}", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == code, ran
    return json.loads(ran.stdout) if code == 0 else ran.stderr


def write(client, ref, states, key, value):
    state, elements, entries, timers = states
    client.apply(
        ref,
        put(state, key, value),
        op("LIST_ADD_ALL", elements, key, values=[value, b"last"]),
        op("MAP_PUT", entries, key, map_key=b"entry", value=value),
        op("TIMER_REGISTER", timers, key, time=len(key)),
    )


def save(world, inner):
    """The store and path of a savepoint of checkpoint 1, the owner of which went on."""
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job, inner=inner).backend
    states = client.register(ref, *DESCRIPTORS)
    for key in KEYS:
        write(client, ref, states, key, b"1")
    client.checkpoint(ref, 1, attachment=b"offset")
    for key in KEYS[:10]:
        write(client, ref, states, key, b"2")
    made = tool(world, daemon.store, "savepoint", "create", world.job, "before-2.0")
    assert (made["savepoint"], made["checkpoint"]) == (f"{world.job}/savepoints/before-2.0", 1)
    write(client, ref, states, b"later", b"3")
    return daemon.store, made["savepoint"]


def duckdb_reads_it(world, inner):
    store, savepoint = save(world, inner)
    db = duckdb.connect()  # Its default connection is for one thread.
    files = f"'{store}/{savepoint}/*/*.parquet'"
    found = db.sql(f"select state, kind, key, map_key, list_index, value, time from {files}").fetchall()
    expected = set()
    for key in KEYS:
        expected |= {
            ("value", "value", key, None, None, b"1", None),
            ("list", "list", key, None, 0, b"1", None),
            ("list", "list", key, None, 1, b"last", None),
            ("map", "map", key, b"entry", None, b"1", None),
            ("timer", "timer", key, None, None, None, len(key)),
        }
    assert len(found) == len(expected) and set(found) == expected
    groups = db.sql(f"select key_group from {files}").fetchall()
    assert groups == sorted(groups), "rows are in order of their key groups"


@scenario
def duckdb_reads_a_savepoint_of_state_in_memory(world):
    duckdb_reads_it(world, MEMORY)


@scenario
def duckdb_reads_a_savepoint_of_state_on_disk(world):
    duckdb_reads_it(world, DISK)


def moved(world, inner, into):
    """A savepoint is copied to another store, below another job, which begins with it in two subtasks."""
    store, savepoint = save(world, inner)
    daemon = world.start(store=world.folder / "elsewhere")
    job = f"{world.job[:50]}-moved"
    shutil.copytree(f"{store}/{savepoint}", f"{daemon.store}/{job}/savepoints/copied")
    client, refs = world.client(daemon), []
    for subtask in range(2):
        restore = service_pb2.Restore(savepoint=f"{job}/savepoints/copied")
        opened = client.open(job, subtask=subtask, parallelism=2, inner=into, restore=restore)
        assert [part.attachment for part in opened.parts] == [b"offset"]
        refs.append((opened.backend, client.register(opened.backend, *DESCRIPTORS)))
    # Its backends need nothing of it any more.
    removed = tool(world, daemon.store, "savepoint", "rm", f"{job}/savepoints/copied")
    assert removed, removed
    for key in KEYS:
        answers = []
        for ref, (state, elements, entries, _) in refs:
            try:
                reads = op("GET", state, key), op("LIST_GET", elements, key), op("MAP_GET", entries, key, map_key=b"entry")
                answers.append(client.read(ref, *reads))
            except Refused as error:
                assert error.reason == "REASON_WRONG_KEY_GROUP", error
        ((value, elements, entry),) = answers
        assert (value.value, list(elements.elements), entry.value) == (b"1", [b"1", b"last"], b"1")
    counts = [client.read(ref, op("TIMER_COUNT", states[3], b""))[0].count for ref, states in refs]
    assert sum(counts) == len(KEYS) and all(counts), counts


@scenario
def a_savepoint_of_state_in_memory_goes_on_on_disk_elsewhere(world):
    moved(world, MEMORY, DISK)


@scenario
def a_savepoint_of_state_on_disk_goes_on_in_memory_elsewhere(world):
    moved(world, DISK, MEMORY)


@scenario
def a_damaged_savepoint_is_named_by_tools_and_open(world):
    store, savepoint = save(world, MEMORY)
    tool(world, store, "verify", savepoint)
    (file,) = (store / savepoint).glob("*/*.parquet")
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert file.name in tool(world, store, "verify", savepoint, code=1)
    client = world.client(world.start(store=store))
    with refused("REASON_CORRUPT_OBJECT", file.name):
        client.open("other", restore=service_pb2.Restore(savepoint=savepoint))
    file.unlink()
    with refused("REASON_MISSING_OBJECT", file.name):
        client.open("other", restore=service_pb2.Restore(savepoint=savepoint))
