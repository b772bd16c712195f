"""What the scenarios stand on: a daemon process, a stock gRPC client made from `proto/` alone, a session, an object list.

Nothing here knows how the daemon works. Whatever is refused is checked in one place, `Refused`: the gRPC code must be the
one that `error.proto` documents for the reason, and the three plain trailers must say the same as the details.
"""

import contextlib
import importlib
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTOS = ROOT / "proto"

# How long anything may take that should come at once; generous, as the machine and its disk may be busy.
PATIENCE = 60.0


def generate_stubs():
    """Compiles the documents of the contract, and nothing else, into modules of this process."""
    out = tempfile.mkdtemp(prefix="dstl-stubs-")
    files = sorted(str(path) for path in (PROTOS / "dstl/v1").glob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    assert protoc.main(arguments) == 0, "protoc refuses the documents of the contract"
    sys.path.insert(0, out)
    names = ("backend", "checkpoint", "error", "service", "session", "state")
    modules = [importlib.import_module(f"dstl.v1.{name}_pb2") for name in names]
    modules.append(importlib.import_module("dstl.v1.service_pb2_grpc"))
    shutil.rmtree(out)
    return modules


backend_pb2, checkpoint_pb2, error_pb2, service_pb2, session_pb2, state_pb2, service_grpc = generate_stubs()

Kind = state_pb2.StateKind
Merge = state_pb2.MergeFunction
VALUE, LIST, MAP = state_pb2.STATE_KIND_VALUE, state_pb2.STATE_KIND_LIST, state_pb2.STATE_KIND_MAP


def documented_codes():
    """The gRPC codes that `error.proto` gives in brackets, by name of the reason."""
    text = (PROTOS / "dstl/v1/error.proto").read_text()
    found = re.findall(r"\[([^\]]+)\]\s*\n\s*(REASON_\w+) =", text)
    return {reason: set(re.findall(r"[A-Z_]{4,}", codes)) for codes, reason in found}


CODES = documented_codes()


class Refused(Exception):
    """An error of the daemon, as a call, a session, or a message within a session carries it."""

    def __init__(self, error, code=None):
        self.reason = error_pb2.Reason.Name(error.reason)
        self.scope = error_pb2.Scope.Name(error.scope)
        self.retryable = error.retryable
        self.message = error.message
        self.code = code
        super().__init__(f"{code} {self.reason} {self.scope} retryable={self.retryable}: {self.message}")
        assert error.reason != 0, f"an error without a reason: {error}"
        assert error.scope != 0, f"an error without a scope: {error}"
        assert len(error.message) > 10, f"an error that does not explain itself: {error}"

    @classmethod
    def from_call(cls, call):
        """The error that ended a call; fails if the call does not carry all that the contract promises."""
        trailers = dict(call.trailing_metadata() or ())
        where = f"{call.code()}: {call.details()}; trailers {trailers}"
        status = rpc_status.from_call(call)
        assert status is not None and len(status.details) == 1, f"no details: {where}"
        error = error_pb2.Error()
        assert status.details[0].Unpack(error), f"the detail is no dstl.v1.Error: {where}"
        refused = cls(error, call.code().name)
        assert trailers.get("dstl-reason") == refused.reason, where
        assert trailers.get("dstl-scope") == refused.scope, where
        assert trailers.get("dstl-retryable") == str(refused.retryable).lower(), where
        assert refused.code in CODES[refused.reason], f"error.proto documents {CODES[refused.reason]}: {where}"
        return refused


@contextlib.contextmanager
def refused(reason, *words, scope=None):
    """Expects the block to be refused for `reason`, with a message that has each of `words`."""
    try:
        yield
    except Refused as error:
        check_refusal(error, reason, *words, scope=scope)
    else:
        raise AssertionError(f"expected {reason}, but it was accepted")


def check_refusal(error, reason, *words, scope=None):
    assert error.reason == reason, f"expected {reason}, got {error}"
    for word in words:
        assert str(word) in error.message, f"the message does not name {word!r}: {error}"
    assert scope is None or error.scope == scope, f"expected {scope}: {error}"


def eventually(what, condition, patience=PATIENCE):
    """Waits until `condition()` is true and returns its value."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.02)


def op(kind, state, key, **fields):
    """One operation; `kind` is its name without prefix, `ns` short for the namespace."""
    if "ns" in fields:
        fields["namespace"] = fields.pop("ns")
    number = state_pb2.OperationKind.Value(f"OPERATION_KIND_{kind}")
    return state_pb2.Operation(kind=number, state=state, key=key, **fields)


def put(state, key, value, **fields):
    return op("PUT", state, key, value=value, **fields)


def get(state, key, **fields):
    return op("GET", state, key, **fields)


def descriptor(name, kind=None, merge=0, **more):
    return state_pb2.StateDescriptor(name=name, kind=kind or VALUE, merge=merge, **more)


def restore_latest(or_empty=True):
    return service_pb2.Restore(latest=service_pb2.Restore.Latest(or_empty=or_empty))


def restore_empty():
    return service_pb2.Restore(empty=service_pb2.Restore.Empty())


def restore_id(checkpoint):
    return service_pb2.Restore(id=checkpoint)


def restore_handles(*handles):
    return service_pb2.Restore(handles=service_pb2.Restore.Handles(handles=handles))


def retain(count=None):
    if count is None:
        return service_pb2.Retention(explicit=service_pb2.Retention.Explicit())
    return service_pb2.Retention(count=count)


# Options of every daemon (`key=value`).
SETTINGS = []


class Daemon:
    """One `dstl serve` process with a socket, a store and an admin address of its own."""

    def __init__(self, binary, folder, store, settings=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "dstl.sock"
        self.store = pathlib.Path(store)
        self.log = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.admin = "127.0.0.1:%d" % probe.getsockname()[1]
        self.command = [binary, "serve", "--socket", str(self.socket), "--store", str(store), "--admin", self.admin]
        # Most scenarios look at segments; few changes would lie in manifests.
        tails = "execution.checkpointing.data-inline-threshold=0"
        # Otherwise one comes at a random moment; scenarios ask for those they mean.
        periodic = "state.changelog.periodic-materialize.enabled=false"
        for setting in (f"dstl.data-dir={folder}/data", tails, periodic, *SETTINGS, *settings):
            self.command += ["--set", setting]
        self.process = None

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DSTL_")}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        eventually(f"the daemon serves; its log is {self.log}", self.answers)
        return self

    def answers(self):
        assert self.process.poll() is None, f"the daemon ended: {self.log.read_text()}"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        if self.alive():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self):
        """Stops it until it is resumed, as a host does that swaps or moves."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, patience=PATIENCE):
        return self.process.wait(patience)

    def client(self):
        return Client(self.socket)


class Client:
    """One connection to a daemon."""

    def __init__(self, path):
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        self.channel = grpc.insecure_channel(f"unix:{path}", options=options)
        self.stub = service_grpc.StateBackendServiceStub(self.channel)
        # What it has opened.
        self.opened = []

    def give_back(self):
        """Closes what it opened, as far as it still has it: a daemon guarantees memory to so many backends."""
        for ref in self.opened:
            with contextlib.suppress(Refused):
                self.end(ref)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, method, request, timeout=PATIENCE):
        """A unary call; its refusal as `Refused`."""
        try:
            return getattr(self.stub, method)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise Refused.from_call(error) from None

    def open_request(self, job, operator="op", subtask=0, parallelism=1, attempt=1, restore=None, **fields):
        backend = backend_pb2.BackendId(job=job, operator=operator, subtask=subtask)
        restore = restore or restore_latest()
        return service_pb2.OpenRequest(
            backend=backend, parallelism=parallelism, attempt=attempt, restore=restore, **fields
        )

    def open_raw(self, request):
        """All responses of one Open."""
        try:
            return list(self.stub.Open(request, timeout=PATIENCE))
        except grpc.RpcError as error:
            raise Refused.from_call(error) from None

    def open(self, job, **fields):
        responses = self.open_raw(self.open_request(job, **fields))
        kinds = [response.WhichOneof("response") for response in responses]
        assert kinds and kinds[-1] == "opened" and set(kinds[:-1]) <= {"restoring"}, kinds
        self.opened.append(responses[-1].opened.backend)
        return responses[-1].opened

    def register(self, ref, *descriptors):
        request = service_pb2.RegisterStatesRequest(backend=ref, states=descriptors)
        states = self.call("RegisterStates", request).states
        assert [state.descriptor for state in states] == list(descriptors)
        return [state.id for state in states]

    def apply(self, ref, *operations, number=None, timeout=PATIENCE):
        """One batch without a session."""
        batch = session_pb2.Batch(number=number or 0, operations=operations)
        request = service_pb2.ApplyBatchRequest(backend=ref, batch=batch, numbered=number is not None)
        return self.call("ApplyBatch", request, timeout)

    def read(self, ref, *operations):
        return list(self.apply(ref, *operations).result.results)

    def checkpoint(self, ref, number, attachment=b"", timeout_ms=0):
        barrier = checkpoint_pb2.Barrier(checkpoint_id=number, attachment=attachment, timeout_ms=timeout_ms)
        return self.call("Checkpoint", service_pb2.CheckpointRequest(backend=ref, barrier=barrier)).checkpoint

    def notify(self, ref, kind, identity):
        reply = self.call("Notify", service_pb2.NotifyRequest(backend=ref, notice=notice(kind, identity)))
        return checkpoint_pb2.NoticeOutcome.Name(reply.outcome).removeprefix("NOTICE_OUTCOME_")

    def describe(self, ref):
        (description,) = self.call("Describe", service_pb2.DescribeRequest(backend=ref)).backends
        return description

    def retained(self, ref):
        return [c.checkpoint.checkpoint_id for c in self.describe(ref).checkpoints]

    def end(self, ref):
        return self.call("Close", service_pb2.CloseRequest(backend=ref)).closed

    def session(self, ref, **options):
        return Session(self, ref, **options)


