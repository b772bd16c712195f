"""The daemon around the contract: health, reflection, metrics, sockets, signals."""

import contextlib
import os
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request

import grpc_health.v1.health_pb2 as health_pb2
import grpc_health.v1.health_pb2_grpc as health_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from prometheus_client.parser import text_string_to_metric_families

from operations import opened
from support import (
    PATIENCE,
    Daemon,
    check_refusal,
    descriptor,
    eventually,
    get,
    grpc,
    put,
    refused,
    service_grpc,
    service_pb2,
)
from world import scenario

SERVICE = "dstl.v1.StateBackendService"


def http(daemon, path):
    try:
        with urllib.request.urlopen(f"http://{daemon.admin}{path}", timeout=PATIENCE) as reply:
            return reply.status, reply.headers["content-type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def metrics(daemon):
    """Sum over the labels of every sample, by name."""
    code, kind, text = http(daemon, "/metrics")
    assert code == 200 and ("openmetrics" in kind or "text/plain" in kind), kind
    sums = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("dstl_"), family.name
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def health(client, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return health_grpc.HealthStub(client.channel).Check(request, timeout=PATIENCE).status


@scenario
def grpc_health_and_reflection_speak_to_stock_clients(world):
    client = world.client()
    for service in ("", SERVICE):
        assert health(client, service) == health_pb2.HealthCheckResponse.SERVING
    try:
        health(client, "nobody")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND
    database = ProtoReflectionDescriptorDatabase(client.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    described = DescriptorPool(database).FindServiceByName(SERVICE)
    own = service_pb2.DESCRIPTOR.services_by_name["StateBackendService"]
    assert [m.name for m in described.methods] == [m.name for m in own.methods]
    assert [f.name for f in described.methods[1].input_type.fields] == [f.name for f in own.methods[1].input_type.fields]


@scenario
def the_admin_pages_answer_and_metrics_move(world):
    daemon = world.start()
    assert http(daemon, "/live")[0] == 200
    eventually("ready", lambda: http(daemon, "/ready")[0] == 200)
    assert http(daemon, "/nothing")[0] == 404
    before = metrics(daemon)
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    for number in range(10):
        session.batch(put(state, b"k", b"v"), put(state, b"l", b"w"))
    session.checkpoint(1)
    session.barrier(1)
    session.next("checkpoint_failed")
    after = metrics(daemon)
    moved = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    for word in ("batch", "operation", "checkpoint", "backend"):
        assert any(word in name for name in moved), f"nothing about {word} moved: {sorted(moved)}"
    assert any(value == 20 for value in moved.values()), f"20 operations are nowhere: {moved}"
    session.finish()


@scenario
def sigterm_drains_sessions_go_on_until_they_close(world):
    daemon = world.start()
    client, other = world.client(daemon), world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"k", b"1"))
    session.wait("applied", 1)
    daemon.terminate()
    eventually("draining shows in health", lambda: health(client) == health_pb2.HealthCheckResponse.NOT_SERVING)
    assert http(daemon, "/ready")[0] == 503 and http(daemon, "/live")[0] == 200
    with refused("REASON_DRAINING", scope="SCOPE_DAEMON"):
        other.open("another")
    with refused("REASON_DRAINING"):
        other.open(world.job, attempt=2)
    session.call.cancel()
    session = other.session(ref)
    session.batch(put(state, b"k", b"2"))
    session.checkpoint(1)
    session.finish()
    client.end(ref)
    assert daemon.wait() == 0
    assert not daemon.socket.exists(), "the socket is removed"
    again = world.client(world.start(store=daemon.store)).open(world.job, attempt=2)
    assert again.checkpoint.checkpoint_id == 1


@scenario
def a_drain_that_takes_too_long_ends_what_is_left_in_order(world):
    daemon = world.start(settings=["drain-timeout=400 ms"])
    client = world.client(daemon)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"k", b"1"))
    session.checkpoint(1)
    begun = time.monotonic()
    daemon.terminate()
    said = session.end()
    check_refusal(said, "REASON_BACKEND_CLOSED")
    assert daemon.wait() == 0 and time.monotonic() - begun < 10
    stuck = world.start(settings=["drain-timeout=1 h"])
    client = world.client(stuck)
    client.session(client.open(world.job).backend)
    stuck.terminate()
    time.sleep(0.2)
    assert stuck.alive()
    stuck.terminate()
    assert stuck.wait() == 0, "a second signal ends at once"


