"""Barriers, what they return, notices, retention and pins."""

import re
import time

from operations import opened
from support import (
    check_refusal,
    checkpoint_pb2,
    descriptor,
    eventually,
    get,
    objects,
    outage,
    put,
    refused,
    restore_handles,
    restore_id,
    retain,
    service_pb2,
)
from world import scenario

# Notices alone are written to the store within this.
NOTICE_SECONDS = 7


def identity(ref, number, uuid=b""):
    return checkpoint_pb2.CheckpointIdentity(epoch=ref.epoch.number, checkpoint_id=number, handle_uuid=uuid)


def pin(client, ref, checkpoint):
    client.call("Pin", service_pb2.PinRequest(backend=ref, checkpoint=checkpoint))


def release(client, ref, checkpoint):
    return client.call("Release", service_pb2.ReleaseRequest(backend=ref, checkpoint=checkpoint)).released


@scenario
def a_barrier_cuts_exactly_between_what_was_sent_before_and_after_it(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    for number in range(1, 21):
        session.batch(put(state, b"k", b"before %d" % number), put(state, b"only %d" % number, b""))
        session.barrier(number, attachment=b"offset %d" % number)
        session.batch(put(state, b"k", b"after %d" % number))
    done = {}
    for _ in range(20):
        completed = session.next("checkpoint_completed")
        done[completed.checkpoint.checkpoint_id] = completed
        assert len(completed.handle) <= 1024 and len(completed.checkpoint.handle_uuid) == 16
        assert completed.applied_to == 2 * completed.checkpoint.checkpoint_id - 1
        assert completed.incremental_bytes > 0 and completed.full_bytes > 0 and completed.changes in (2, 3)
        parts = completed.sync_ms + completed.persist_ms + completed.publish_ms
        assert 0 <= parts <= completed.total_ms + 0.1, completed
    assert sorted(done) == list(range(1, 21))
    session.wait("persisted", 39)
    session.finish()
    for attempt, number in enumerate((7, 20, 1), start=2):
        again = client.open(world.job, attempt=attempt, restore=restore_handles(done[number].handle), retention=retain())
        assert again.attachment == b"offset %d" % number and again.checkpoint == done[number].checkpoint
        found = client.read(
            again.backend,
            get(state, b"k"),
            get(state, b"only %d" % number),
            get(state, b"only %d" % (number + 1)),
        )
        assert [f.value for f in found][0] == b"before %d" % number
        assert found[1].found and not found[2].found


@scenario
def attachments_come_back_byte_for_byte_up_to_their_limit(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    full = bytes(range(256)) * 256
    assert len(full) == 64 << 10
    session = client.session(ref)
    session.checkpoint(1, attachment=full)
    session.barrier(2, attachment=full + b"!")
    check_refusal(session.failed(2), "REASON_LIMIT_EXCEEDED", 65537, 65536, scope="SCOPE_BATCH")
    session.checkpoint(2, attachment=b"")
    session.finish()
    with refused("REASON_LIMIT_EXCEEDED"):
        client.checkpoint(ref, 3, attachment=full + b"!")
    assert client.open(world.job, attempt=2, restore=restore_id(1)).attachment == full
    assert client.open(world.job, attempt=3, restore=restore_id(2)).attachment == b""


@scenario
def ids_out_of_order_are_refused_and_cut_nothing(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    session.barrier(0)
    check_refusal(session.failed(0), "REASON_INVALID_ARGUMENT")
    session.checkpoint(10)
    for number in (10, 9, 1):
        session.barrier(number)
        check_refusal(session.failed(number), "REASON_CHECKPOINT_OUT_OF_ORDER", number, 10)
    session.batch(put(state, b"k", b"v"))
    session.checkpoint(11)
    session.finish()
    for number in (0, 11):
        reason = "REASON_CHECKPOINT_OUT_OF_ORDER" if number else "REASON_INVALID_ARGUMENT"
        with refused(reason):
            client.checkpoint(ref, number)
    assert client.open(world.job).last_checkpoint_id == 11
    again = client.open(world.job, attempt=2)
    client.checkpoint(again.backend, 1)  # ids begin anew with an attempt
    assert client.retained(again.backend)[-1] == 1


@scenario
def of_more_checkpoints_than_allowed_at_once_the_oldest_and_the_newest_go_on(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    most = client.call("Hello", service_pb2.HelloRequest()).limits.max_concurrent_checkpoints
    session = client.session(ref)
    with outage(world.daemon, world.job):
        for number in range(1, most + 41):
            session.batch(put(state, b"k", b"%d" % number))
            session.barrier(number)
        for number in range(2, 42):
            check_refusal(session.failed(number), "REASON_TOO_MANY_CHECKPOINTS", number, scope="SCOPE_BATCH")
    for number in (1, *range(42, most + 41)):
        assert session.next("checkpoint_completed").checkpoint.checkpoint_id == number
    session.finish()


@scenario
def a_checkpoint_that_is_late_times_out_and_loses_no_change(world):
    daemon = world.start(settings=["state.changelog.dstl.dfs.upload.next-attempt-delay=20 ms"])
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"a", b"1"))
    session.checkpoint(1)
    with outage(daemon, world.job):
        session.batch(put(state, b"b", b"2"))
        begun = time.monotonic()
        session.barrier(2, timeout_ms=300)
        check_refusal(session.failed(2), "REASON_CHECKPOINT_TIMEOUT", 2, scope="SCOPE_BATCH")
        assert 0.25 < time.monotonic() - begun < 5
        with refused("REASON_CHECKPOINT_TIMEOUT"):
            client.checkpoint(ref, 3, timeout_ms=200)
        session.batch(put(state, b"c", b"3"))
        session.wait("applied", 3)
    done = session.checkpoint(4)
    assert done.applied_to == 3 and done.changes == 1
    session.finish()
    again = client.open(world.job, attempt=2, restore=restore_id(4))
    found = client.read(again.backend, *[get(state, key) for key in (b"a", b"b", b"c")])
    assert [f.value for f in found] == [b"1", b"2", b"3"]


@scenario
def notices_of_every_kind_are_idempotent_whenever_they_come(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    client.end(ref)
    ref = client.open(world.job, attempt=2, restore=None, retention=retain()).backend
    assert client.register(ref, descriptor("v")) == [state]
    session = client.session(ref)
    done = {}
    for number in range(1, 8):
        session.batch(put(state, b"k", b"%d" % number))
        done[number] = session.checkpoint(number).checkpoint
    assert session.notify("COMPLETE", done[2]) == "DONE"
    session.wait("confirmed", 2)
    assert session.notify("COMPLETE", done[2]) == "UNCHANGED"
    assert session.notify("COMPLETE", done[1]) == "DONE", "late, after a newer one"
    assert session.ack.confirmed_to == 2, "never goes back"
    assert session.notify("ABORT", done[3]) == "DONE" and session.notify("ABORT", done[3]) == "UNKNOWN"
    assert session.notify("COMPLETE", done[3]) == "UNKNOWN"
    assert client.retained(ref) == [1, 2, 4, 5, 6, 7]
    assert session.notify("SUBSUME", done[4]) == "DONE" and session.notify("SUBSUME", done[4]) == "UNKNOWN"
    assert session.notify("SUBSUME", done[2]) == "UNKNOWN"
    assert client.retained(ref) == [5, 6, 7]
    assert session.notify("DISCARD", done[6]) == "DONE" and session.notify("DISCARD", done[6]) == "UNKNOWN"
    assert client.retained(ref) == [5, 7]
    for kind in ("COMPLETE", "ABORT", "SUBSUME", "DISCARD"):
        for stranger in (
            identity(ref, 7, bytes(16)),
            identity(ref, 99),
            identity(ref, 0),
            checkpoint_pb2.CheckpointIdentity(epoch=ref.epoch.number + 1, checkpoint_id=7),
            checkpoint_pb2.CheckpointIdentity(),
        ):
            assert session.notify(kind, stranger) == "UNKNOWN" == client.notify(ref, kind, stranger)
    assert client.retained(ref) == [5, 7]
    assert client.notify(ref, "COMPLETE", identity(ref, 5)) == "DONE", "epoch and id are enough"
    assert client.notify(ref, "COMPLETE", done[5]) == "UNCHANGED"
    with refused("REASON_INVALID_ARGUMENT"):
        client.notify(ref, "UNSPECIFIED", done[5])
    with refused("REASON_INVALID_ARGUMENT", "handle_uuid"):
        client.notify(ref, "COMPLETE", identity(ref, 5, b"short"))
    with refused("REASON_INVALID_ARGUMENT", "checkpoint"):
        client.call("Notify", service_pb2.NotifyRequest(backend=ref, notice=checkpoint_pb2.Notice(kind=1)))
    session.send(notice=checkpoint_pb2.Notice(kind=1))
    assert session.next("error").reason == 1
    session.finish()
    newer = client.open(world.job, attempt=3, restore=restore_id(7)).backend
    kept = client.retained(newer)
    assert {5, 7} <= set(kept)
    for number in kept:
        with refused("REASON_FENCED"):
            client.notify(ref, "DISCARD", done[number])
    assert client.retained(newer) == kept, "a notice of an old attempt changes nothing"
    assert client.notify(newer, "DISCARD", done[5]) == "DONE", "a new owner may speak of its forerunner's checkpoints"


@scenario
def an_aborted_checkpoint_in_flight_fails_and_its_changes_go_into_the_next(world):
    delay = "state.changelog.dstl.dfs.batch.persist-delay=600 ms"
    client = world.client(world.start(settings=[delay]))
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"a", b"1"))
    session.barrier(1)
    session.notify("ABORT", identity(ref, 1))
    check_refusal(session.failed(1), "REASON_CHECKPOINT_ABORTED", 1, scope="SCOPE_BATCH")
    done = session.checkpoint(2)
    assert done.applied_to == 1
    session.finish()
    assert client.retained(ref) == [2]
    again = client.open(world.job, attempt=2, restore=restore_id(2))
    (found,) = client.read(again.backend, get(state, b"a"))
    assert found.value == b"1"


@scenario
def retention_by_count_keeps_the_newest_completed(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    client.end(ref)
    ref = client.open(world.job, attempt=2, retention=retain(2)).backend
    assert client.register(ref, descriptor("v")) == [state]
    handles = {}
    for number in range(1, 6):
        client.apply(ref, put(state, b"k", b"%d" % number))
        done = client.checkpoint(ref, number)
        handles[number] = done.handle
        assert client.notify(ref, "COMPLETE", done.checkpoint) == "DONE"
    assert client.retained(ref) == [4, 5]
    client.checkpoint(ref, 6)
    assert client.retained(ref) == [4, 5, 6], "what is not completed does not count"
    client.end(ref)
    with refused("REASON_CHECKPOINT_NOT_FOUND", "4, 5, 6"):
        client.open(world.job, attempt=3, restore=restore_handles(handles[3]))
    again = client.open(world.job, attempt=3, restore=restore_handles(handles[4]), retention=retain(2))
    (found,) = client.read(again.backend, get(state, b"k"))
    assert found.value == b"4"


@scenario
def a_pinned_checkpoint_outlives_its_retention_until_it_is_released(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    client.end(ref)
    ref = client.open(world.job, attempt=2, retention=retain(1)).backend
    assert client.register(ref, descriptor("v")) == [state]
    client.apply(ref, put(state, b"k", b"1"))
    first = client.checkpoint(ref, 1).checkpoint
    pin(client, ref, first)
    pin(client, ref, first)
    for number in (2, 3):
        client.apply(ref, put(state, b"k", b"%d" % number))
        client.notify(ref, "COMPLETE", client.checkpoint(ref, number).checkpoint)
    assert client.retained(ref) == [1, 3]
    assert [c.pinned for c in client.describe(ref).checkpoints] == [True, False]
    assert client.notify(ref, "DISCARD", first) == "PINNED"
    ref = client.open(world.job, attempt=3, restore=restore_id(1), retention=retain(1)).backend
    (found,) = client.read(ref, get(state, b"k"))
    assert found.value == b"1", "the pin outlives its owner"
    assert release(client, ref, first) and not release(client, ref, first)
    for name in ("Pin", "Release"):
        request = getattr(service_pb2, name + "Request")(backend=ref, checkpoint=identity(ref, 77))
        if name == "Pin":
            with refused("REASON_CHECKPOINT_NOT_FOUND", 77):
                client.call(name, request)
        else:
            assert not client.call(name, request).released


def created(names):
    """The numbers of the newest segment and manifest of each folder."""
    newest = {}
    for path in names:
        found = re.search(r"^(.*)/(segments/[^/]+|manifest)/(\d+)$", path)
        if found:
            key = (found[1], found[2])
            newest[key] = max(newest.get(key, 0), int(found[3]))
    return newest


@scenario
def eight_backends_of_one_job_share_segments_and_make_few_objects(world):
    daemon = world.start()
    clients = [world.client(daemon) for _ in range(8)]
    sessions, states = [], []
    for subtask, client in enumerate(clients):
        ref = client.open(world.job, subtask=subtask, parallelism=8, key_group_assignment=2).backend
        (state,) = client.register(ref, descriptor("v"))
        states.append((state, subtask * 16))
        sessions.append(client.session(ref))
    rounds, begun = 25, time.monotonic()
    for number in range(1, rounds + 1):
        for session, (state, group) in zip(sessions, states):
            session.batch(*[put(state, b"%d" % k, b"%d" % number, key_group=group) for k in range(20)])
            session.barrier(number)
        for session in sessions:
            done = session.next("checkpoint_completed")
            session.send(notice=checkpoint_pb2.Notice(kind=1, checkpoint=done.checkpoint))
        time.sleep(max(0.0, begun + number * 0.1 - time.monotonic()))
    seconds = time.monotonic() - begun
    newest = created(objects(daemon.store))
    segments = sum(number + 1 for (_, kind), number in newest.items() if kind.startswith("segments"))
    manifests = sum(number for (_, kind), number in newest.items() if kind == "manifest")
    assert segments <= rounds * 4, f"{segments} segments for {8 * rounds} checkpoints: hardly shared"
    assert manifests <= 8 * rounds + 64, f"{manifests} manifests for {8 * rounds} checkpoints"
    live = eventually("old objects are deleted", lambda: few(daemon.store, 200))
    print(f"       {segments / seconds:.0f} segments/s, {manifests / seconds:.0f} manifests/s, {live} objects live")
    for session in sessions:
        session.half_close()


def few(store, most):
    live = len(objects(store))
    return live if live <= most else 0


@scenario
def an_idle_daemon_writes_nothing(world):
    daemon = world.start()
    client = world.client(daemon)
    for subtask in range(3):
        ref = client.open(world.job, subtask=subtask, parallelism=3, key_group_assignment=2).backend
        (state,) = client.register(ref, descriptor("v"))
        client.apply(ref, put(state, b"k", b"v", key_group=subtask * 43))
        done = client.checkpoint(ref, 1)
        client.notify(ref, "COMPLETE", done.checkpoint)
        client.session(ref)
    time.sleep(NOTICE_SECONDS)
    before = objects(daemon.store)
    time.sleep(2)
    assert before == objects(daemon.store)
    assert before, "it has written before"
