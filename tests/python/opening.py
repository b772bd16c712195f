"""Hello, Open, registering states, Describe and Close."""

import os
import time

from support import (
    LIST,
    MAP,
    Merge,
    Refused,
    backend_pb2,
    descriptor,
    get,
    grpc,
    put,
    refused,
    restore_empty,
    restore_handles,
    restore_id,
    restore_latest,
    service_pb2,
    session_pb2,
    state_pb2,
)
from world import scenario


@scenario
def hello_tells_versions_features_and_limits(world):
    client = world.client()
    hello = client.call("Hello", service_pb2.HelloRequest(protocol_min=1, protocol_max=7, client="contract.py"))
    assert (hello.protocol, hello.protocol_min, hello.protocol_max) == (1, 1, 1), hello
    assert hello == client.call("Hello", service_pb2.HelloRequest()), "zeros mean version 1"
    assert len(hello.daemon_instance) == 36 and hello.version
    assert {"inner.hashmap", "restore.latest", "pin", "store.file"} <= set(hello.features), hello.features
    limits = hello.limits
    assert limits.max_message_bytes >= 4 << 20 and limits.max_attachment_bytes == 64 << 10, limits
    for field in limits.DESCRIPTOR.fields:
        assert getattr(limits, field.name) > 0, f"limit `{field.name}` is not told"


@scenario
def a_client_without_a_common_version_is_refused_by_type(world):
    for versions in ((2, 3), (2, 0), (9, 9)):
        with refused("REASON_INCOMPATIBLE_PROTOCOL", "protocol", scope="SCOPE_DAEMON"):
            request = service_pb2.HelloRequest(protocol_min=versions[0], protocol_max=versions[1])
            world.client().call("Hello", request)


@scenario
def latest_or_empty_begins_empty_and_latest_alone_is_refused_where_there_is_nothing(world):
    client = world.client()
    with refused("REASON_CHECKPOINT_NOT_FOUND"):
        client.open(world.job, restore=restore_latest(or_empty=False))
    opened = client.open(world.job)
    assert not opened.HasField("checkpoint") and not opened.reconnected and opened.applied_to == 0
    assert opened.last_checkpoint_id == 0 and opened.attachment == b"" and not opened.states
    assert (opened.key_groups.first, opened.key_groups.last, opened.max_parallelism) == (0, 127, 128)
    assert len(opened.backend.epoch.owner) == 16 and opened.backend.epoch.number >= 1


@scenario
def every_way_to_open_gives_the_state_of_its_checkpoint(world):
    client = world.client()
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    handles = {}
    for number in (1, 2, 3):
        client.apply(ref, put(state, b"k", b"%d" % number))
        done = client.checkpoint(ref, number, attachment=b"at %d" % number)
        assert done.applied_to == number and 0 < len(done.handle) <= 1024
        handles[number] = done.handle
    client.apply(ref, put(state, b"k", b"lost"))
    ways = [(restore_id(2), 2), (restore_handles(handles[1]), 1), (restore_latest(), 3), (restore_latest(False), 3)]
    for attempt, (restore, number) in enumerate(ways, start=2):
        opened = client.open(world.job, attempt=attempt, restore=restore)
        assert opened.checkpoint.checkpoint_id == number and opened.attachment == b"at %d" % number, opened
        assert opened.applied_to == 0 and not opened.reconnected
        assert opened.backend.epoch.number > ref.epoch.number
        assert [s.descriptor.name for s in opened.states] == ["v"] and opened.states[0].id == state
        (found,) = client.read(opened.backend, get(state, b"k"))
        assert found.value == b"%d" % number, (restore, found)
    opened = client.open(world.job, attempt=9, restore=restore_empty())
    assert not opened.HasField("checkpoint") and not opened.states
    (state,) = client.register(opened.backend, descriptor("v"))
    (found,) = client.read(opened.backend, get(state, b"k"))
    assert not found.found
    opened = client.open(world.job, attempt=10, restore=restore_id(2))
    (found,) = client.read(opened.backend, get(opened.states[0].id, b"k"))
    assert found.value == b"2", "beginning empty does not end the checkpoints of earlier owners"


