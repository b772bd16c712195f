"""The connection to one daemon: calls, and the guard of whoever makes them."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition, Thread
from typing import Any

import grpc

from .. import _version
from ..errors import ClosedError, ConnectionLostError, DstlError, ProtocolError, from_rpc
from ..proto import service_pb2
from . import forks, peer
from .outgoing import Reply

SERVICE = "/dstl.v1.StateBackendService/"
HELLO_TIMEOUT = 10.0
"""Seconds that one Hello may take."""
_PAUSE = 0.05
_BACKOFF = 5.0
"""Seconds for which a call is tried again while gRPC still pauses before it connects to a daemon that is there again."""

# A daemon that does not answer pings for so long is gone (stopped, or its host is): calls then end instead of waiting for ever.
_KEEPALIVE_MS = 10_000
_KEEPALIVE_TIMEOUT_MS = 15_000

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # This one is how long a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]

_MESSAGES = {
    "Hello": "HelloResponse",
    "RegisterStates": "RegisterStatesResponse",
    "ApplyBatch": "ApplyBatchResponse",
    "Checkpoint": "CheckpointResponse",
    "Notify": "NotifyResponse",
    "Persist": "PersistResponse",
    "Pin": "PinResponse",
    "Release": "ReleaseResponse",
    "Materialize": "MaterializeResponse",
    "Describe": "DescribeResponse",
    "Discard": "DiscardResponse",
    "DescribeJob": "DescribeJobResponse",
    "DeclareJob": "DeclareJobResponse",
    "Close": "CloseResponse",
}


def _serialize(message: Any) -> bytes:
    return message.SerializeToString()  # type: ignore[no-any-return]


def _raw(message: bytes) -> bytes:
    return message


class Connection:
    """One channel. Any thread may use it, in the process that made it."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.target, self._forks, self._closed = target, forks.count(), False
        self.path = None if "://" in target or (":" in target and "/" not in target) else target
        if self.path is not None:
            address = f"unix:{os.path.abspath(self.path)}"
        else:
            address = target.partition("://")[2] or target
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._calls = {
            name: self._channel.unary_unary(
                SERVICE + name, request_serializer=_serialize, response_deserializer=getattr(service_pb2, answer).FromString
            )
            for name, answer in _MESSAGES.items()
        }

    def guard(self) -> None:
        """Raises if this process, or anybody, may not use the connection any more."""
        forks.check(self._forks, "this connection was made")
        if self._closed:
            raise ClosedError("the client is closed")

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one that connected."""
        return self._forks != forks.count()

    def call(self, name: str, request: Any, reply: Reply, timeout: float | None = None) -> None:
        """Makes a unary call; never blocks."""
        self.guard()
        until = time.monotonic() + _BACKOFF
        try:
            future = self._calls[name].future(request, timeout=timeout)
        except ValueError as error:
            raise ClosedError("the client is closed") from error

        def once_more() -> None:
            time.sleep(_PAUSE)
            try:
                self._calls[name].future(request, timeout=timeout).add_done_callback(settle)
            except ValueError:
                reply.settle(None, ClosedError("the client is closed"))

        def settle(done: Any) -> None:
            try:
                value = done.result()
            except grpc.RpcError as error:
                if self.is_only_late(error, until):
                    start_thread(once_more, "dstl-call")
                else:
                    reply.settle(None, from_rpc(error))
            except grpc.FutureCancelledError:
                reply.settle(None, ClosedError("the client was closed while the call waited"))
            else:
                reply.settle(value)

        future.add_done_callback(settle)

    def is_only_late(self, error: Any, until: float) -> bool:
        """Whether a call was not sent since gRPC pauses after a failure, although the daemon listens again by now."""
        if self.path is None or self._closed or time.monotonic() >= until:
            return False
        if error.code() is not grpc.StatusCode.UNAVAILABLE or "failed to connect" not in (error.details() or ""):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.path) == 0

    def hello(self, timeout: float) -> service_pb2.HelloResponse:
        """Asks who is there, and waits; raises `ConnectionLostError` or why the daemon refused. For threads of this package."""
        request = service_pb2.HelloRequest(protocol_min=1, protocol_max=1, client=f"dstl-python/{_version.VERSION}")
        try:
            answer: service_pb2.HelloResponse = self._calls["Hello"](request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except ValueError as error:
            raise ClosedError("the client is closed") from error
        if not answer.HasField("limits"):
            raise ProtocolError("the daemon told no limits")
        return answer

    def greet(self, reply: Reply, wait: float) -> None:
        """Says Hello, for up to `wait` seconds until somebody is there."""

        deadline = time.monotonic() + wait

        def run() -> None:
            while True:
                try:
                    if self.path is not None:
                        peer.check(self.path)
                    reply.settle(self.hello(HELLO_TIMEOUT))
                    return
                except ConnectionLostError as error:
                    if not error.retryable or time.monotonic() >= deadline:
                        reply.settle(None, error)
                        return
                    time.sleep(_PAUSE)
                except DstlError as error:
                    reply.settle(None, error)
                    return
                except Exception as error:  # What nobody foresaw must not leave the caller waiting for ever.
                    lost = ConnectionLostError(f"a fault of the client: {error!r}", retryable=False)
                    lost.__cause__ = error
                    reply.settle(None, lost)
                    return

        start_thread(run, "dstl-connect")

    def session(self, frames: Iterator[bytes], answer: Any) -> Any:
        """Begins a session stream over frames that are encoded already."""
        return self._stream("Session", frames, answer)

    def query(self, frames: Iterator[bytes], answer: Any) -> Any:
        """Begins a query stream."""
        return self._stream("Query", frames, answer)

    def _stream(self, name: str, frames: Iterator[bytes], answer: Any) -> Any:
        self.guard()
        method = self._channel.stream_stream(SERVICE + name, request_serializer=_raw, response_deserializer=answer)
        return method(frames)

    def open(self, request: service_pb2.OpenRequest) -> Opening:
        """Begins to open a backend."""
        self.guard()
        method = self._channel.unary_stream(
            SERVICE + "Open", request_serializer=_serialize, response_deserializer=service_pb2.OpenResponse.FromString
        )
        return Opening(self, lambda: method(request))

    def close(self) -> None:
        """Ends all calls. In a child of the process that connected it does nothing."""
        if not self._closed and not self.is_forked:
            self._closed = True
            self._channel.close()


class Opening:
    """A running Open: its messages are taken one by one."""

    def __init__(self, connection: Connection, begin: Callable[[], Any]) -> None:
        self._connection, self._begin = connection, begin
        self._call, self._is_cancelled = begin(), False
        self._changed = Condition()
        self._events: deque[tuple[Any, DstlError | None]] = deque()
        self._waiting: Reply | None = None
        start_thread(self._run, "dstl-open")

    def _run(self) -> None:
        until = time.monotonic() + _BACKOFF
        while True:
            try:
                for message in self._call:
                    self._tell(message, None)
                self._tell(None, ProtocolError("the daemon ended Open without a backend"))
                return
            except grpc.RpcError as error:
                if self._is_cancelled or not self._connection.is_only_late(error, until):
                    self._tell(None, from_rpc(error))
                    return
                time.sleep(_PAUSE)
            try:
                self._call = self._begin()
            except ValueError:
                self._tell(None, ClosedError("the client is closed"))
                return

    def _tell(self, message: Any, error: DstlError | None) -> None:
        with self._changed:
            if self._waiting is None:
                self._events.append((message, error))
            else:
                waiting, self._waiting = self._waiting, None
                waiting.settle(message, error)

    def next(self, reply: Reply) -> None:
        """Settles `reply` with the next message."""
        with self._changed:
            if self._events:
                reply.settle(*self._events.popleft())
            else:
                self._waiting = reply

    def cancel(self) -> None:
        """Ends the restore."""
        self._is_cancelled = True
        self._call.cancel()


def start_thread(run: Any, name: str) -> Thread:
    """Starts a thread that does not keep the process from ending."""
    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
