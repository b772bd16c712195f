"""Outages of the store as an operator sees them: checkpoints wait, nothing fails, and the first one after it is whole."""

import time
import urllib.request

from support import PATIENCE, descriptor, get, objects, put, restore_id
from world import scenario


def answers(daemon, path):
    with urllib.request.urlopen(f"http://{daemon.admin}{path}", timeout=10) as answer:
        return answer.status == 200


@scenario
def a_store_that_is_not_mounted_for_a_while_makes_checkpoints_late_and_loses_nothing(world):
    daemon = world.start(settings=["state.changelog.dstl.dfs.upload.next-attempt-delay=20 ms"])
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"before", b"1"))
    session.checkpoint(1)
    before = objects(daemon.store)
    away = daemon.store.with_name("away")
    daemon.store.rename(away)
    for number in range(2, 12):
        session.batch(put(state, b"key", b"%d" % number))
        session.barrier(number)
        if number == 6:
            # The mount point under the file system.
            daemon.store.mkdir()
        time.sleep(0.2)
        assert session.read(get(state, b"key"))[0].value == b"%d" % number
        assert answers(daemon, "/live") and answers(daemon, "/ready")
    session.wait("applied", 11)
    assert session.ack.persisted_to <= 1 and not objects(daemon.store), "nothing is written elsewhere"
    daemon.store.rmdir()
    away.rename(daemon.store)
    handles = {}
    while len(handles) < 10:
        done = session.next("checkpoint_completed")
        handles[done.checkpoint.checkpoint_id] = done.handle
    assert sorted(handles) == list(range(2, 12)), "late, but all of them"
    assert before.items() <= objects(daemon.store).items()
    daemon.kill()
    daemon.start()
    client = world.client(daemon)
    for attempt, number in ((2, 11), (3, 11)):
        ref = client.open(world.job, attempt=attempt, restore=restore_id(number)).backend
        found = client.read(ref, get(state, b"before"), get(state, b"key"))
        assert [value.value for value in found] == [b"1", b"11"]


@scenario
def an_open_waits_for_a_store_that_is_not_mounted(world):
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    client.apply(ref, put(state, b"key", b"1"))
    client.checkpoint(ref, 1)
    client.end(ref)
    away = daemon.store.with_name("away")
    daemon.store.rename(away)
    daemon.store.mkdir()
    opening = client.stub.Open(client.open_request(world.job, attempt=2), timeout=PATIENCE)
    time.sleep(1.5)
    daemon.store.rmdir()
    away.rename(daemon.store)
    ref = list(opening)[-1].opened.backend
    assert client.read(ref, get(state, b"key"))[0].value == b"1", "an empty directory is no empty state"