@scenario
def a_missing_checkpoint_is_refused_and_the_running_owner_goes_on(world):
    client = world.client()
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    done = client.checkpoint(ref, 1)
    with refused("REASON_CHECKPOINT_NOT_FOUND", 77):
        client.open(world.job, attempt=2, restore=restore_id(77))
    with refused("REASON_INVALID_ARGUMENT", "handle"):
        client.open(world.job, attempt=2, restore=restore_handles(b"no handle"))
    with refused("REASON_INVALID_ARGUMENT", "handle"):
        client.open(world.job, attempt=2, restore=restore_handles(done.handle[:-1]))
    with refused("REASON_INVALID_ARGUMENT"):
        client.open(world.job, attempt=2, restore=restore_handles())
    with refused("REASON_INVALID_ARGUMENT"):
        client.open(world.job, attempt=2, restore=service_pb2.Restore())
    with refused("REASON_INVALID_ARGUMENT", "s3://b/s", "<job>/savepoints/<name>"):
        client.open(world.job, attempt=2, restore=service_pb2.Restore(savepoint="s3://b/s"))
    with refused("REASON_CHECKPOINT_NOT_FOUND", "wc/savepoints/s"):
        client.open(world.job, attempt=2, restore=service_pb2.Restore(savepoint="s3://b/wc/savepoints/s"))
    client.apply(ref, put(state, b"k", b"v"))


@scenario
def a_lower_attempt_is_fenced_and_an_equal_one_reconnects(world):
    client = world.client()
    first = client.open(world.job, attempt=5)
    (state,) = client.register(first.backend, descriptor("v"))
    client.apply(first.backend, put(state, b"k", b"v"), put(state, b"l", b"w"))
    with refused("REASON_FENCED", 4, 5):
        client.open(world.job, attempt=4)
    again = world.client().open(world.job, attempt=5)
    assert again.reconnected and again.backend == first.backend and again.applied_to == 1, again
    assert [s.id for s in again.states] == [state]
    newer = client.open(world.job, attempt=6)
    assert not newer.reconnected and newer.backend.epoch.number > first.backend.epoch.number
    for refusal in (
        lambda: client.apply(first.backend, put(state, b"k", b"x")),
        lambda: client.checkpoint(first.backend, 1),
        lambda: client.call("Persist", service_pb2.PersistRequest(backend=first.backend)),
        lambda: client.register(first.backend, descriptor("w")),
        lambda: client.end(first.backend),
    ):
        with refused("REASON_FENCED"):
            refusal()


@scenario
def a_reconnecting_owner_that_asks_for_another_shape_is_refused(world):
    client = world.client()
    opened = client.open(world.job, attempt=3, max_parallelism=64)
    assert client.open(world.job, attempt=3).reconnected, "zeros ask for what there is"
    assert client.open(world.job, attempt=3, max_parallelism=64).reconnected
    with refused("REASON_BACKEND_MISMATCH", 32, 64):
        client.open(world.job, attempt=3, max_parallelism=32)
    with refused("REASON_BACKEND_MISMATCH"):
        client.open(world.job, attempt=3, key_groups=backend_pb2.KeyGroupRange(first=0, last=1))
    with refused("REASON_BACKEND_MISMATCH"):
        client.open(world.job, attempt=3, key_group_assignment=service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN)
    client.register(opened.backend, descriptor("still mine"))


