"""The threads of a session: one sends, one receives; both move messages between callers, the book and the stream.

grpcio takes frames from `_frames` in a thread of its own, one by one as the connection has room, so that is the sender. The receiver is
ours; it also opens the next stream where one breaks. Everything that both share is under one lock, which nobody holds while waiting for
anything but the lock's own condition.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from threading import Condition
from typing import Any

import grpc

from ..errors import (
    AnswerLostError,
    ClosedError,
    ConnectionLostError,
    DaemonRestartedError,
    DstlError,
    FencedError,
    ProtocolError,
    RejectedError,
    SessionLostError,
    UnreachableError,
    UnsupportedError,
    again,
    from_rpc,
)
from ..proto import service_pb2, session_pb2
from .book import Book
from . import forks
from .connection import HELLO_TIMEOUT, Connection, start_thread
from .outgoing import Reply

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 1.0


class _Link:
    """One stream to the daemon."""

    def __init__(self) -> None:
        self.call: Any = None
        self.is_over = False
        self.is_half_closed = False


class Worker:
    """A session. Callers use `tell`, which never blocks for long."""

    def __init__(
        self, connection: Connection, hello: service_pb2.HelloResponse, start: bytes, touched: set[int], reconnect_timeout: float
    ) -> None:
        self._connection, self._hello, self._start, self._touched = connection, hello, start, touched
        self._reconnect_timeout = reconnect_timeout
        self._changed = Condition()
        self._book: Book | None = None
        self._link = _Link()
        self._closing: list[Reply] = []
        self._is_closing = False
        self._failure: DstlError | None = None
        self._forks = forks.count()

    def start(self, reply: Reply) -> None:
        """Opens the first stream, which is tried once."""
        start_thread(lambda: self._run(reply), "dstl-session")

    # For callers.

    def tell(self, action: Callable[[Book], None]) -> None:
        """Lets `action` hand something in; raises why the session is over."""
        forks.check(self._forks, "this session was opened")
        with self._changed:
            if self._failure is not None:
                raise again(self._failure)
            if self._is_closing:
                raise ClosedError("the session is closed")
            assert self._book is not None, "callers get a session once it has started"
            action(self._book)
            self._changed.notify()

    @property
    def book(self) -> Book:
        """What is known, for reading single fields."""
        assert self._book is not None, "callers get a session once it has started"
        return self._book

    def take_losses(self) -> RejectedError | None:
        """What happened to batches that nobody asked about, told once."""
        if self._forks != forks.count():
            return None
        with self._changed:
            return self.book.take_losses()

    def close(self, reply: Reply) -> None:
        """Ends the session in order: what was handed in is sent and applied, and what the daemon owes is answered."""
        if self._forks != forks.count():
            reply.settle(None)
            return
        with self._changed:
            if self._failure is not None:
                lost = None if isinstance(self._failure, ClosedError) else again(self._failure)
                reply.settle(None, lost)
                return
            self._is_closing = True
            self._closing.append(reply)
            self._changed.notify_all()

    def abort(self) -> None:
        """Ends the session at once: what is not acknowledged may be applied or not."""
        if self._forks == forks.count():
            self._end(ClosedError("the session was left by an exception, or its backend closed"))

    # Threads.

    def _run(self, reply: Reply) -> None:
        try:
            started = self._open_stream()
        except DstlError as error:
            self._end(error)
            reply.settle(None, error)
            return
        with self._changed:
            self._book = Book(self._hello.limits, self._touched, started)
            self._changed.notify_all()
        reply.settle(None)
        try:
            while not self._serve():
                pass
        except DstlError as error:
            self._end(error)
        except Exception as error:  # A fault of this client must not leave callers waiting for ever.
            lost = SessionLostError(f"a fault of the client: {error!r}")
            lost.__cause__ = error
            self._end(lost)

    def _serve(self) -> bool:
        """Receives until the stream ends; true if the session is over in order. Opens another stream where this one broke."""
        link = self._link
        try:
            for response in link.call:
                with self._changed:
                    self.book.on_response(response)
                    self._changed.notify()
            broken: DstlError = ConnectionLostError("the daemon ended the stream")
            if link.is_half_closed and not self.book.is_owed():
                self._end(ClosedError("the session is closed"))
                return True
        except grpc.RpcError as error:
            broken = from_rpc(error)
        if self._failure is not None:
            return True
        broken = _after_break(broken)
        with self._changed:
            link.is_over = True
            self.book.on_break()
            self._changed.notify_all()
        if link.is_half_closed:
            # Everything is applied; only answers to barriers and notices were lost, and those were just told.
            self._end(broken if self.book.is_owed() else ClosedError("the session is closed"))
            return True
        self._reconnect(broken)
        return False

    def _reconnect(self, last: DstlError) -> None:
        deadline = time.monotonic() + self._reconnect_timeout
        pause = _FIRST_PAUSE
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                text = f"the daemon did not come back within {self._reconnect_timeout:g} s; last: {last}"
                lost = UnreachableError(text)
                lost.__cause__ = last
                raise lost
            try:
                instance = self._connection.hello(min(left, HELLO_TIMEOUT)).daemon_instance
                if instance != self._hello.daemon_instance:
                    raise DaemonRestartedError(
                        f"the daemon was restarted: its instance was `{self._hello.daemon_instance}` and is `{instance}`; "
                        "open the backend again, from a checkpoint"
                    )
                started = self._open_stream()
                with self._changed:
                    self.book.on_started(started)
                    self._changed.notify_all()
                return
            except DstlError as error:
                last = _after_break(error)
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait(min(pause, max(left, 0.0)))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _open_stream(self) -> session_pb2.SessionStarted:
        """Opens a stream and reads its first message."""
        link = _Link()
        link.call = self._connection.session(_frames(weakref.ref(self), link), session_pb2.SessionResponse.FromString)
        try:
            first = next(link.call)
            if first.WhichOneof("response") != "started":
                raise ProtocolError("the first message of the session is not `SessionStarted`")
            self._link = link
            return first.started  # type: ignore[no-any-return]
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except StopIteration:
            raise ConnectionLostError("the stream ended before it began") from None
        finally:
            if self._link is not link:
                with self._changed:
                    link.is_over = True
                    self._changed.notify_all()

    def first_frame(self) -> bytes:
        """`SessionStart`."""
        return self._start

    def next_frame(self, link: _Link) -> bytes | None:
        """Waits for the next frame of a stream; `None` ends it."""
        with self._changed:
            while not link.is_over and self._failure is None:
                if link is self._link and self._book is not None:
                    frame = self._book.take_next()
                    if frame is not None:
                        return frame
                    if self._is_closing and self._book.is_settled():
                        link.is_half_closed = True
                        return None
                self._changed.wait()
        return None

    def _end(self, failure: DstlError) -> None:
        with self._changed:
            if self._failure is not None:
                return
            self._failure = failure
            self._link.is_over = True
            if self._book is not None:
                self._book.fail(failure)
            for reply in self._closing:
                reply.settle(None, None if isinstance(failure, ClosedError) else again(failure))
            self._changed.notify_all()
        if self._link.call is not None:
            self._link.call.cancel()


def _frames(worker: weakref.ref[Worker], link: _Link) -> Iterator[bytes]:
    """What the sender sends."""
    owner = worker()
    if owner is None:
        return
    yield owner.first_frame()
    while True:
        frame = owner.next_frame(link)
        if frame is None:
            return
        yield frame


def _after_break(error: DstlError) -> DstlError:
    """What a broken or refused stream means: returns the error to go on with a new stream, or raises the session's last one."""
    if isinstance(error, (SessionLostError, AnswerLostError, UnsupportedError, ProtocolError, ClosedError, FencedError)):
        raise error
    if isinstance(error, ConnectionLostError) or (error.retryable and error.scope == "SESSION"):
        return error
    lost = SessionLostError(f"the daemon ended the session: {error}", scope=error.scope)
    lost.reason = error.reason
    lost.__cause__ = error
    raise lost