def notice(kind, identity):
    kind = checkpoint_pb2.NoticeKind.Value(f"NOTICE_KIND_{kind}")
    return checkpoint_pb2.Notice(kind=kind, checkpoint=identity)


class Session:
    """A session whose responses a thread reads, unless `unread`. Acknowledgements are folded into `ack`."""

    def __init__(self, client, ref, start=True, unread=False):
        self.requests = queue.SimpleQueue()
        self.call = client.stub.Session(iter(self.requests.get, None))
        self.responses = queue.Queue()
        self.stash = []
        self.ack = session_pb2.Acknowledgement()
        self.spent = 0
        if not unread:
            threading.Thread(target=self._read, daemon=True).start()
        if start:
            self.send(start=session_pb2.SessionStart(backend=ref))
        if start and not unread:
            started = self.next("started")
            self.number = started.applied_to
            self.ack.applied_to, self.ack.credit = started.applied_to, started.credit

    def _read(self):
        try:
            for response in self.call:
                kind = response.WhichOneof("response")
                self.responses.put((kind, getattr(response, kind)))
            self.responses.put(("end", None))
        except grpc.RpcError as error:
            self.responses.put(("end", error))
        except Exception as error:  # a half-closed channel at the end of a scenario
            self.responses.put(("end", error))

    def send(self, **request):
        self.requests.put(session_pb2.SessionRequest(**request))

    def next(self, *kinds, patience=PATIENCE):
        """The next response of one of `kinds`; others but acknowledgements are kept for later calls."""
        for index, (kind, message) in enumerate(self.stash):
            if kind in kinds:
                del self.stash[index]
                return message
        deadline = time.monotonic() + patience
        while True:
            try:
                kind, message = self.responses.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                kept = [kept for kept, _ in self.stash]
                raise AssertionError(f"no {kinds} within {patience} s; kept {kept}, acknowledged {self.ack}") from None
            if kind == "acknowledgement":
                self._acknowledged(message)
            if kind in kinds:
                return message
            if kind == "end":
                self.stash.append((kind, message))
                said = message and Refused.from_call(message)
                raise AssertionError(f"expected {kinds}, but the session ended: {said}")
            if kind != "acknowledgement":
                self.stash.append((kind, message))

    def _acknowledged(self, ack):
        for name in ("applied_to", "persisted_to", "confirmed_to", "credit"):
            assert getattr(ack, name) >= getattr(self.ack, name), f"`{name}` went back: {self.ack} then {ack}"
        assert ack.confirmed_to <= ack.persisted_to <= ack.applied_to, ack
        self.ack = ack

    def batch(self, *operations, number=None):
        """Sends a batch without waiting; returns its number."""
        if number is None:
            number, self.number = self.number, self.number + 1
        self.send(batch=session_pb2.Batch(number=number, operations=operations))
        return number

    def read(self, *operations):
        number = self.batch(*operations)
        result = self.next("result")
        assert result.number == number, f"batch {number} expected: {result}"
        return list(result.results)

    def wait(self, rung, number, patience=PATIENCE):
        """Waits until `rung` ("applied", "persisted", "confirmed") covers everything below `number`."""
        deadline = time.monotonic() + patience
        while getattr(self.ack, f"{rung}_to") < number:
            self.next("acknowledgement", patience=max(0.0, deadline - time.monotonic()))

    def credit_for(self, cost):
        """Waits until `cost` more bytes may be written, and takes them."""
        while self.spent + cost > self.ack.credit:
            self.next("acknowledgement")
        self.spent += cost

    def barrier(self, number, attachment=b"", timeout_ms=0):
        barrier = checkpoint_pb2.Barrier(checkpoint_id=number, attachment=attachment, timeout_ms=timeout_ms)
        self.send(barrier=barrier)

    def checkpoint(self, number, attachment=b"", timeout_ms=0):
        self.barrier(number, attachment, timeout_ms)
        completed = self.next("checkpoint_completed")
        assert completed.checkpoint.checkpoint_id == number, completed
        return completed

    def failed(self, number):
        """The error with which a checkpoint failed."""
        failed = self.next("checkpoint_failed")
        assert failed.checkpoint_id == number, failed
        return Refused(failed.error)

    def notify(self, kind, identity):
        self.send(notice=notice(kind, identity))
        reply = self.next("notice")
        assert reply.notice == notice(kind, identity)
        return checkpoint_pb2.NoticeOutcome.Name(reply.outcome).removeprefix("NOTICE_OUTCOME_")

    def halted(self, first_failed, **answers):
        """The next halt, which must answer `batch=` or `checkpoint_id=`."""
        halted = self.next("halted")
        assert halted.first_failed == first_failed, halted
        ((field, value),) = answers.items()
        assert halted.WhichOneof("refused") == field and getattr(halted, field) == value, halted
        return Refused(halted.error)

    def resume(self, number):
        self.send(resume=session_pb2.Resume(number=number))

    def persist(self, token):
        self.send(persist=session_pb2.PersistMark(token=token))
        reply = self.next("persisted")
        assert reply.token == token, reply
        return reply.persisted_to

    def half_close(self):
        self.requests.put(None)

    def end(self):
        """How the stream ends: `None` in order, else the refusal."""
        error = self.next("end")
        return error and Refused.from_call(error)

    def finish(self):
        """Half-closes, and expects an end in order with nothing left unread."""
        self.half_close()
        said = self.end()
        assert said is None, said
        assert not self.stash, self.stash


@contextlib.contextmanager
def outage(daemon, job):
    """Lets every upload of a job fail: the folder of its segments becomes a file for a while."""
    segments = daemon.store / job / "segments"
    hidden = segments.with_name("hidden")
    segments.mkdir(parents=True, exist_ok=True)
    segments.rename(hidden)
    segments.write_text("not a folder")
    yield
    segments.unlink()
    # From here on the daemon may write there again, so that its folders are filled one by one.
    for path in sorted(hidden.rglob("*")):
        if path.is_file():
            back = segments / path.relative_to(hidden)
            back.parent.mkdir(parents=True, exist_ok=True)
            path.rename(back)
    shutil.rmtree(hidden)


def objects(store, job=None):
    """Path to (size, time of change) of every object of a local store."""
    base = pathlib.Path(store)
    found = {}
    for path in (base / job if job else base).rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                status = path.stat()
                found[str(path.relative_to(base))] = (status.st_size, status.st_mtime_ns)
    return found
