"""Reading beside the writer: the call Query."""

import queue
import threading

from operations import opened
from service import metrics
from support import (
    LIST,
    MAP,
    PATIENCE,
    Refused,
    backend_pb2,
    descriptor,
    eventually,
    get,
    grpc,
    op,
    put,
    refused,
    restore_empty,
    service_pb2,
)
from timers import TIMER
from world import scenario

ALLOWED = ("queryable-state.enabled=true",)
APPLIED, COMPLETED = service_pb2.QueryStart.VIEW_APPLIED, service_pb2.QueryStart.VIEW_COMPLETED


class Query:
    """A reader, one batch at a time."""

    def __init__(self, client, job, view, start=True):
        self.requests = queue.SimpleQueue()
        self.call = client.stub.Query(iter(self.requests.get, None), timeout=3 * PATIENCE)
        self.number = 100
        if start:
            backend = backend_pb2.BackendId(job=job, operator="op", subtask=0)
            self.send(start=service_pb2.QueryStart(backend=backend, view=view))
            self.started = self.next("started")

    def send(self, **request):
        self.requests.put(service_pb2.QueryRequest(**request))

    def batch(self, *operations):
        self.number += 1
        self.send(batch=service_pb2.QueryBatch(number=self.number, operations=operations))
        return self.number

    def next(self, *kinds):
        try:
            response = next(self.call)
        except grpc.RpcError as error:
            raise Refused.from_call(error) from None
        kind = response.WhichOneof("response")
        assert kind in kinds, response
        return getattr(response, kind)

    def read(self, *operations):
        """The whole answer, or the refusal of the batch."""
        number = self.batch(*operations)
        answer = self.next("result", "failed")
        assert answer.number == number, answer
        if isinstance(answer, service_pb2.QueryFailed):
            raise Refused(answer.error)
        assert [result.operation for result in answer.results] == list(range(len(operations))), answer
        return answer

    def value(self, state, key):
        """A value, and of which checkpoint it is (0: of none)."""
        answer = self.read(get(state, key))
        (result,) = answer.results
        return (result.value if result.found else None, answer.checkpoint.checkpoint_id)

    def finish(self):
        self.requests.put(None)
        assert list(self.call) == []


@scenario
def queries_are_refused_where_they_are_not_allowed(world):
    client, _, _ = opened(world)
    assert "query" not in client.call("Hello", service_pb2.HelloRequest()).features
    with refused("REASON_UNSUPPORTED", "queryable-state.enabled"):
        Query(client, world.job, APPLIED)