@scenario
def a_stale_socket_is_taken_over_and_a_living_one_is_not(world):
    daemon = world.start()
    assert stat.S_IMODE(os.stat(daemon.socket).st_mode) == 0o600
    second = Daemon(world.binary, world.folder / "second", daemon.store)
    second.command[second.command.index("--socket") + 1] = str(daemon.socket)
    ended = subprocess.run(second.command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1 and str(daemon.socket) in ended.stdout + ended.stderr, ended
    client = world.client(daemon)
    client.open(world.job)
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    world.client(daemon).open(world.job, attempt=2)
    plain = Daemon(world.binary, world.folder / "third", daemon.store)
    plain.socket.write_text("precious")
    ended = subprocess.run(plain.command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1 and plain.socket.read_text() == "precious", "a file that is no socket stays"


@scenario
def garbage_on_the_socket_harms_nobody(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    session = client.session(ref)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\4\0\0\0\0\0"
    for garbage in (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(5000),
        b"\0" * 5000,
        preface[:10],
        preface + os.urandom(3000),
        preface + settings + b"\xff\xff\xff\1\5\0\0\0\1" + os.urandom(70000),
        preface + settings + b"\0\0\5\1\5\0\0\0\1" + b"\xff" * 5,
        preface + settings + b"\0\0\4\0\0\0\0\0\1" + b"data",
        preface + settings * 20000,
    ):
        for hang_up in (True, False):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(0.3)
                raw.connect(str(world.daemon.socket))
                with contextlib.suppress(OSError):
                    raw.sendall(garbage)
                    if not hang_up:
                        raw.shutdown(socket.SHUT_WR)
                        raw.recv(65536)
    session.batch(put(state, b"k", b"v"))
    (found,) = session.read(get(state, b"k"))
    assert found.value == b"v"
    session.finish()


@scenario
def garbage_inside_of_grpc_is_refused_by_call(world):
    client, ref, (state,) = opened(world, descriptor("v"))
    raw = client.channel.unary_unary(f"/{SERVICE}/Hello", lambda m: m, lambda m: m)
    for garbage in (b"\xff" * 50, os.urandom(1000), b"\x0a\xff\xff\xff\xff\x0f"):
        try:
            raw(garbage, timeout=PATIENCE)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT), error
    try:
        client.channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=PATIENCE)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    stream = client.channel.stream_stream(f"/{SERVICE}/Session", lambda m: m, lambda m: m)
    with contextlib.suppress(grpc.RpcError):
        list(stream(iter([b"\xff" * 50]), timeout=PATIENCE))
    client.apply(ref, put(state, b"k", b"v"))


@scenario
def the_owner_of_another_daemon_fences_this_one(world):
    first = world.start()
    second = world.start(store=first.store)
    client, newer = world.client(first), world.client(second)
    ref = client.open(world.job).backend
    (state,) = client.register(ref, descriptor("v"))
    session = client.session(ref)
    session.batch(put(state, b"k", b"1"))
    kept = session.checkpoint(1)
    session.batch(put(state, b"k", b"lost"))
    opened_there = newer.open(world.job, attempt=2)
    assert opened_there.checkpoint == kept.checkpoint
    session.barrier(2)
    check_refusal(session.failed(2), "REASON_FENCED", scope="SCOPE_BACKEND")
    check_refusal(session.end(), "REASON_FENCED", scope="SCOPE_BACKEND")
    for refusal in (
        lambda: client.apply(ref, put(state, b"k", b"2")),
        lambda: client.checkpoint(ref, 3),
        lambda: client.call("Persist", service_pb2.PersistRequest(backend=ref)),
        lambda: client.notify(ref, "DISCARD", kept.checkpoint),
        lambda: client.call("Pin", service_pb2.PinRequest(backend=ref, checkpoint=kept.checkpoint)),
    ):
        with refused("REASON_FENCED"):
            refusal()
    with refused("REASON_FENCED", 1, 2):
        client.open(world.job, attempt=1)
    assert newer.retained(opened_there.backend) == [1]
    (found,) = newer.read(opened_there.backend, get(state, b"k"))
    assert found.value == b"1"
    back = client.open(world.job, attempt=3)
    assert back.checkpoint.checkpoint_id == 1
    with refused("REASON_FENCED"):
        newer.checkpoint(opened_there.backend, 2)


@scenario
def subtasks_of_one_attempt_restore_the_same_checkpoint(world):
    client = world.client()
    shape = dict(parallelism=2, key_group_assignment=2)
    refs = [client.open(world.job, subtask=subtask, **shape).backend for subtask in (0, 1)]
    for number in (1, 2):
        for ref in refs:
            client.checkpoint(ref, number, attachment=b"%d" % number)
    client.checkpoint(refs[0], 3, attachment=b"3")
    again = [client.open(world.job, subtask=subtask, attempt=2, **shape) for subtask in (0, 1)]
    assert [o.checkpoint.checkpoint_id for o in again] == [2, 2], "3 was never taken by both"
    assert [o.attachment for o in again] == [b"2", b"2"]
    with refused("REASON_FENCED"):
        client.open(world.job, subtask=1, **shape)


@scenario
def a_stock_client_may_name_any_authority(world):
    for authority in (None, "localhost", "dstl", "weird%2Fname"):
        options = [("grpc.default_authority", authority)] if authority else []
        with grpc.insecure_channel(f"unix:{world.daemon.socket}", options=options) as channel:
            service_grpc.StateBackendServiceStub(channel).Hello(service_pb2.HelloRequest(), timeout=PATIENCE)
