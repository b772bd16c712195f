"""Reading a backend beside its writer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar, overload

import grpc

from .._core import wire
from .._core.connection import Connection, start_thread
from .._core.outgoing import Reply as AnyReply
from ..checkpoints import Checkpoint
from ..errors import ClosedError, DstlError, NotFoundError, ProtocolError, SessionLostError, UnsupportedError, again, from_message, from_rpc
from ..proto import service_pb2, state_pb2 as s
from ..serializers import BYTES, Serializer
from .face import Reply, finish
from .states import ListState, MapState, TimerState, ValueState

K = TypeVar("K")
N = TypeVar("N")
M = TypeVar("M")
V = TypeVar("V")


class Query:
    """A reader of one backend, whoever owns it; made by `client.query`. A context manager: leaving it closes it.

    `value_state`, `map_state`, `list_state` and `timer_state` give states by name, with the methods that read; those that write raise
    `UnsupportedError`. Serializers are those that the writer uses.
    """

    def __init__(self, connection: Connection, limits: service_pb2.Limits, start: service_pb2.QueryStart) -> None:
        self._connection, self._limits, self._start = connection, limits, start
        self._changed = threading.Condition()
        self._requests: deque[bytes] = deque()
        self._asked: deque[tuple[int, AnyReply]] = deque()
        self._next = 0
        self._failure: DstlError | None = None
        self._started = service_pb2.QueryStarted()
        self._call: Any = None
        self.checkpoint: Checkpoint | None = None
        """With `completed=True`: the checkpoint that the newest answer read."""

    async def begin(self) -> None:
        """Opens the stream."""
        reply = Reply()
        self._requests.append(service_pb2.QueryRequest(start=self._start).SerializeToString())
        self._call = self._connection.query(self._frames(), service_pb2.QueryResponse.FromString)
        start_thread(lambda: self._receive(reply), "dstl-query")
        await finish(reply)

    def _frames(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._requests:
                    if self._failure is not None:
                        return
                    self._changed.wait()
                frame = self._requests.popleft()
            yield frame

    def _receive(self, began: AnyReply) -> None:
        failure: DstlError = ClosedError("the daemon ended the query")
        pages = service_pb2.QueryStates()
        try:
            for response in self._call:
                kind = response.WhichOneof("response")
                if kind == "states":
                    pages.MergeFrom(response.states)
                elif kind == "started":
                    states = [*pages.states, *response.started.states]
                    self._started.CopyFrom(response.started)
                    self._started.ClearField("states")
                    self._started.states.extend(states)
                    began.settle(None)
                else:
                    self._answer(kind, response)
        except grpc.RpcError as error:
            failure = from_rpc(error)
        except DstlError as error:
            failure = error
        except Exception as error:  # A fault of this client must not leave callers waiting for ever.
            failure = SessionLostError(f"a fault of the client: {error!r}")
            failure.__cause__ = error
        with self._changed:
            self._failure = self._failure or failure
            asked, self._asked = self._asked, deque()
            self._changed.notify_all()
        began.settle(None, self._failure)
        for _, reply in asked:
            reply.settle(None, self._failure)

    def _answer(self, kind: str | None, response: service_pb2.QueryResponse) -> None:
        with self._changed:
            number, reply = self._asked.popleft() if self._asked else (-1, None)
        if reply is None or kind not in ("result", "failed"):
            raise ProtocolError(f"an unexpected message of the daemon: {kind}")
        if kind == "failed":
            reply.settle(None, from_message(response.failed.error))
            return
        if response.result.number != number:
            raise ProtocolError(f"the answer to query {response.result.number}, where {number} comes next")
        if response.result.HasField("checkpoint"):
            self.checkpoint = Checkpoint.of(response.result.checkpoint)
        reply.settle(list(response.result.results))

    async def operate(self, operation: bytes, reads: bool, writes: bool, state: int) -> s.OperationResult | None:
        """Runs one operation."""
        if writes or not reads:
            self.writer()
        return (await self._ask([operation]))[0]

    async def operate_all(
        self, batches: list[tuple[bytes, int]], reads: bool, writes: bool, state: int
    ) -> list[s.OperationResult]:
        """Runs batches of reads."""
        results: list[s.OperationResult] = []
        for operations, _ in batches:
            results += await self._ask(wire.split(operations))
        return results

    async def _ask(self, operations: list[bytes]) -> list[s.OperationResult]:
        """The results of reads; those that did not fit a message are asked again."""
        self._connection.guard()
        results: list[s.OperationResult] = []
        while len(results) < len(operations):
            reply = Reply()
            content = b"".join(operations[len(results) :])
            with self._changed:
                if self._failure is not None:
                    raise again(self._failure)
                number, self._next = self._next, self._next + 1
                # `QueryRequest.batch` and `QueryBatch` have the tags of a session's batch.
                self._requests.append(wire.batch_request(number, content))
                self._asked.append((number, reply))
                self._changed.notify_all()
            answered = [result for result in await finish(reply) if result.outcome != s.OUTCOME_ASK_AGAIN]
            if not answered:
                raise ProtocolError("an answer to a query without results")
            results += answered
        return results

    def writer(self) -> NoReturn:
        """A query writes nothing."""
        raise UnsupportedError("a query only reads")

    @property
    def state_names(self) -> list[str]:
        """The states that the backend had when the query began."""
        return [state.descriptor.name for state in self._started.states]

    def _arguments(self, name: str, kind: Any, keys: Any, namespaces: Any) -> tuple[Any, ...]:
        for state in self._started.states:
            if state.descriptor.name == name and state.descriptor.kind == kind:
                return state, self._limits, keys, namespaces
        raise NotFoundError(f"the backend had no state `{name}` of this kind when the query began; it had {self.state_names}")

    def value_state(
        self, name: str, key: Serializer[K], value: Serializer[V], *, namespace: Serializer[Any] = BYTES
    ) -> ValueState[K, V]:
        """A state of values."""
        arguments = self._arguments(name, s.STATE_KIND_VALUE, key, namespace)
        return ValueState[K, V](*arguments, values=value).bind(self)

    def map_state(
        self, name: str, key: Serializer[K], map_key: Serializer[M], value: Serializer[V], *, namespace: Serializer[Any] = BYTES
    ) -> MapState[K, M, V]:
        """A state of maps."""
        arguments = self._arguments(name, s.STATE_KIND_MAP, key, namespace)
        return MapState[K, M, V](*arguments, map_keys=map_key, values=value, operands=None).bind(self)

    def list_state(
        self, name: str, key: Serializer[K], value: Serializer[V], *, namespace: Serializer[Any] = BYTES
    ) -> ListState[K, V]:
        """A state of lists."""
        arguments = self._arguments(name, s.STATE_KIND_LIST, key, namespace)
        return ListState[K, V](*arguments, values=value).bind(self)

    @overload
    def timer_state(self, name: str, key: Serializer[K]) -> TimerState[K, bytes]: ...

    @overload
    def timer_state(self, name: str, key: Serializer[K], *, namespace: Serializer[N]) -> TimerState[K, N]: ...

    def timer_state(self, name: str, key: Serializer[K], *, namespace: Serializer[Any] = BYTES) -> TimerState[K, Any]:
        """Timers."""
        return TimerState[K, Any](*self._arguments(name, s.STATE_KIND_TIMER, key, namespace)).bind(self)

    async def close(self) -> None:
        """Ends the query. In a child of the process that began it this does nothing."""
        if self._connection.is_forked:
            return
        with self._changed:
            self._failure = self._failure or ClosedError("the query is closed")
            self._changed.notify_all()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Query:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