@scenario
def a_reader_sees_what_is_applied_or_what_the_newest_completed_checkpoint_contains(world):
    daemon = world.start(settings=ALLOWED)
    client = world.client(daemon)
    assert "query" in client.call("Hello", service_pb2.HelloRequest()).features
    ref = client.open(world.job).backend
    value, entries, elements = client.register(
        ref, descriptor("value"), descriptor("entries", MAP), descriptor("elements", LIST)
    )
    applied, completed = (Query(client, world.job, view) for view in (APPLIED, COMPLETED))
    assert {state.descriptor.name: state.id for state in applied.started.states} == {
        "value": value,
        "entries": entries,
        "elements": elements,
    }
    assert applied.started.key_groups.last + 1 == applied.started.max_parallelism == 128
    session = client.session(ref)
    session.batch(
        put(value, b"k", b"1"),
        op("MAP_PUT", entries, b"k", map_key=b"a", value=b"1"),
        op("MAP_PUT", entries, b"k", map_key=b"b", value=b"1"),
        op("LIST_ADD_ALL", elements, b"k", values=[b"x", b"y"]),
    )
    session.wait("applied", 1)
    assert applied.read(get(value, b"k")).applied_to == 1
    with refused("REASON_CHECKPOINT_NOT_FOUND", scope="SCOPE_BATCH"):
        completed.value(value, b"k")
    first = session.checkpoint(1)
    assert session.notify("COMPLETE", first.checkpoint) == "DONE"
    number = session.batch(
        put(value, b"k", b"2"),
        put(value, b"new", b"2"),
        op("MAP_REMOVE", entries, b"k", map_key=b"a"),
        op("MAP_PUT", entries, b"k", map_key=b"c", value=b"2"),
        op("LIST_UPDATE", elements, b"k", values=[b"z"]),
    )
    session.wait("applied", number + 1)
    reads = (
        get(value, b"k"),
        get(value, b"new"),
        op("MAP_ENTRIES", entries, b"k"),
        op("MAP_COUNT", entries, b"k"),
        op("LIST_GET", elements, b"k"),
        op("KEYS", value, b""),
    )

    def told(answer):
        one, new, all_entries, count, whole, keys = answer.results
        pairs = [(entry.key, entry.value) for entry in all_entries.entries]
        return one.value, new.found, pairs, count.count, list(whole.elements), sorted(key.key for key in keys.keys)

    def all_keys(query):
        found, token = [], b""
        while True:
            (page,) = query.read(op("KEYS", value, b"", token=token)).results
            found += [key.key for key in page.keys]
            token = page.token
            if not token:
                return sorted(found)

    answer = completed.read(*reads)
    assert answer.checkpoint == first.checkpoint
    assert told(answer)[:5] == (b"1", False, [(b"a", b"1"), (b"b", b"1")], 2, [b"x", b"y"])
    assert told(applied.read(*reads))[:5] == (b"2", True, [(b"b", b"1"), (b"c", b"2")], 2, [b"z"])
    assert (all_keys(completed), all_keys(applied)) == ([b"k"], [b"k", b"new"])
    second = session.checkpoint(2)
    assert session.notify("ABORT", second.checkpoint) == "DONE"
    assert completed.value(value, b"k") == (b"1", 1)
    third = session.checkpoint(3)
    assert session.notify("COMPLETE", third.checkpoint) == "DONE"
    assert completed.value(value, b"k") == (b"2", 3)
    sums = metrics(daemon)
    assert sums["dstl_query_sessions"] == 2 and sums["dstl_query_failed_batches_total"] == 1
    applied.finish()
    completed.finish()
    eventually("the readers are gone", lambda: metrics(daemon)["dstl_query_sessions"] == 0)
    session.finish()


@scenario
def a_query_only_reads_and_says_what_is_wrong(world):
    client = world.client(world.start(settings=ALLOWED))
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("value"))
    client.apply(ref, put(state, b"k", b"v"))
    reader = Query(client, world.job, APPLIED)
    for operation, reason, word in (
        (put(state, b"k", b"w"), "REASON_INVALID_ARGUMENT", "write"),
        (get(99, b"k"), "REASON_UNKNOWN_STATE", "99"),
        (op("MAP_COUNT", state, b"k"), "REASON_WRONG_KIND", "operation 1"),
        (get(state, b""), "REASON_INVALID_ARGUMENT", "key"),
        (get(state, b"k", key_group=3), "REASON_WRONG_KEY_GROUP", "key group"),
        (op("UNSPECIFIED", state, b"k"), "REASON_INVALID_ARGUMENT", "kind"),
    ):
        with refused(reason, word, scope="SCOPE_BATCH"):
            reader.read(get(state, b"k"), operation)
        assert reader.value(state, b"k") == (b"v", 0), "the query goes on"
    assert len(reader.read().results) == 0, "an empty batch has an empty answer"
    reader.send(start=service_pb2.QueryStart(backend=ref.id))
    with refused("REASON_INVALID_ARGUMENT", "first", scope="SCOPE_SESSION"):
        reader.next()
    unstarted = Query(client, world.job, APPLIED, start=False)
    unstarted.batch(get(state, b"k"))
    with refused("REASON_INVALID_ARGUMENT", "QueryStart"):
        unstarted.next()
    with refused("REASON_BACKEND_NOT_OPEN", "nobody"):
        Query(client, "nobody", APPLIED)
    large = Query(client, world.job, APPLIED)
    large.batch(*[get(state, b"k" * 30_000)] * 200)
    with refused("REASON_MESSAGE_TOO_LARGE", scope="SCOPE_SESSION"):
        large.next()


