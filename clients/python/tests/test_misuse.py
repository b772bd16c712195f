"""Bad input: a clear exception, no hang, and nothing acknowledged is lost."""

import asyncio
import multiprocessing
import threading

import pytest

import dstl
from dstl._blocking.face import Reply, finish
from dstl._core.wire import Target
from dstl.proto import state_pb2
from dstl.testing import Daemon


@pytest.fixture
def inner():
    return dstl.Inner.HASHMAP


@pytest.fixture
def numbers(backend, session):
    return backend.value_state("numbers", dstl.STR, dstl.INT64)


@pytest.mark.parametrize(
    ("key", "value"),
    [(5, 1), (b"k", 1), (None, 1), ("k", "1"), ("k", 1.0), ("k", None), ("k", True), ("k", b"1"), ("k", [1])],
)
def test_wrong_types_are_type_errors_before_anything_is_sent(numbers, session, key, value):
    for put in (lambda: numbers.put(key, value), lambda: numbers.put_many([key], [value]), lambda: session.batch().put(numbers, key, value)):
        with pytest.raises(TypeError):
            put()
    numbers.put("k", 1)
    assert session.acknowledged.applied_to == 1


def test_numbers_beyond_64_bits_are_value_errors(numbers):
    for value in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(ValueError, match="64 bits"):
            numbers.put("k", value)


def test_what_is_beyond_a_limit_names_the_limit(client, backend, session, numbers):
    blobs = backend.value_state("blobs", dstl.BYTES, dstl.BYTES)
    maps = backend.map_state("maps", dstl.STR, dstl.BYTES, dstl.BYTES)
    lists = backend.list_state("lists", dstl.STR, dstl.BYTES)
    limits = client.limits
    long_key, long_value = bytes(limits.max_key_bytes + 1), bytes(limits.max_value_bytes + 1)
    for call, word in [
        (lambda: blobs.put(long_key, b""), "max-key-size"),
        (lambda: blobs.put(b"k", long_value), "max-value-size"),
        (lambda: blobs.put_many([b"k", long_key], [b"", b""]), "max-key-size"),
        (lambda: blobs.put_many([b"k"], [long_value]), "max-value-size"),
        (lambda: blobs.get_many([b"k", b""]), "empty key"),
        (lambda: blobs.put(b"", b""), "empty key"),
        (lambda: maps.put("k", long_key, b""), "max-key-size"),
        (lambda: lists.add("k", long_value), "max-value-size"),
        (lambda: lists.add_all("k", [bytes(1_000_000)] * 5), "operation"),
        (lambda: blobs.in_namespace(long_key), "max-key-size"),
        (lambda: session.barrier(1, bytes(limits.max_attachment_bytes + 1)), "attachment"),
    ]:
        with pytest.raises(dstl.LimitError, match=word):
            call()
        with pytest.raises(ValueError):
            call()
    batch = session.batch()
    for _ in range(6):
        batch.put(blobs, b"k", bytes(1_000_000))
    with pytest.raises(dstl.LimitExceededError, match="smaller"):
        session.send(batch)
    with pytest.raises(ValueError, match="2 keys and 1 values"):
        blobs.put_many([b"a", b"b"], [b""])
    assert blobs.put_many([], []).applied() == 0
    blobs.put(bytes(limits.max_key_bytes), bytes(limits.max_value_bytes))
    assert session.acknowledged.applied_to == 1