@scenario
def what_is_fixed_for_the_life_of_the_state_is_not_changed_by_open(world):
    client = world.client()
    ref = client.open(world.job, parallelism=2, subtask=1, max_parallelism=10).backend
    done = client.checkpoint(ref, 1)
    fixed = dict(attempt=2, subtask=1, parallelism=2)
    missing = {"REASON_CHECKPOINT_NOT_FOUND": restore_id(1), "REASON_INVALID_ARGUMENT": restore_handles(done.handle)}
    for reason, restore in missing.items():
        with refused("REASON_BACKEND_MISMATCH", 20, 10):
            client.open(world.job, restore=restore, max_parallelism=20, **fixed)
        with refused(reason, "0..=4"):
            groups = backend_pb2.KeyGroupRange(first=0, last=9)
            client.open(world.job, restore=restore, key_groups=groups, **fixed)
        with refused("REASON_BACKEND_MISMATCH"):
            given = service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN
            client.open(world.job, restore=restore, key_group_assignment=given, **fixed)
    opened = client.open(world.job, restore=restore_id(1), **fixed)
    assert (opened.key_groups.first, opened.key_groups.last, opened.max_parallelism) == (5, 9, 10), opened


def murmur3_32(key, seed=0):
    """MurmurHash3_x86_32, as published."""
    mask, result = 0xFFFFFFFF, seed
    rotate = lambda x, r: ((x << r) | (x >> (32 - r))) & mask
    mix = lambda k: rotate(k * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        result = (rotate(result ^ mix(int.from_bytes(key[at : at + 4], "little")), 13) * 5 + 0xE6546B64) & mask
    if key[whole:]:
        result ^= mix(int.from_bytes(key[whole:], "little"))
    result ^= len(key)
    result = (result ^ result >> 16) * 0x85EBCA6B & mask
    result = (result ^ result >> 13) * 0xC2B2AE35 & mask
    return result ^ result >> 16


def in_range(key, groups, first, last):
    return first <= murmur3_32(key) % groups <= last


@scenario
def key_groups_are_hashed_as_documented_and_those_of_others_refused(world):
    client = world.client()
    opened = client.open(world.job, subtask=1, parallelism=3, max_parallelism=9)
    assert (opened.key_groups.first, opened.key_groups.last) == (3, 5), "as Flink computes them"
    (state,) = client.register(opened.backend, descriptor("v"))
    for key in (os.urandom(n % 23 + 1) for n in range(60)):
        if in_range(key, 9, 3, 5):
            client.apply(opened.backend, put(state, key, b"v"))
        else:
            with refused("REASON_WRONG_KEY_GROUP", murmur3_32(key) % 9):
                client.apply(opened.backend, put(state, key, b"v"))
    with refused("REASON_WRONG_KEY_GROUP"):
        client.apply(opened.backend, put(state, b"k", b"v", key_group=4))


@scenario
def a_client_that_gives_key_groups_gives_them_always(world):
    client = world.client()
    given = service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN
    groups = backend_pb2.KeyGroupRange(first=2, last=4)
    opened = client.open(world.job, key_group_assignment=given, key_groups=groups, max_parallelism=16)
    assert opened.key_group_assignment == given and opened.key_groups == groups
    (state,) = client.register(opened.backend, descriptor("v"))
    client.apply(opened.backend, put(state, b"k", b"two", key_group=2), put(state, b"k", b"four", key_group=4))
    found = client.read(opened.backend, *[get(state, b"k", key_group=group) for group in (2, 3, 4)])
    assert [f.value for f in found] == [b"two", b"", b"four"]
    for wrong in ({"key_group": 1}, {"key_group": 5}, {"key_group": 70000}, {}):
        with refused("REASON_WRONG_KEY_GROUP", "operation 1"):
            client.apply(opened.backend, put(state, b"k", b"v", key_group=2), put(state, b"k", b"v", **wrong))
    client.checkpoint(opened.backend, 1)
    with refused("REASON_CHECKPOINT_NOT_FOUND", "0..=1", "5..=15"):
        client.open(world.job, attempt=2)
    again = client.open(world.job, attempt=2, key_groups=groups)
    assert again.key_group_assignment == given and again.key_groups == groups and again.max_parallelism == 16


@scenario
def names_and_numbers_that_cannot_be_are_refused(world):
    client = world.client()
    bad = ["", ".", "..", "a/b", "a b", "ü", "a\x00", "x" * 201, "a#1", "%2e", "a\n"]
    for name in bad:
        for field in ("job", "operator"):
            with refused("REASON_INVALID_ARGUMENT"):
                client.open_raw(client.open_request(**{"job": world.job, **{field: name}}))
    client.open("x" * 200, operator="a-Z_0.9")
    for shape in (
        dict(parallelism=0),
        dict(parallelism=2, subtask=2),
        dict(parallelism=200, max_parallelism=100),
        dict(max_parallelism=32769),
        dict(max_parallelism=8, key_groups=backend_pb2.KeyGroupRange(first=0, last=8)),
        dict(max_parallelism=8, key_groups=backend_pb2.KeyGroupRange(first=4, last=3)),
        dict(retention=service_pb2.Retention(count=0)),
        dict(inner=99),
        dict(changelog=99),
        dict(key_group_assignment=99),
    ):
        with refused("REASON_INVALID_ARGUMENT"):
            client.open(world.job, **shape)
    with refused("REASON_INVALID_ARGUMENT", "backend"):
        client.open_raw(service_pb2.OpenRequest(parallelism=1, restore=restore_latest()))
    with refused("REASON_INVALID_ARGUMENT", "restore"):
        backend = backend_pb2.BackendId(job=world.job, operator="o")
        client.open_raw(service_pb2.OpenRequest(backend=backend, parallelism=1))


@scenario
def calls_without_a_backend_or_for_one_that_is_not_open_are_refused(world):
    client = world.client()
    empty = service_pb2
    for method, request in (
        ("RegisterStates", empty.RegisterStatesRequest()),
        ("ApplyBatch", empty.ApplyBatchRequest()),
        ("Checkpoint", empty.CheckpointRequest()),
        ("Notify", empty.NotifyRequest()),
        ("Persist", empty.PersistRequest()),
        ("Pin", empty.PinRequest()),
        ("Release", empty.ReleaseRequest()),
        ("Close", empty.CloseRequest()),
    ):
        with refused("REASON_INVALID_ARGUMENT", "backend"):
            client.call(method, request)
        ref = backend_pb2.BackendRef(id=backend_pb2.BackendId(job="nobody", operator="o"))
        ref.epoch.number, ref.epoch.owner = 1, bytes(16)
        request.backend.CopyFrom(ref)
        if method == "Close":
            assert not client.call(method, request).closed, "closing what is not there is no error"
            continue
        with refused("REASON_BACKEND_NOT_OPEN", "nobody", scope="SCOPE_BACKEND"):
            client.call(method, request)
        request.backend.epoch.owner = b"short"
        with refused("REASON_INVALID_ARGUMENT"):
            client.call(method, request)


def long(version):
    return state_pb2.Serializer(id="long", version=version)


@scenario
def registering_states_is_idempotent_and_a_mismatch_names_both_sides(world):
    client = world.client()
    ref = client.open(world.job).backend
    states = [descriptor("a", value_serializer=long(1)), descriptor("b", LIST), descriptor("c", MAP, Merge.Value("MERGE_FUNCTION_SUM_I64"))]
    ids = client.register(ref, *states)
    assert len(set(ids)) == 3 and min(ids) >= 1
    assert client.register(ref, *reversed(states)) == ids[::-1]
    assert client.register(ref, states[1], states[1]) == [ids[1], ids[1]]
    for wrong, words in (
        (descriptor("a", value_serializer=long(2)), ("`long` version 1", "`long` version 2")),
        (descriptor("b", MAP), ("list", "map")),
        (descriptor("c", MAP, Merge.Value("MERGE_FUNCTION_MAX_I64")), ("sum", "max")),
    ):
        with refused("REASON_STATE_MISMATCH", wrong.name) as _:
            try:
                client.register(ref, descriptor("never made"), wrong)
            except Refused as error:
                assert all(word in error.message.lower() for word in words), error
                raise
    assert "never made" not in [s.state.descriptor.name for s in client.describe(ref).states], "all or none"
    for wrong in (
        descriptor(""),
        descriptor("x" * 201),
        descriptor("d", 99),
        descriptor("d", merge=99),
        descriptor("d", LIST, Merge.Value("MERGE_FUNCTION_SUM_I64")),
        service_pb2.RegisterStatesRequest().states.add(name="no kind"),
    ):
        try:
            client.register(ref, wrong)
        except Refused as error:
            assert error.reason in ("REASON_INVALID_ARGUMENT", "REASON_LIMIT_EXCEEDED"), error
        else:
            raise AssertionError(f"accepted: {wrong}")
    client.checkpoint(ref, 1)
    opened = client.open(world.job, attempt=2)
    assert [(s.id, s.descriptor) for s in opened.states] == list(zip(ids, states))
    assert client.register(opened.backend, *states) == ids, "ids last through a restore"
    with refused("REASON_STATE_MISMATCH"):
        client.register(opened.backend, descriptor("a"))


@scenario
def opens_of_one_backend_that_race_leave_one_owner(world):
    clients = [world.client() for _ in range(6)]
    calls = [
        client.stub.Open(client.open_request(world.job, attempt=attempt), timeout=20)
        for attempt, client in enumerate(clients, start=1)
    ]
    opened = []
    for call in calls:
        try:
            opened.append(list(call)[-1].opened.backend)
        except grpc.RpcError as error:
            assert Refused.from_call(error).reason == "REASON_FENCED"
    owner = max(opened, key=lambda ref: ref.epoch.number)
    clients[0].register(owner, descriptor("v"))
    for ref in opened:
        if ref != owner:
            with refused("REASON_FENCED"):
                clients[0].register(ref, descriptor("v"))
    cancelled = clients[0].stub.Open(clients[0].open_request(world.job, attempt=50))
    cancelled.cancel()
    clients[0].open(world.job, attempt=51)


@scenario
def describe_tells_what_a_backend_consists_of_and_close_ends_it(world):
    client = world.client()
    ref = client.open(world.job, attempt=4, max_parallelism=16).backend
    value, items, table = client.register(ref, descriptor("v"), descriptor("l", LIST), descriptor("m", MAP))
    client.apply(ref, put(value, b"a", b"1"), put(value, b"b", b"2"))
    done = client.checkpoint(ref, 7)
    described = client.describe(backend_pb2.BackendRef(id=ref.id))
    assert described.backend == ref and described.attempt == 4 and described.max_parallelism == 16
    assert [(s.state.id, s.entries) for s in described.states] == [(value, 2), (items, 0), (table, 0)]
    (checkpoint,) = described.checkpoints
    assert checkpoint.checkpoint == done.checkpoint and checkpoint.handle == done.handle
    assert not checkpoint.completed and not checkpoint.pinned
    assert abs(checkpoint.triggered_at_ms / 1000 - time.time()) < 60
    assert described.acknowledgement == session_pb2.Acknowledgement(applied_to=1, persisted_to=1)
    assert described.state_bytes > 0 and described.pending_bytes == 0 and described.failsafe == ""
    assert described.log_bytes == done.full_bytes > 0 and described.log_change_sets == 1
    everyone = client.call("Describe", service_pb2.DescribeRequest()).backends
    assert ref in [backend.backend for backend in everyone]
    with refused("REASON_BACKEND_NOT_OPEN"):
        client.describe(backend_pb2.BackendRef(id=backend_pb2.BackendId(job="nobody", operator="o")))
    assert client.end(ref) is True and client.end(ref) is False
    with refused("REASON_BACKEND_NOT_OPEN"):
        client.describe(ref)
    opened = client.open(world.job, attempt=4)
    assert not opened.reconnected and opened.checkpoint == done.checkpoint, "a closed backend restores"
    (found,) = client.read(opened.backend, get(value, b"b"))
    assert found.value == b"2"