@scenario
def a_reader_outlives_the_owner_and_ends_with_the_daemon(world):
    daemon = world.start(settings=ALLOWED)
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("value"))
    client.apply(ref, put(state, b"k", b"1"))
    reader = Query(client, world.job, APPLIED)
    assert reader.value(state, b"k") == (b"1", 0)
    assert client.end(ref)
    with refused("REASON_BACKEND_NOT_OPEN", scope="SCOPE_BATCH"):
        reader.value(state, b"k")
    ref = client.open(world.job, attempt=2, restore=restore_empty()).backend
    with refused("REASON_UNKNOWN_STATE"):
        reader.value(state, b"k")
    reader = Query(client, world.job, APPLIED)
    (state,) = client.register(ref, descriptor("value"))
    client.apply(ref, put(state, b"k", b"2"))
    assert reader.value(state, b"k") == (b"2", 0)
    daemon.terminate()
    with refused("REASON_DRAINING"):
        reader.next()
    client.end(ref)
    assert daemon.wait() == 0


@scenario
def a_reader_that_does_not_read_its_answers_delays_no_writer(world):
    client = world.client(world.start(settings=ALLOWED))
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("value"))
    client.apply(ref, put(state, b"k", b"v" * 500_000))
    slow = Query(client, world.job, APPLIED)
    for _ in range(60):
        # 180 MB of answers: more than any window.
        slow.batch(*[get(state, b"k")] * 6)
    session = client.session(ref)
    for index in range(50):
        session.batch(put(state, b"other", b"%d" % index))
    session.wait("applied", session.number, patience=PATIENCE / 2)
    session.finish()
    one = slow.next("result")
    assert [len(result.value) for result in one.results] == [500_000] * 6
    slow.call.cancel()


@scenario
def many_readers_and_a_writer_go_on_beside_each_other(world):
    daemon = world.start(settings=ALLOWED)
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("value"))
    keys = [b"key %d" % index for index in range(200)]
    session = client.session(ref)
    faults = []
    stop = threading.Event()

    def write(round_):
        session.wait("applied", session.batch(*[put(state, key, b"%d" % round_) for key in keys]) + 1)
        return session.checkpoint(round_ + 1)

    session.notify("COMPLETE", write(0).checkpoint)

    def read():
        reader = Query(daemon.client(), world.job, COMPLETED)
        try:
            while not stop.is_set():
                answer = reader.read(*[get(state, key) for key in keys])
                values = {result.value for result in answer.results}
                assert values == {b"%d" % (answer.checkpoint.checkpoint_id - 1)}, (values, answer.checkpoint)
        except BaseException as fault:
            faults.append(fault)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round_ in range(1, 25):
        completed = write(round_)
        session.notify("ABORT" if round_ % 4 == 0 else "COMPLETE", completed.checkpoint)
    stop.set()
    for reader in readers:
        reader.join(PATIENCE)
    assert not faults, faults
    session.finish()


@scenario
def timers_of_the_newest_completed_checkpoint_are_read_as_they_were(world):
    client = world.client(world.start(settings=ALLOWED))
    ref = client.open(world.job).backend
    (timer,) = client.register(ref, descriptor("t", TIMER))
    client.apply(ref, *(op("TIMER_REGISTER", timer, b"k%d" % time, time=time) for time in range(9)))
    done = client.checkpoint(ref, 1)
    client.notify(ref, "COMPLETE", done.checkpoint)
    client.apply(ref, op("TIMERS_FIRE", timer, b"", time=4), op("TIMER_REGISTER", timer, b"new", time=3))

    def times(view):
        query = Query(client, world.job, view)
        (page,) = query.read(op("TIMERS", timer, b"", time=99)).results
        names, token, more = [], b"", True
        while more:
            (keys,) = query.read(op("KEYS", timer, b"", token=token)).results
            names += [key.key for key in keys.keys]
            token = keys.token
            more = bool(token)
        query.finish()
        assert sorted(names) == sorted(due.key for due in page.timers)
        return [(due.time, due.key) for due in page.timers]

    assert times(COMPLETED) == [(time, b"k%d" % time) for time in range(9)]
    assert times(APPLIED) == [(3, b"new")] + [(time, b"k%d" % time) for time in range(5, 9)]
