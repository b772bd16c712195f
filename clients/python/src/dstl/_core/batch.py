"""Batches: operations that are applied whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import LimitExceededError
from ..proto import service_pb2, state_pb2 as s
from . import wire
from .handles import Handle, ListHandle, MapHandle, MergingHandle, TimerHandle, ValueHandle, present
from .outgoing import Outgoing

K = TypeVar("K")
M = TypeVar("M")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True)
class Slot(Generic[T]):
    """The place of a read in its batch: `applied[slot]` is what it read."""

    first: int
    count: int
    _read: Callable[[Sequence[s.OperationResult | None]], T]


class Applied:
    """What became of a batch: its number, and what it read."""

    def __init__(self, number: int, results: list[s.OperationResult]) -> None:
        self.number = number
        self._results = {result.operation: result for result in results}

    def __getitem__(self, slot: Slot[T]) -> T:
        found = [self._results.get(index) for index in range(slot.first, slot.first + slot.count)]
        return slot._read(found)

    def __repr__(self) -> str:
        return f"Applied(number={self.number}, results={len(self._results)})"


class Batch:
    """Collects operations of typed states; `session.send` hands it over. One thread at a time may fill it.

    Writes return nothing. Reads return a `Slot`; they see the batch's own earlier writes.
    """

    def __init__(self, limits: service_pb2.Limits, backend: object) -> None:
        self._limits, self._backend = limits, backend
        self._parts: list[bytes] = []
        self._count = self._bytes = 0
        self._reads = self._writes = False
        self._states: set[int] = set()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Batch({self._count} operations, {self._bytes} bytes)"

    def check_backend(self, backend: object) -> None:
        """Raises `ValueError` if the batch was made for another backend, whose states have other ids."""
        if backend is not self._backend:
            raise ValueError("this batch was made by a session of another backend")

    def _own(self, state: Any, kind: type[Any]) -> int:
        """The id of a state of this kind."""
        if not isinstance(state, kind):
            raise TypeError(f"expected a {kind.__name__.replace('Handle', 'State')}, got {type(state).__name__}")
        if getattr(state, "_runner", None) is not self._backend:
            raise ValueError(f"state `{state.name}` is one of another backend")
        return int(state.id)

    def _write(self, state: int, operation: bytes, count: int = 1) -> None:
        self._writes = True
        self._push(state, operation, count)

    def _read(self, state: int, operation: bytes, read: Callable[[s.OperationResult | None], T]) -> Slot[T]:
        self._reads = True
        slot = Slot(self._count, 1, lambda results: read(results[0]))
        self._push(state, operation, 1)
        return slot

    def _push(self, state: int, operation: bytes, count: int) -> None:
        self._parts.append(operation)
        self._states.add(state)
        self._count += count
        self._bytes += len(operation)

    def put(self, state: ValueHandle[K, V], key: K, value: V) -> None:
        """Sets a value."""
        self._write(self._own(state, ValueHandle), state.op_put(key, value))

    def put_many(self, state: ValueHandle[K, V], keys: Any, values: Any) -> None:
        """Sets many values; see `ValueState.put_many` for what columns may be."""
        id = self._own(state, ValueHandle)
        for operations, count in state.ops_put_many(keys, values):
            self._write(id, operations, count)

    def merge(self, state: MergingHandle[K, V, O], key: K, operand: O) -> None:
        """Merges an operand into a value. The receipt tells where that would have become too long."""
        self._write(self._own(state, MergingHandle), state.op_merge(key, operand))

    def merge_many(self, state: MergingHandle[K, V, O], keys: Any, operands: Any) -> None:
        """Merges many operands."""
        id = self._own(state, MergingHandle)
        for operations, count in state.ops_merge_many(keys, operands):
            self._write(id, operations, count)

    def get(self, state: ValueHandle[K, V], key: K) -> Slot[V | None]:
        """Reads a value."""
        return self._read(self._own(state, ValueHandle), state.op_get(key), state.value_of)

    def get_many(self, state: ValueHandle[K, V], keys: Any) -> Slot[list[V | None]]:
        """Reads many values."""
        first = self._count
        self._reads = True
        id = self._own(state, ValueHandle)
        for operations, count in state.ops_get_many(keys):
            self._push(id, operations, count)
        return Slot(first, self._count - first, lambda results: state.values_of([present(r, state.name) for r in results]))

    def clear(self, state: Handle[K], key: K) -> None:
        """Removes all of a key."""
        self._write(self._own(state, Handle), state.op_clear(key))

    def merge_namespaces(self, state: Handle[K], key: K, sources: Iterable[Any]) -> None:
        """Merges what other namespaces have of a key into the handle's, and clears them."""
        self._write(self._own(state, Handle), state.op_merge_namespaces(key, sources))

    def map_put(self, state: MapHandle[K, M, V], key: K, map_key: M, value: V) -> None:
        """Sets an entry of a map."""
        self._write(self._own(state, MapHandle), state.op_put(key, map_key, value))

    def map_merge(self, state: MapHandle[K, M, V], key: K, map_key: M, operand: Any) -> None:
        """Merges an operand into an entry of a map."""
        self._write(self._own(state, MapHandle), state.op_merge(key, map_key, operand))

    def map_get(self, state: MapHandle[K, M, V], key: K, map_key: M) -> Slot[V | None]:
        """Reads an entry of a map."""
        return self._read(self._own(state, MapHandle), state.op_get(key, map_key), state.value_of)

    def map_remove(self, state: MapHandle[K, M, V], key: K, map_key: M) -> None:
        """Removes an entry of a map."""
        self._write(self._own(state, MapHandle), state.op_remove(key, map_key))

    def list_add(self, state: ListHandle[K, V], key: K, value: V) -> None:
        """Appends an element to a list."""
        self._write(self._own(state, ListHandle), state.op_add(key, value))

    def list_add_all(self, state: ListHandle[K, V], key: K, values: Iterable[V]) -> None:
        """Appends elements to a list."""
        self._write(self._own(state, ListHandle), state.op_all(s.OPERATION_KIND_LIST_ADD_ALL, key, values))

    def list_update(self, state: ListHandle[K, V], key: K, values: Iterable[V]) -> None:
        """Replaces a list."""
        self._write(self._own(state, ListHandle), state.op_all(s.OPERATION_KIND_LIST_UPDATE, key, values))

    def timer_register(self, state: TimerHandle[K, Any], key: K, time: int) -> None:
        """Registers a timer."""
        self._write(self._own(state, TimerHandle), state.op_register(key, time))

    def timer_delete(self, state: TimerHandle[K, Any], key: K, time: int) -> None:
        """Deletes a timer."""
        self._write(self._own(state, TimerHandle), state.op_delete(key, time))

    def seal(self) -> Outgoing:
        """The batch as it goes out; raises `LimitExceededError` if the daemon would not take it."""
        most_bytes, most = self._limits.max_message_bytes - 64, self._limits.max_batch_operations
        if self._bytes > most_bytes or self._count > most:
            raise LimitExceededError(
                f"a batch of {self._bytes} bytes and {self._count} operations: the daemon takes {most_bytes} and {most}; "
                "send several smaller ones"
            )
        return Outgoing(
            b"".join(self._parts), self._count, reads=self._reads, writes=self._writes, states=frozenset(self._states)
        )

    def to_proto(self) -> bytes:
        """The batch as a `Batch` of the protocol, without number."""
        return wire.batch_request(0, self.seal().operations)



