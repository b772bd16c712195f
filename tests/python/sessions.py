"""The writer's stream: order, halts, credit, ends."""

import threading
import time

from operations import MAX_VALUE, i64, merge, opened
from support import (
    VALUE,
    Refused,
    Session,
    check_refusal,
    checkpoint_pb2,
    descriptor,
    eventually,
    get,
    objects,
    op,
    outage,
    put,
    refused,
    service_pb2,
    session_pb2,
)
from world import scenario


def encoded(number, *operations):
    """What a batch costs: its encoded length."""
    return session_pb2.Batch(number=number, operations=operations).ByteSize()


@scenario
def a_session_acknowledges_batches_and_answers_only_what_there_is_to_tell(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    assert session.number == 0 and session.ack.credit >= 4 << 20
    for number in range(500):
        session.batch(put(state, b"k%d" % number, b"v"))
    session.wait("applied", 500)
    assert session.ack.persisted_to == session.ack.confirmed_to == 0
    session.finish()
    session = client.session(ref)
    assert session.number == 500, "a new session goes on where the old one ended"
    session.batch()
    session.wait("applied", 501)
    session.finish()


@scenario
def the_first_message_of_a_session_must_be_its_start_and_only_the_first(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = Session(client, ref, start=False)
    session.batch(put(state, b"k", b"v"), number=0)
    check_refusal(session.end(), "REASON_INVALID_ARGUMENT", "SessionStart")
    session = client.session(ref)
    session.send(start=session_pb2.SessionStart(backend=ref))
    check_refusal(session.end(), "REASON_INVALID_ARGUMENT", "SessionStart", scope="SCOPE_SESSION")
    session = client.session(ref)
    session.requests.put(session_pb2.SessionRequest())
    check_refusal(session.end(), "REASON_INVALID_ARGUMENT", scope="SCOPE_SESSION")
    session = Session(client, ref, start=False)
    session.send(start=session_pb2.SessionStart())
    check_refusal(session.end(), "REASON_INVALID_ARGUMENT", "backend")
    session = Session(client, ref, start=False)
    session.half_close()
    assert session.end() is None
    stale = type(ref).FromString(ref.SerializeToString())
    stale.epoch.number += 1
    session = Session(client, ref, start=False)
    session.send(start=session_pb2.SessionStart(backend=stale))
    check_refusal(session.end(), "REASON_FENCED")
    client.session(ref).finish()


@scenario
def a_rejected_batch_halts_everything_behind_it_until_the_right_resume(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"a", b"0"))
    session.batch(put(state, b"a", b"1"), put(77, b"a", b"1"))
    session.batch(put(state, b"a", b"2"))
    session.barrier(1)
    session.batch(get(state, b"a"))
    check_refusal(session.halted(1, batch=1), "REASON_UNKNOWN_STATE", 77, scope="SCOPE_BATCH")
    for answers in (dict(batch=2), dict(checkpoint_id=1), dict(batch=3)):
        check_refusal(session.halted(1, **answers), "REASON_UNKNOWN_STATE")
    assert session.persist(5) == 1, "persist requests work while halted"
    assert session.notify("COMPLETE", identity(ref, 1)) == "UNKNOWN"
    session.resume(3)
    check_refusal(Refused(session.next("error")), "REASON_INVALID_ARGUMENT", 1, 3)
    session.batch(put(state, b"a", b"x"), number=1)
    session.halted(1, batch=1)
    session.resume(1)
    session.number = 1
    (found,) = session.read(get(state, b"a"))
    assert found.value == b"0", "nothing behind the rejected batch was applied"
    session.checkpoint(1)
    session.resume(2)
    check_refusal(Refused(session.next("error")), "REASON_INVALID_ARGUMENT", "not halted")
    session.finish()


def identity(ref, number):
    """A checkpoint of the owner, without its UUID."""
    return checkpoint_pb2.CheckpointIdentity(epoch=ref.epoch.number, checkpoint_id=number)


@scenario
def numbers_that_are_not_the_next_halt_and_old_ones_apply_once(world):
    client, ref, (state,) = opened(world, descriptor("s", VALUE, merge("SUM_I64")))
    one = op("MERGE", state, b"k", value=i64(1))
    session = client.session(ref)
    session.batch(one)
    session.batch(one, number=5)
    check_refusal(session.halted(1, batch=5), "REASON_BATCH_OUT_OF_ORDER", 5, 1)
    session.resume(1)
    session.batch(one)
    session.batch(one, get(state, b"k"), number=0)
    repeated = session.next("result")
    assert repeated.repeated_batch and repeated.number == 0 and not repeated.results
    (found,) = session.read(get(state, b"k"))
    assert found.value == i64(2)
    session.call.cancel()
    reopened = client.open(world.job)
    assert reopened.reconnected and reopened.applied_to == 3
    session = client.session(reopened.backend)
    session.batch(one, number=2)
    assert session.next("result").repeated_batch
    (found,) = session.read(get(state, b"k"))
    assert found.value == i64(2)
    session.finish()


@scenario
def a_unary_batch_does_not_slip_between_those_of_a_session(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"k", b"0"))
    session.wait("applied", 1)
    (found,) = client.read(ref, get(state, b"k"))
    assert found.value == b"0", "reading beside a session"
    with refused("REASON_BATCH_OUT_OF_ORDER", "session", scope="SCOPE_BATCH"):
        client.apply(ref, put(state, b"k", b"unary"))
    session.batch(put(state, b"k", b"1"))
    (found,) = session.read(get(state, b"k"))
    assert found.value == b"1", "a batch of the session was taken for a repetition"
    session.finish()
    eventually("a unary write after the session", lambda: not denied(client, ref, put(state, b"k", b"unary")))


