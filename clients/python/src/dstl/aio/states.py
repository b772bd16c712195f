"""Typed states, one operation at a time or many at once.

Each is bound to its backend, and works through the backend's open session. What several tasks or threads wait for at the same time travels in
one batch. Keys are 1 byte at least, but for operator state, whose key is `None`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .._core.handles import (
    Handle,
    ListHandle,
    MapHandle,
    MergingHandle,
    TimerHandle,
    ValueHandle,
    check_limit,
    present,
)
from .._core.outgoing import Outgoing
from ..errors import ProtocolError
from ..proto import state_pb2 as s
from .session import Receipt, Session

K = TypeVar("K")
N = TypeVar("N")
M = TypeVar("M")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
B = TypeVar("B", bound="Bound")

Result = s.OperationResult
PAGE = 1000
"""Entries that a scan reads at once, unless told otherwise."""


class Runner(Protocol):
    """What operations go through: a backend with an open session, or a query."""

    async def operate(self, operation: bytes, reads: bool, writes: bool, state: int) -> Result | None:
        """Runs one operation."""

    async def operate_all(self, batches: list[tuple[bytes, int]], reads: bool, writes: bool, state: int) -> list[Result]:
        """Runs batches, and returns the results of reads, in order."""

    def writer(self) -> Session:
        """The open session, or why there is none."""


@dataclass(frozen=True)
class StoredKey(Generic[K]):
    """A key that has entries, with its namespace (as the namespace serializer reads it) and key group."""

    key: K
    namespace: Any
    key_group: int


@dataclass(frozen=True)
class Timer(Generic[K, N]):
    """A timer."""

    time: int
    key: K
    namespace: N
    key_group: int


class Bound:
    """What all states can do."""

    _runner: Runner
    id: int
    name: str

    def bind(self: B, runner: Runner) -> B:
        """Lets operations go through `runner`."""
        self._runner = runner
        return self

    async def _read(self, operation: bytes) -> Result:
        return present(await self._runner.operate(operation, True, False, self.id), self.name)

    async def _write(self, operation: bytes) -> None:
        check_limit(await self._runner.operate(operation, False, True, self.id), self.name)

    async def _send_all(self, batches: list[tuple[bytes, int]]) -> Receipts:
        session = self._runner.writer()
        sealed: list[Outgoing] = session.sealed(batches, False, True, self.id)
        return Receipts([await session.hand_over(batch) for batch in sealed])


class Receipts:
    """What `put_many` and its like handed over."""

    def __init__(self, receipts: list[Receipt]) -> None:
        self._receipts = receipts

    def __len__(self) -> int:
        return len(self._receipts)

    async def applied(self) -> int:
        """Waits until all of it is applied; returns the number that `wait_persisted` and its like take, 0 if nothing was handed over.

        Raises the first error. If nobody calls this, the session's next `flush`, `barrier` or `close` raises it.
        """
        number = -1
        for receipt in self._receipts:
            receipt.observed = True
        for receipt in self._receipts:
            applied = await receipt.applied()
            for result in applied._results.values():
                check_limit(result, "of the batch")
            number = max(number, applied.number)
        return number + 1


class _Keyed(Handle[K], Bound):
    """What states with keys can do."""

    async def clear(self, key: K) -> None:
        """Removes all of a key."""
        await self._write(self.op_clear(key))

    async def merge_namespaces(self, key: K, sources: Iterable[Any]) -> None:
        """Merges what other namespaces have of a key into this one, and clears them there: what session windows need.

        Values merge by the state's merge function (without one, the first that there is remains), lists append, maps unite.
        """
        await self._write(self.op_merge_namespaces(key, sources))

    async def keys(self, *, page: int = PAGE) -> AsyncIterator[K]:
        """Keys of this namespace that have entries, in an order of the daemon's that does not change while others come and go."""
        token = b""
        while True:
            result = await self._read(self.op_keys(token, page, False))
            for stored in result.keys:
                yield self._keys.decode(stored.key)
            token = result.token
            if not token:
                return

    async def all_keys(self, *, page: int = PAGE) -> AsyncIterator[StoredKey[K]]:
        """Keys of every namespace that have entries."""
        token = b""
        while True:
            result = await self._read(self.op_keys(token, page, True))
            for stored in result.keys:
                namespace = self._namespaces.decode(stored.namespace)
                yield StoredKey(self._keys.decode(stored.key), namespace, stored.key_group)
            token = result.token
            if not token:
                return


