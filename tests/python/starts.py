"""Starts by token, peers, runs, vouched handles and lingering: what an engine needs whose own numbers begin anew."""

import time

from support import descriptor, eventually, get, put, refused, restore_empty, restore_handles, service_pb2
from world import scenario

FEATURES = {
    "open.attempt-token",
    "open.peer-group",
    "open.run",
    "open.linger",
    "handles.vouched",
    "timers.count",
    "keys.key-group",
}


def vouched(*handles):
    return service_pb2.Restore(handles=service_pb2.Restore.Handles(handles=handles, vouched=True))


def start(client, job, token, **fields):
    return client.open(job, **({"attempt": 0, "attempt_token": token, "restore": restore_empty()} | fields))


def filled(client, ref, value):
    (state,) = client.register(ref, descriptor("v"))
    client.apply(ref, put(state, b"key", value))
    return state


def value(client, ref):
    (state,) = client.register(ref, descriptor("v"))
    (found,) = client.read(ref, get(state, b"key"))
    return found.value if found.found else None


@scenario
def what_is_built_is_in_hello(world):
    client = world.client(world.start())
    assert FEATURES <= set(client.call("Hello", service_pb2.HelloRequest()).features)


@scenario
def a_token_stands_for_the_next_attempt_of_the_job_whichever_daemon_sees_it_first(world):
    one, two = world.client(world.start()), world.client(world.start())
    before = one.open(world.job, attempt=7)
    assert before.attempt == 7
    opened = [
        start(one, world.job, b"start 1", operator="a"),
        start(two, world.job, b"start 1", operator="b"),
        start(two, world.job, b"start 2", operator="c"),
        start(one, world.job, b"start 1", operator="d"),
    ]
    assert [found.attempt for found in opened] == [8, 8, 9, 8]
    with refused("REASON_FENCED", "attempt 8"):
        start(one, world.job, b"start 1", operator="c")
    with refused("REASON_INVALID_ARGUMENT", "`attempt` 3", "attempt_token"):
        start(one, world.job, b"t", attempt=3)
    for field in ("attempt_token", "peer_group", "run"):
        with refused("REASON_INVALID_ARGUMENT", field, "at most 64"):
            one.open(world.job, **{"attempt": 0, field: b"x" * 65})


@scenario
def a_fresh_start_restores_though_its_attempt_runs_here(world):
    client = world.client(world.start())
    ref = start(client, world.job, b"graph/0").backend
    state = filled(client, ref, b"kept")
    done = client.checkpoint(ref, 1)
    client.apply(ref, put(state, b"key", b"rolled back"))
    found = start(client, world.job, b"graph/0", restore=restore_handles(done.handle))
    assert found.reconnected and value(client, found.backend) == b"rolled back"
    again = start(client, world.job, b"graph/0", restore=restore_handles(done.handle), fresh=True)
    assert not again.reconnected and again.attempt == found.attempt
    assert value(client, again.backend) == b"kept"
    with refused("REASON_FENCED"):
        client.apply(ref, put(state, b"key", b"late"))


@scenario
def peers_with_unequal_attempts_open_in_any_order(world):
    old, one, two = (world.client(world.start()) for _ in range(3))
    parts = [start(old, world.job, b"g1/0", subtask=n, parallelism=2, peer_group=b"g1") for n in (0, 1)]
    for part in parts:
        old.register(part.backend, descriptor("v"))
    handles = [old.checkpoint(part.backend, 1).handle for part in parts]
    opened = {}
    for subtask in (2, 1, 3, 0):
        client, number = ((one, 1) if subtask < 2 else (two, 0))
        opened[subtask] = client, start(
            client,
            world.job,
            b"g2/%d" % number,
            subtask=subtask,
            parallelism=4,
            peer_group=b"g2",
            fresh=True,
            restore=restore_handles(handles[subtask // 2]),
        )
    assert {part.attempt for _, part in opened.values()} == {2, 3}
    for client, part in opened.values():
        client.checkpoint(part.backend, 2)
    with refused("REASON_FENCED"):
        old.checkpoint(parts[1].backend, 2)


@scenario
def retention_by_count_stays_within_its_run(world):
    client = world.client(world.start())
    two = service_pb2.Retention(count=2)
    ref = client.open(world.job, attempt=1, run=b"first", retention=two).backend
    for number in (1, 2, 3):
        filled(client, ref, b"%d" % number)
        done = client.checkpoint(ref, number)
        client.notify(ref, "COMPLETE", done.checkpoint)
    assert client.retained(ref) == [2, 3]
    # In order, so that the last notice is in a manifest.
    assert client.end(ref)
    ref = client.open(world.job, attempt=2, run=b"second", retention=two, restore=restore_empty()).backend
    for number in (4, 5, 6):
        filled(client, ref, b"%d" % number)
        client.notify(ref, "COMPLETE", client.checkpoint(ref, number).checkpoint)
    assert client.retained(ref) == [2, 3, 5, 6]
    assert client.end(ref)
    again = client.open(world.job, attempt=3, run=b"first", retention=two, restore=restore_handles(done.handle)).backend
    assert value(client, again) == b"3"
    client.notify(again, "COMPLETE", client.checkpoint(again, 9).checkpoint)
    assert client.retained(again) == [3, 5, 6, 9]


@scenario
def vouched_handles_of_different_jobs_and_checkpoints_make_one_backend(world):
    client = world.client(world.start())
    given = service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN
    handles = []
    for subtask, job in enumerate((world.job, world.job + "-other")):
        fields = dict(subtask=subtask, parallelism=2, max_parallelism=128, key_group_assignment=given, attempt=1 + subtask)
        ref = client.open(job, **fields).backend
        (state,) = client.register(ref, descriptor("v"))
        client.apply(ref, put(state, b"key", b"of %d" % subtask, key_group=64 * subtask))
        handles.append(client.checkpoint(ref, 5 + subtask).handle)
    joined = dict(operator="joined", parallelism=1, max_parallelism=128, key_group_assignment=given, attempt=1)
    with refused("REASON_INVALID_ARGUMENT", "different operators"):
        client.open(world.job, restore=restore_handles(*handles), **joined)
    ref = client.open(world.job, restore=vouched(*handles), **joined).backend
    (state,) = client.register(ref, descriptor("v"))
    found = client.read(ref, *[get(state, b"key", key_group=group) for group in (0, 64)])
    assert [one.value for one in found] == [b"of 0", b"of 1"]
    half = client.open(world.job, restore=vouched(handles[1]), **(joined | dict(attempt=2))).backend
    (state,) = client.register(half, descriptor("v"))
    found = client.read(half, *[get(state, b"key", key_group=group) for group in (0, 64)])
    assert [one.found for one in found] == [False, True]


@scenario
def a_backend_that_lingers_ends_without_session_and_restores(world):
    client = world.client(world.start())
    opened = client.open(world.job, attempt=1, linger_ms=1500)
    filled(client, opened.backend, b"kept")
    done = client.checkpoint(opened.backend, 1)
    session = client.session(opened.backend)
    time.sleep(2.0)
    assert client.describe(opened.backend).attempt == 1, "it has a session"
    session.finish()

    def is_gone():
        return not client.call("Describe", service_pb2.DescribeRequest()).backends

    eventually("the backend ends", is_gone)
    with refused("REASON_BACKEND_NOT_OPEN"):
        client.checkpoint(opened.backend, 2)
    again = client.open(world.job, attempt=1, restore=restore_handles(done.handle))
    assert value(client, again.backend) == b"kept"