def denied(client, ref, operation):
    try:
        client.apply(ref, operation)
    except Refused:
        return True


@scenario
def the_largest_batch_fits_the_credit_of_an_idle_session(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    value = b"x" * (MAX_VALUE - 200)
    operations = [put(state, b"%d" % index, value) for index in range(4)]
    limit = client.call("Hello", service_pb2.HelloRequest()).limits.max_message_bytes
    message = session_pb2.SessionRequest(batch=session_pb2.Batch(number=0, operations=operations))
    room = limit - message.ByteSize()
    operations.append(put(state, b"fill", b"x" * (room - 40)))
    message = session_pb2.SessionRequest(batch=session_pb2.Batch(number=0, operations=operations))
    assert limit - 32 < message.ByteSize() <= limit
    for number in range(12):
        session.credit_for(encoded(number, *operations))
        session.batch(*operations)
    session.wait("applied", 12)
    session.checkpoint(1)
    session.finish()


@scenario
def writing_beyond_the_credit_ends_the_session_and_not_the_backend(world):
    daemon = world.start(settings=["state.changelog.dstl.dfs.upload.max-in-flight=16 MiB"])
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    credit, value = session.ack.credit, b"x" * (MAX_VALUE - 100)
    with outage(daemon, world.job):
        for number in range(10):
            session.batch(*[put(state, b"%d %d" % (number, i), value) for i in range(3)])
        check_refusal(session.end(), "REASON_CREDIT_EXCEEDED", scope="SCOPE_SESSION")
        session = client.session(ref)
        assert credit // (3 * MAX_VALUE) <= session.number < 10, "exactly what the credit covered was applied"
        first, last = session.read(get(state, b"%d 0" % (session.number - 1)), get(state, b"9 0"))
        assert first.value == value and not last.found
    session.checkpoint(1)
    session.finish()


@scenario
def an_outage_of_the_store_pushes_back_writers_and_nothing_else(world):
    daemon = world.start(settings=["state.changelog.dstl.dfs.upload.max-in-flight=16 MiB"])
    client = world.client(daemon)
    refs = [client.open(world.job, operator=operator).backend for operator in ("a", "b")]
    ((state,), _) = [client.register(ref, descriptor("v")) for ref in refs]
    session, neighbour = [client.session(ref) for ref in refs]
    operations = [put(state, b"%d" % index, b"x" * (MAX_VALUE - 100)) for index in range(3)]
    with outage(daemon, world.job):
        while session.spent + encoded(session.number, *operations) <= session.ack.credit or session.number < 2:
            session.credit_for(encoded(session.number, *operations))
            session.batch(*operations)
            session.wait("applied", session.number)
        neighbour.credit_for(encoded(0, *operations))
        neighbour.batch(*operations)
        neighbour.wait("applied", 1)
        (found,) = session.read(get(state, b"0"))
        assert found.found, "reads never wait for credit"
        session.barrier(1, timeout_ms=100)
        check_refusal(session.failed(1), "REASON_CHECKPOINT_TIMEOUT")
        session.send(persist=session_pb2.PersistMark(token=3))
        assert session.notify("COMPLETE", identity(ref=refs[0], number=1)) == "UNKNOWN"
        assert session.ack.persisted_to == 0
    assert session.next("persisted").token == 3, "uploads are repeated until the store is back"
    session.credit_for(encoded(session.number, *operations))
    session.batch(*operations)
    session.checkpoint(2)
    neighbour.checkpoint(1)
    session.finish()


@scenario
def a_writer_that_waits_for_credit_never_stalls(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    value = b"x" * 250_000
    written = 0
    for number in range(160):
        operations = [put(state, b"%d" % (number % 8), value), put(state, b"n", b"%d" % number)]
        session.credit_for(encoded(number, *operations))
        session.batch(*operations)
        written += 500_000
    session.wait("applied", 160)
    session.checkpoint(1)
    session.wait("persisted", 160)
    session.finish()


@scenario
def a_value_of_100_mb_is_a_typed_error_that_ends_only_its_session(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    neighbour_ref = client.open(world.job, operator="neighbour").backend
    client.register(neighbour_ref, descriptor("v"))
    neighbour = client.session(neighbour_ref)
    session = client.session(ref)
    session.batch(put(state, b"k", b"small"))
    session.wait("applied", 1)
    session.batch(put(state, b"k", bytes(100 << 20)))
    check_refusal(session.end(), "REASON_MESSAGE_TOO_LARGE", "max_message_bytes", scope="SCOPE_SESSION")
    try:
        client.apply(ref, put(state, b"k", bytes(100 << 20)))
    except Refused as error:
        check_refusal(error, "REASON_MESSAGE_TOO_LARGE", "max_message_bytes")
        assert error.code == "OUT_OF_RANGE", error
    else:
        raise AssertionError("100 MB were accepted")
    neighbour.batch(put(state, b"k", b"v"))
    neighbour.wait("applied", 1)
    neighbour.finish()
    session = client.session(ref)
    (found,) = session.read(get(state, b"k"))
    assert found.value == b"small"
    session.finish()


@scenario
def a_half_closed_session_answers_what_it_owes_and_then_ends(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    for number in range(1, 6):
        session.batch(put(state, b"k", b"%d" % number))
        session.barrier(number, attachment=b"%d" % number)
    session.batch(get(state, b"k"))
    session.send(persist=session_pb2.PersistMark(token=9))
    session.half_close()
    seen = {session.next("checkpoint_completed").checkpoint.checkpoint_id for _ in range(5)}
    assert seen == {1, 2, 3, 4, 5}
    assert session.next("persisted").token == 9
    assert session.next("result").results[0].value == b"5"
    assert session.end() is None and not session.stash
    assert session.ack.persisted_to >= 5, "the last acknowledgement covers what was answered"


@scenario
def a_second_session_replaces_the_first(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    first = client.session(ref)
    first.batch(put(state, b"k", b"1"))
    first.wait("applied", 1)
    second = world.client().session(ref)
    check_refusal(first.end(), "REASON_SESSION_REPLACED", scope="SCOPE_SESSION")
    assert second.number == 1
    second.batch(put(state, b"k", b"2"))
    second.wait("applied", 2)
    second.finish()


@scenario
def a_checkpoint_owed_to_a_broken_session_is_answered_in_the_next(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    for number in range(1, 9):
        session = client.session(ref)
        session.batch(put(state, b"k", b"%d" % number))
        session.barrier(number)
        session.wait("applied", number)
        session.call.cancel()
        session = client.session(ref)
        session.barrier(number)
        completed = session.next("checkpoint_completed")
        assert completed.checkpoint.checkpoint_id == number and completed.applied_to == number
        session.call.cancel()
    assert client.retained(ref) == list(range(1, 9)), "a barrier sent again cuts nothing new"


@scenario
def a_session_that_is_not_read_delays_no_other_on_its_connection(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    other_ref = client.open(world.job, operator="other").backend
    client.register(other_ref, descriptor("v"))
    big = b"x" * 900_000
    client.apply(ref, put(state, b"k", big))
    unread = Session(client, ref, unread=True)
    stopped = threading.Event()

    def flood():
        number = 1
        while not stopped.is_set() and number < 400:
            unread.batch(get(state, b"k"), get(state, b"k"), get(state, b"k"), number=number)
            number += 1
            if number > 60:
                time.sleep(0.01)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    time.sleep(0.3)
    session = client.session(other_ref)
    slowest = 0.0
    for number in range(200):
        begun = time.monotonic()
        session.read(put(state, b"k", b"%d" % number), get(state, b"k"))
        slowest = max(slowest, time.monotonic() - begun)
    session.checkpoint(1)
    assert slowest < 2.0, f"{slowest} s for one batch"
    session.finish()
    stopped.set()
    thread.join()
    unread.call.cancel()


@scenario
def persist_makes_changes_durable_without_a_restore_point(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    for number in range(3):
        session.batch(put(state, b"k", b"%d" % number))
    assert session.persist(41) == 3
    session.wait("persisted", 3)
    assert session.ack.confirmed_to == 0
    assert [path for path in objects(world.daemon.store, world.job) if "/segments/" in path]
    assert session.persist(42) == 3, "with nothing new it is answered all the same"
    session.batch(put(state, b"k", b"3"))
    session.wait("applied", 4)
    reply = client.call("Persist", service_pb2.PersistRequest(backend=ref))
    assert reply.persisted_to == 4
    session.finish()
    opened_again = client.open(world.job, attempt=2)
    assert not opened_again.HasField("checkpoint"), "what is persisted is no restore point by itself"
