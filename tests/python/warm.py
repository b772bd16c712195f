"""Warm restarts: a task that comes back to the daemon that still has its state."""

import shutil

from service import metrics
from support import MAP, descriptor, get, op, put, restore_id, restore_latest, service_pb2
from timers import TIMER
from world import scenario

WARM = ("execution.state-recovery.warm=true",)


def objects_of(daemon, job):
    """The folders of segments and snapshots."""
    folder = daemon.store / job
    return [path for path in (folder / "segments", *folder.glob("*/*/snapshot")) if path.exists()]


def come_back(world, client, daemon, attempt, restore):
    """Opens while nothing of the state is on the store."""
    hidden = [(path, path.with_name("hidden-" + path.name)) for path in objects_of(daemon, world.job)]
    for path, to in hidden:
        path.rename(to)
    opened = client.open(world.job, attempt=attempt, restore=restore)
    for path, to in hidden:
        if path.exists():
            shutil.copytree(to, path, dirs_exist_ok=True)
        else:
            to.rename(path)
    assert not opened.reconnected and opened.applied_to == 0, opened
    return opened


@scenario
def a_task_that_comes_back_to_its_daemon_has_its_checkpoint_without_the_store(world):
    daemon = world.start(settings=WARM)
    client = world.client(daemon)
    ref = client.open(world.job).backend
    kinds = descriptor("value"), descriptor("map", MAP), descriptor("timer", TIMER)
    value, map_state, timer = client.register(ref, *kinds)
    client.apply(
        ref,
        put(value, b"k", b"1"),
        op("MAP_PUT", map_state, b"k", map_key=b"m", value=b"1"),
        op("TIMER_REGISTER", timer, b"k", time=7),
    )
    done = client.checkpoint(ref, 1, attachment=b"offset 1")
    for attempt in (2, 3):
        client.apply(
            ref,
            put(value, b"k", b"lost"),
            put(value, b"other", b"lost"),
            op("MAP_REMOVE", map_state, b"k", map_key=b"m"),
            op("TIMER_DELETE", timer, b"k", time=7),
        )
        restore = restore_latest() if attempt == 2 else restore_id(1)
        opened = come_back(world, client, daemon, attempt, restore)
        assert opened.warm and not opened.not_warm and opened.checkpoint == done.checkpoint, opened
        assert opened.attachment == b"offset 1", opened
        ref = opened.backend
        entry, due = op("MAP_GET", map_state, b"k", map_key=b"m"), op("TIMERS", timer, b"", time=9)
        found = client.read(ref, get(value, b"k"), get(value, b"other"), entry, due)
        assert found[0].value == b"1" and not found[1].found and found[2].value == b"1", found
        assert [fires.time for fires in found[3].timers] == [7], found
    assert metrics(daemon)["dstl_restore_warm_total"] == 2
    client.apply(ref, put(value, b"k", b"2"))
    client.checkpoint(ref, 2)
    daemon.kill()
    client = world.client(world.start(settings=WARM))
    opened = client.open(world.job, attempt=4)
    assert not opened.warm and not opened.not_warm and opened.checkpoint.checkpoint_id == 2, opened
    found = client.read(opened.backend, get(value, b"k"), op("MAP_GET", map_state, b"k", map_key=b"m"))
    assert [answer.value for answer in found] == [b"2", b"1"], found


@scenario
def rocksdb_comes_back_from_local_disk_which_goes_with_the_daemon(world):
    settings = *WARM, "state.backend.type=rocksdb", "state.backend.rocksdb.localdir=" + str(world.folder / "disk")
    daemon = world.start(settings=settings)
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (value,) = client.register(ref, descriptor("value"))
    for number in range(100):
        client.apply(ref, put(value, b"k%d" % number, b"1" * 100))
    client.call("Materialize", service_pb2.MaterializeRequest(backend=ref))
    client.apply(ref, put(value, b"k1", b"2"))
    client.checkpoint(ref, 1)
    for attempt in (2, 3):
        client.apply(ref, put(value, b"k1", b"lost"), put(value, b"new", b"lost"))
        opened = come_back(world, client, daemon, attempt, restore_latest())
        assert opened.warm and not opened.not_warm and opened.restored_changes > 0, opened
        ref = opened.backend
        found = client.read(ref, get(value, b"k1"), get(value, b"k2"), get(value, b"new"))
        assert found[0].value == b"2" and found[1].value == b"1" * 100 and not found[2].found, found
    assert metrics(daemon)["dstl_restore_warm_total"] == 2 and metrics(daemon)["dstl_undo_bytes"] == 0
    disk = world.folder / "disk"
    (dead,) = disk.glob("dstl-*-*")
    assert list(dead.glob("copies*/objects/**/segments/*/*")), "the log is copied"
    daemon.kill()
    client = world.client(world.start(settings=settings))
    assert not dead.exists(), "nothing that is local outlives its daemon"
    opened = client.open(world.job, attempt=4)
    assert not opened.warm and not opened.not_warm, opened
    assert client.read(opened.backend, get(value, b"k1"))[0].value == b"2"


@scenario
def without_warm_restarts_the_store_is_read_and_open_says_why(world):
    client = world.client(world.start(settings=("execution.state-recovery.warm=false",)))
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    client.apply(ref, put(state, b"k", b"1"))
    client.checkpoint(ref, 1)
    client.apply(ref, put(state, b"k", b"lost"))
    opened = client.open(world.job, attempt=2)
    assert not opened.warm and "execution.state-recovery.warm" in opened.not_warm and opened.restored_changes == 1, opened
    assert client.read(opened.backend, get(state, b"k"))[0].value == b"1"