def test_a_rejected_operation_does_not_spoil_those_beside_it(backend, session, numbers):
    numbers.put("before", 1)
    wrong = Target(4711).one(state_pb2.OPERATION_KIND_PUT, b"k", None, b"v")
    failures = []

    def bad():
        try:
            session.operate(wrong, False, True, 4711)
        except dstl.UnknownStateError as error:
            failures.append(error)

    threads = [threading.Thread(target=bad) for _ in range(5)]
    threads += [threading.Thread(target=numbers.put, args=(f"k{number}", number)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(failures) == 5
    assert numbers.get_many([f"k{number}" for number in range(50)]) == list(range(50))


def test_a_rejected_batch_that_nobody_asked_about_is_raised_later(backend, session, numbers):
    batch = session.batch()
    batch._write(4711, Target(4711).one(state_pb2.OPERATION_KIND_PUT, b"k", None, b"v"))
    session.send(batch)
    numbers.put("k", 1)
    with pytest.raises(dstl.RejectedError) as rejected:
        session.barrier(1)
    assert isinstance(rejected.value.errors[0], dstl.UnknownStateError)
    assert session.checkpoint(1).id == 1
    batch = session.batch()
    batch._write(4711, Target(4711).one(state_pb2.OPERATION_KIND_PUT, b"k", None, b"v"))
    receipt = session.send(batch)
    with pytest.raises(dstl.UnknownStateError):
        receipt.applied()
    session.flush()
    session.close()


def test_use_after_close_is_a_closed_error(client, job):
    backend = client.open(job, "op", attempt=1)
    numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
    with pytest.raises(dstl.ClosedError, match="no session is open"):
        numbers.put("k", 1)
    session = backend.session()
    numbers.put("k", 1)
    session.close()
    session.close()
    for call in (lambda: numbers.put("k", 1), lambda: session.barrier(1), lambda: session.send(session.batch()), session.flush, session.persist):
        with pytest.raises(dstl.ClosedError):
            call()
    backend.close()
    with pytest.raises(dstl.BackendNotOpenError):
        backend.session()
    client.close()
    client.close()
    for call in (client.hello, backend.session, lambda: client.open(job, "op"), lambda: client.query(job, "op")):
        with pytest.raises(dstl.ClosedError):
            call()


def test_closing_the_client_ends_its_sessions(daemon, job):
    client = daemon.client()
    backend = client.open(job, "op", attempt=1)
    numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
    backend.session()
    client.close()
    with pytest.raises(dstl.DstlError):
        numbers.put("k", 1)


def test_two_threads_may_use_one_session(backend, session, numbers):
    counts = backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
    errors = []

    def work(name):
        try:
            for number in range(100):
                counts.merge("shared", 1)
                numbers.put(f"{name}-{number}", number)
                if number % 25 == 0:
                    counts.merge_many(["shared"] * 10, [1] * 10)
            session.flush()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors
    assert counts.get("shared") == 4 * (100 + 40)


def _in_child(calls, results):
    for call in calls:
        try:
            call()
            results.put("nothing")
        except dstl.DstlError as error:
            results.put(type(error).__name__)


def test_a_fork_must_connect_again(client, backend, session, numbers, job):
    numbers.put("k", 1)
    folded = backend.reducing_state("folded", dstl.STR, dstl.INT64, max)
    query = client.query(job, "op")
    read = query.value_state("numbers", dstl.STR, dstl.INT64)
    # Asked before the fork, and answered in the parent.
    pending = session.barrier(1)
    receipt = numbers.put_many(["k"], [1])
    calls = [
        lambda: numbers.put("k", 2), client.hello, session.flush, lambda: session.barrier(2), lambda: read.get("k"),
        lambda: folded.add("k", 1), lambda: folded.add_all([("k", 1)]), lambda: folded.clear("k"), backend.describe, backend.session,
        lambda: client.open(job, "op"), lambda: client.query(job, "op"),
    ]
    ends = [session.close, session.abort, query.close, client.close]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    # Whoever adds to folded state has its lock.
    with folded._folds.lock:
        child = context.Process(target=_in_child, args=(calls + ends, results))
        child.start()
        assert [results.get(timeout=60) for _ in calls + ends] == ["ForkedError"] * len(calls) + ["nothing"] * len(ends)
        child.join(60)
    assert child.exitcode == 0
    assert pending.completed().id == 1
    assert receipt.applied() > 0 and numbers.get("k") == read.get("k") == 1
    query.close()


def _work_in_child(path, job, results):
    with dstl.connect(path, wait=10) as client, client.open(job, "op", attempt=1) as backend:
        numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
        with backend.session() as session:
            numbers.put("k", 7)
            session.complete(session.checkpoint(1))
            results.put(numbers.get("k"))


def test_children_of_a_process_with_a_session_have_their_own(client, session, numbers, job):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    path = client._connection.target
    children = [context.Process(target=_work_in_child, args=(path, f"{job}-{number}", results)) for number in range(3)]
    for child in children:
        child.start()
        numbers.put("k", 1)
    assert [results.get(timeout=90) for _ in children] == [7, 7, 7]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert numbers.get("k") == 1


def test_what_was_asked_before_a_fork_is_answered_in_the_parent_alone():
    # Nobody answers these in a child, whose threads stayed behind.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    reply, answered = Reply(), Reply()
    answered.settle(5)
    child = context.Process(target=_in_child, args=([lambda: finish(reply), lambda: finish(answered)], results))
    child.start()
    assert [results.get(timeout=60) for _ in range(2)] == ["ForkedError", "nothing"]
    child.join(60)
    reply.settle(6)
    assert finish(reply) == 6


def test_an_event_loop_that_is_closed_hangs_nobody(daemon, job):
    made = {}

    async def first():
        client = made["client"] = await dstl.aio.connect(daemon.socket)
        backend = made["backend"] = await client.open(job, "op", attempt=1)
        made["numbers"] = await backend.value_state("numbers", dstl.STR, dstl.INT64)
        made["session"] = await backend.session()
        await made["numbers"].put("k", 1)
        # Left in flight when the loop ends.
        made["task"] = asyncio.ensure_future(made["numbers"].put("k", 2))
        await asyncio.sleep(0)

    asyncio.run(first())
    call = made["numbers"].put("k", 3)
    with pytest.raises(RuntimeError):
        call.send(None)
    # Another loop may go on with all of it.

    async def second():
        assert await made["numbers"].get("k") in (1, 2)
        await made["numbers"].put("k", 4)
        assert await made["numbers"].get("k") == 4
        await made["backend"].close()
        await made["client"].close()

    asyncio.run(second())


def test_nobody_there_is_a_connection_lost_error(tmp_path):
    for target in (tmp_path / "nothing.sock", "127.0.0.1:1", "/" + "x" * 200, "", "/a\0b", "nowhere.example:99999", tmp_path):
        with pytest.raises(dstl.ConnectionLostError):
            dstl.connect(target)
    with pytest.raises(TypeError):
        dstl.connect(b"/bytes")
    (tmp_path / "file").write_text("no socket")
    with pytest.raises(ConnectionError, match="file"):
        dstl.connect(tmp_path / "file", wait=0.2)


def test_names_and_options_are_checked(client, backend, job):
    for name in ("", "a/b", "..", "x" * 300):
        with pytest.raises((dstl.InvalidArgumentError, dstl.LimitError)):
            client.open(name, "op")
    for call in (
        lambda: client.open(5, "op"),
        lambda: client.open(job, "op", unknown=1),
        lambda: client.open(job, "op", attempt="one"),
        lambda: client.open(job, "op", attempt=1, options=dstl.OpenOptions()),
        lambda: backend.value_state("v", str, dstl.INT64),
        lambda: backend.value_state(5, dstl.STR, dstl.INT64),
        lambda: dstl.Restore.handles(b"one"),
        lambda: client.open(job, "op", inner="rocksdb"),
        lambda: client.open(job, "op", restore="latest"),
        lambda: client.open(job, "op", restore=dstl.Restore.latest),
        lambda: client.open(job, "op", claim=True),
        lambda: client.open(job, "op", changelog="off"),
        lambda: client.open(job, "op", key_group_assignment=1),
        lambda: client.open(job, "op", key_groups=5),
        lambda: client.open(job, "op", linger="1"),
        lambda: client.open(job, "op", retain="3"),
        lambda: client.declare_job(job, 1, {"op": 1}, restore="latest"),
        lambda: client.declare_job(job, 1, {"op": "1"}),
        lambda: client.describe_job(5),
        lambda: client.discard_job(None),
        lambda: client.query(job, 5),
        lambda: backend.value_state("v", dstl.STR, dstl.INT64, ttl=60),
        lambda: backend.value_state("v", dstl.STR, dstl.INT64, default="x"),
        lambda: backend.value_state("v", dstl.STR, dstl.SUM_I64),
        lambda: backend.value_state("v", dstl.STR, dstl.INT64, namespace=str),
        lambda: backend.merging_state("v", dstl.STR, dstl.INT64),
        lambda: backend.map_state("v", dstl.STR, dstl.STR, int),
        lambda: backend.map_state("v", dstl.STR, dstl.STR, dstl.INT64, merge=sum),
        lambda: backend.operator_list("v", dstl.STR, "split"),
        lambda: backend.broadcast_map("v", dstl.STR, None),
        lambda: backend.session(reconnect_timeout="5"),
        lambda: backend.pin(1),
        lambda: backend.complete("1"),
        lambda: dstl.connect(client._connection.target, wait="5"),
        lambda: dstl.connect(5),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError):
        client.open(job, "op", retain=1, retain_explicitly=True)
    with pytest.raises(ValueError):
        backend.value_state("v", dstl.STR, dstl.INT64, ttl=dstl.Ttl(0))
    with pytest.raises(dstl.DstlError):
        client.open(job + "x", "op", subtask=3, parallelism=2)
    with pytest.raises(dstl.InvalidArgumentError) as refused:
        client.open(job + "x", "op", restore=dstl.Restore.handles([b"nonsense"]))
    assert (refused.value.reason, refused.value.retryable) == ("INVALID_ARGUMENT", False)


def test_a_batch_takes_states_of_its_own_backend_alone(client, backend, session, numbers, job):
    maps = backend.map_state("maps", dstl.STR, dstl.STR, dstl.INT64)
    with client.open(job, "other", attempt=1) as other:
        theirs = other.value_state("theirs", dstl.STR, dstl.INT64)
        with other.session() as their_session:
            # Ids of states are small numbers, so that the daemon would take this for a state of its own.
            assert theirs.id == numbers.id
            for call in (
                lambda: session.batch().put(theirs, "k", 1),
                lambda: session.batch().get_many(theirs, ["k"]),
                lambda: session.batch().clear(theirs, "k"),
                lambda: their_session.send(session.batch()),
            ):
                with pytest.raises(ValueError, match="another backend"):
                    call()
            for call in (
                lambda: session.batch().put("numbers", "k", 1),
                lambda: session.batch().put(maps, "k", 1),
                lambda: session.batch().merge(numbers, "k", 1),
                lambda: session.batch().map_put(numbers, "k", "m", 1),
                lambda: session.batch().list_add(maps, "k", 1),
                lambda: session.batch().timer_register(maps, "k", 1),
                lambda: session.batch().clear(None, "k"),
                lambda: session.send("batch"),
                lambda: session.send(None),
            ):
                with pytest.raises(TypeError):
                    call()
            assert theirs.get("k") is numbers.get("k") is None


def test_columns_are_cut_as_the_daemon_is_configured(job):
    with Daemon(settings=["rpc.max-batch-operations=7"]) as daemon, daemon.client() as client:
        with client.open(job, "op", attempt=1) as backend:
            sums = backend.merging_state("sums", dstl.INT64, dstl.SUM_I64)
            longest = backend.reducing_state("longest", dstl.INT64, dstl.STR, max)
            with backend.session() as session:
                sums.put_many(list(range(100)), list(range(100)))
                sums.merge_many(list(range(100)), [1] * 100)
                session.flush()
                assert sums.get_many(list(range(100))) == list(range(1, 101))
                longest.add_all([(number, "a") for number in range(100)])
                threads = [threading.Thread(target=sums.merge, args=(number, 1)) for number in range(30)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                assert sums.get_many(list(range(31))) == [*range(2, 32), 31]
                session.complete(session.checkpoint(1))
        with client.open(job, "op", attempt=2) as backend:
            new = backend.migrate_merging(
                "sums", dstl.STR, dstl.SUM_I64, old_key=dstl.INT64, old_value=dstl.INT64, rewrite=lambda key, value: (str(key), -value)
            )
            with backend.session():
                new.merge("30", 1)
                assert new.get_many(["0", "30", "99"]) == [-2, -30, -100]
                assert sorted(map(int, new.keys())) == list(range(100))


def test_every_reason_of_the_protocol_has_its_class():
    from dstl.errors import _Reasons
    from dstl.proto import error_pb2

    reasons = {name.removeprefix("REASON_") for name in error_pb2.Reason.keys()}
    assert set(_Reasons.classes) == reasons