class ValueState(_Keyed[K], ValueHandle[K, V]):
    """One value per key and namespace."""

    async def get(self, key: K) -> V | None:
        """The value; `None` if there is none."""
        return self.value_of(await self._read(self.op_get(key)))

    async def get_or_default(self, key: K) -> V:
        """The value, or the default that the state was registered with; `ValueError` if it has none."""
        value = await self.get(key)
        if value is not None:
            return value
        if self._default is None:
            raise ValueError(f"state `{self.name}` was registered without a default")
        return self._default

    async def put(self, key: K, value: V) -> None:
        """Sets the value; it is applied when this returns."""
        await self._write(self.op_put(key, value))

    async def get_many(self, keys: Any) -> list[V | None]:
        """The values of many keys, in order. `keys` is a column as in `put_many`."""
        results = await self._runner.operate_all(self.ops_get_many(keys), True, False, self.id)
        return self.values_of(results)

    async def put_many(self, keys: Any, values: Any) -> Receipts:
        """Sets many values, in order; returns once all is handed over, before it is applied (see `Receipts.applied`, `Session.flush`).

        Columns are of one length. Each is a list (or other sequence) of what the serializer takes; a NumPy array (numbers for `INT64` and
        `FLOAT64`; for `BYTES` dtype `S8`, `V8`, or uint8 of n x 8); or an Arrow array (numbers, binary, fixed-size binary, strings)
        without nulls. Raises `TypeError`, `ValueError` and `LimitExceededError` before anything is sent.
        """
        return await self._send_all(self.ops_put_many(keys, values))

    async def clear_many(self, keys: Any) -> Receipts:
        """Removes many values; as `put_many`."""
        return await self._send_all(self.ops_clear_many(keys))


class MergingState(ValueState[K, V], MergingHandle[K, V, O]):
    """One value per key and namespace, which a merge function of the daemon combines with operands."""

    async def merge(self, key: K, operand: O) -> None:
        """Merges an operand into the value. Raises `LimitReachedError`, and changes nothing, if the value would become too long."""
        await self._write(self.op_merge(key, operand))

    async def merge_many(self, keys: Any, operands: Any) -> Receipts:
        """Merges many operands, in order; a key may come several times. As `put_many`."""
        return await self._send_all(self.ops_merge_many(keys, operands))


class MapState(_Keyed[K], MapHandle[K, M, V]):
    """A map per key and namespace, in order of the bytes of its keys (use `ORDERED_INT64` for numbers)."""

    async def get(self, key: K, map_key: M) -> V | None:
        """The value of an entry; `None` if there is none."""
        return self.value_of(await self._read(self.op_get(key, map_key)))

    async def put(self, key: K, map_key: M, value: V) -> None:
        """Sets an entry."""
        await self._write(self.op_put(key, map_key, value))

    async def merge(self, key: K, map_key: M, operand: Any) -> None:
        """Merges an operand into an entry, with the function of `merge=` at registration."""
        await self._write(self.op_merge(key, map_key, operand))

    async def remove(self, key: K, map_key: M) -> None:
        """Removes an entry, if it is there."""
        await self._write(self.op_remove(key, map_key))

    async def contains(self, key: K, map_key: M) -> bool:
        """Whether there is an entry."""
        return (await self._read(self.op_contains(key, map_key))).found

    async def count(self, key: K) -> int:
        """The number of entries."""
        return (await self._read(self.op_count(key))).count

    async def entries(
        self, key: K, *, first: M | None = None, end: M | None = None, prefix: bytes = b"", page: int = PAGE
    ) -> AsyncIterator[tuple[M, V]]:
        """Entries in order of the bytes of their keys, from `first` on (inclusive) to before `end`, of those that begin with `prefix`.

        It is read in pages: what is written meanwhile behind the current page is seen.
        """
        start = b"" if first is None else self._map_key(first)
        stop = b"" if end is None else self._map_key(end)
        if end is not None and not stop:
            return
        while True:
            result = await self._read(self.op_entries(key, start, stop, prefix, page))
            for entry in self.entries_of(result):
                yield entry
            if not result.more:
                return
            start = result.entries[-1].key + b"\0"


class ListState(_Keyed[K], ListHandle[K, V]):
    """A list per key and namespace."""

    async def get(self, key: K) -> list[V]:
        """All elements; an empty list if there are none. Lists beyond a message are read in pages (see `elements`)."""
        return [element async for element in self.elements(key, page=0)]

    async def elements(self, key: K, *, start: int = 0, page: int = PAGE) -> AsyncIterator[V]:
        """Elements from index `start` on, in pages of at most `page` (0: as many as fit a message).

        With TTL, `start` counts what has not expired by then. None that is there from the first page to the last is left out, whatever
        expires meanwhile; what is appended meanwhile comes last.
        """
        token = b""
        while True:
            result = await self._read(self.op_get(key, 0 if token else start, page, token))
            for element in self.elements_of(result):
                yield element
            if not result.more:
                return
            token = result.token
            if not token:
                raise ProtocolError(f"state `{self.name}`: a page of a list that others follow, without a token")

    async def add(self, key: K, value: V) -> None:
        """Appends an element."""
        await self._write(self.op_add(key, value))

    async def add_all(self, key: K, values: Iterable[V]) -> None:
        """Appends elements, in order."""
        await self._write(self.op_all(s.OPERATION_KIND_LIST_ADD_ALL, key, values))

    async def update(self, key: K, values: Iterable[V]) -> None:
        """Replaces the whole list; without elements it is cleared."""
        await self._write(self.op_all(s.OPERATION_KIND_LIST_UPDATE, key, values))

    async def count(self, key: K) -> int:
        """The number of elements."""
        return (await self._read(self.op_count(key))).count


class TimerState(TimerHandle[K, N], Bound):
    """Times, each with a key and a namespace. Of one key and namespace a time is there once."""

    async def register(self, key: K, time: int) -> None:
        """Registers a timer, in the handle's namespace; a time is any integer of 64 bits above the lowest."""
        await self._write(self.op_register(key, time))

    async def delete(self, key: K, time: int) -> None:
        """Deletes a timer, if it is there."""
        await self._write(self.op_delete(key, time))

    async def due(self, time: int, *, page: int = PAGE) -> AsyncIterator[Timer[K, N]]:
        """Timers at or before `time`, of all keys, in order of time, then the bytes of key and namespace.

        Delete each in the batch that writes what it leads to: then it fires exactly once, whatever crashes.
        """
        token = b""
        while True:
            result = await self._read(self.op_due(s.OPERATION_KIND_TIMERS, time, page, token))
            for timer in self._timers(result):
                yield timer
            token = result.token
            if not token:
                return

    async def peek(self) -> Timer[K, N] | None:
        """The earliest timer."""
        result = await self._read(self.op_due(s.OPERATION_KIND_TIMERS, (1 << 63) - 1, 1))
        return next(iter(self._timers(result)), None)

    async def fire(self, time: int, limit: int = 0) -> tuple[list[Timer[K, N]], bool]:
        """Reads and deletes timers at or before `time`, at most `limit` (0: as many as fit); the flag says that others follow.

        No barrier may come between it and the writes that it leads to. If its answer is lost with its stream, the session ends with
        `AnswerLostError`: restore the last checkpoint.
        """
        operation = self.op_due(s.OPERATION_KIND_TIMERS_FIRE, time, limit)
        result = present(await self._runner.operate(operation, True, True, self.id), self.name)
        return self._timers(result), result.more

    async def count(self) -> int:
        """The number of timers of all keys, whatever their time."""
        return (await self._read(self.op_count())).count

    def _timers(self, result: Result) -> list[Timer[K, N]]:
        key, namespace = self._keys.decode, self._namespaces.decode
        return [Timer(t.time, key(t.key), namespace(t.namespace), t.key_group) for t in result.timers]
