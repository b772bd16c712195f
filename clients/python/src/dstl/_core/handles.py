"""Typed states: how their operations are written and their answers read. The faces add how they are sent."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from ..errors import LimitExceededError, LimitReachedError, MalformedError
from ..merging import Merge
from ..proto import service_pb2, state_pb2 as s
from ..serializers import Serializer
from . import columns
from .wire import Target

K = TypeVar("K")
N = TypeVar("N")
M = TypeVar("M")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
H = TypeVar("H", bound="Handle[Any]")
Result = s.OperationResult

OPERATOR_KEY = b""
"""Operator state has no key."""


class Handle(Generic[K]):
    """A state, a namespace in it and, where the client assigns key groups, the key group. It may be used by several threads."""

    def __init__(
        self, registered: s.RegisteredState, limits: service_pb2.Limits, keys: Serializer[K], namespaces: Serializer[Any]
    ) -> None:
        self.name, self.id = registered.descriptor.name, registered.id
        self.descriptor = registered.descriptor
        self._limits, self._keys, self._namespaces = limits, keys, namespaces
        self._is_keyed = registered.descriptor.redistribution == s.REDISTRIBUTION_UNSPECIFIED
        self._target = Target(registered.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, namespace={self._target.namespace!r})"

    def in_namespace(self: H, namespace: Any) -> H:
        """The same state in another namespace (a window, say), which the state's namespace serializer takes."""
        encoded = self._namespaces.encode(namespace)
        self._check_key(encoded, "namespace", may_be_empty=True)
        other = copy.copy(self)
        other._target = Target(self.id, encoded, self._target.key_group)
        return other

    def in_key_group(self: H, key_group: int) -> H:
        """The same state for keys of this key group: needed exactly where the backend's assignment is `GIVEN`."""
        other = copy.copy(self)
        other._target = Target(self.id, self._target.namespace, key_group)
        return other

    def _check_key(self, encoded: bytes, what: str, may_be_empty: bool = False) -> bytes:
        if len(encoded) > self._limits.max_key_bytes:
            raise LimitExceededError(
                f"a {what} of {len(encoded)} bytes for state `{self.name}`: the daemon takes {self._limits.max_key_bytes} "
                "(its option `rpc.max-key-size`)"
            )
        if not encoded and not may_be_empty:
            raise LimitExceededError(f"an empty {what} for state `{self.name}`")
        return encoded

    def _key(self, key: K) -> bytes | None:
        encoded = self._keys.encode(key)
        if not self._is_keyed:
            return None
        return self._check_key(encoded, "key")

    def _check_value(self, encoded: bytes) -> bytes:
        if len(encoded) > self._limits.max_value_bytes:
            raise LimitExceededError(
                f"a value of {len(encoded)} bytes for state `{self.name}`: the daemon takes {self._limits.max_value_bytes} "
                "(its option `rpc.max-value-size`)"
            )
        return encoded

    def _check_columns(self, keys: columns.Column, values: columns.Column | None) -> None:
        if values is not None and len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys and {len(values)} values for state `{self.name}`")
        if len(keys):
            self._check_key(bytes(keys.longest), "key")
            self._check_key(bytes(min(keys.shortest, 1)), "key")
            self._check_value(bytes(values.longest if values is not None else 0))

    def op_clear(self, key: K) -> bytes:
        """Removes all of the key and namespace."""
        return self._target.one(s.OPERATION_KIND_CLEAR, self._key(key))

    def op_merge_namespaces(self, key: K, sources: Iterable[Any]) -> bytes:
        """Merges what other namespaces have of the key into this one."""
        if isinstance(sources, (str, bytes)):
            raise TypeError(f"state `{self.name}`: expected namespaces, got {type(sources).__name__}")
        encoded = [self._namespaces.encode(source) for source in sources]
        self.check_distinct(encoded)
        return self._target.other(s.OPERATION_KIND_MERGE_NAMESPACES, self._key(key), values=encoded)

    def check_distinct(self, sources: Sequence[bytes]) -> None:
        """Raises if namespaces cannot be merged into this one."""
        if len(set(sources)) < len(sources) or self._target.namespace in sources:
            raise ValueError(f"state `{self.name}`: the namespaces to merge must be distinct, and none may be the target")

    def op_keys(self, token: bytes, limit: int, all_namespaces: bool) -> bytes:
        """A page of keys that have entries."""
        return self._target.other(s.OPERATION_KIND_KEYS, token=token, limit=limit, all_namespaces=all_namespaces)


def check_limit(result: Result | None, name: str) -> None:
    """Raises if a write was not carried out since a value would have become too long."""
    if result is not None and result.outcome == s.OUTCOME_LIMIT_REACHED:
        raise LimitReachedError(f"state `{name}`: the result would be longer than `max_value_bytes`; nothing was changed")


def present(result: Result | None, name: str) -> Result:
    """The result of a read."""
    if result is None:
        raise MalformedError(f"state `{name}`: an answer without a result")
    return result


class ValueHandle(Handle[K], Generic[K, V]):
    """One value per key."""

    def __init__(self, *arguments: Any, values: Serializer[V], default: V | None = None) -> None:
        super().__init__(*arguments)
        self._values, self._default = values, default

    def op_put(self, key: K, value: V) -> bytes:
        """Sets the value."""
        return self._target.one(s.OPERATION_KIND_PUT, self._key(key), None, self._check_value(self._values.encode(value)))

    def op_get(self, key: K) -> bytes:
        """Reads the value."""
        return self._target.one(s.OPERATION_KIND_GET, self._key(key))

    def value_of(self, result: Result | None) -> V | None:
        """The value in an answer."""
        found = present(result, self.name)
        return self._values.decode(found.value) if found.found else None

    def values_of(self, results: Sequence[Result]) -> list[V | None]:
        """The values in answers."""
        if self._values.id == "bytes":
            return [result.value if result.found else None for result in results]  # type: ignore[misc]
        decode = self._values.decode
        return [decode(result.value) if result.found else None for result in results]

    def ops_put_many(self, keys: Any, values: Any) -> list[tuple[bytes, int]]:
        """Batches that set values."""
        return self._ops_many(s.OPERATION_KIND_PUT, keys, values, self._values)

    def ops_get_many(self, keys: Any) -> list[tuple[bytes, int]]:
        """Batches that read values."""
        return self._ops_many(s.OPERATION_KIND_GET, keys, None, None)

    def ops_clear_many(self, keys: Any) -> list[tuple[bytes, int]]:
        """Batches that remove values."""
        return self._ops_many(s.OPERATION_KIND_CLEAR, keys, None, None)

    def _ops_many(self, kind: int, keys: Any, values: Any, serializer: Serializer[Any] | None) -> list[tuple[bytes, int]]:
        key_column = columns.encode(keys, self._keys, f"keys of `{self.name}`")
        value_column = None
        if serializer is not None:
            value_column = columns.encode(values, serializer, f"values of `{self.name}`")
        self._check_columns(key_column, value_column)
        return list(columns.batches(self._target, kind, key_column, value_column, self._limits))


class MergingHandle(ValueHandle[K, V], Generic[K, V, O]):
    """One value per key, which the daemon merges operands into."""

    def __init__(self, *arguments: Any, merge: Merge[V, O]) -> None:
        super().__init__(*arguments, values=merge.value)
        self._operands = merge.operand

    def op_merge(self, key: K, operand: O) -> bytes:
        """Merges an operand into the value."""
        encoded = self._check_value(self._operands.encode(operand))
        return self._target.one(s.OPERATION_KIND_MERGE, self._key(key), None, encoded)

    def ops_merge_many(self, keys: Any, operands: Any) -> list[tuple[bytes, int]]:
        """Batches that merge operands."""
        return self._ops_many(s.OPERATION_KIND_MERGE, keys, operands, self._operands)


class MapHandle(Handle[K], Generic[K, M, V]):
    """A map per key, in order of the bytes of its own keys."""

    def __init__(self, *arguments: Any, map_keys: Serializer[M], values: Serializer[V], operands: Serializer[Any] | None) -> None:
        super().__init__(*arguments)
        self._map_keys, self._values, self._operands = map_keys, values, operands

    def _map_key(self, map_key: M) -> bytes:
        return self._check_key(self._map_keys.encode(map_key), "map key", may_be_empty=True)

    def op_put(self, key: K, map_key: M, value: V) -> bytes:
        """Sets an entry."""
        encoded = self._check_value(self._values.encode(value))
        return self._target.one(s.OPERATION_KIND_MAP_PUT, self._key(key), self._map_key(map_key), encoded)

    def op_merge(self, key: K, map_key: M, operand: Any) -> bytes:
        """Merges an operand into an entry."""
        if self._operands is None:
            raise TypeError(f"state `{self.name}` has no merge function: register it with `merge=`")
        encoded = self._check_value(self._operands.encode(operand))
        return self._target.one(s.OPERATION_KIND_MAP_MERGE, self._key(key), self._map_key(map_key), encoded)

    def op_get(self, key: K, map_key: M) -> bytes:
        """Reads an entry."""
        return self._target.one(s.OPERATION_KIND_MAP_GET, self._key(key), self._map_key(map_key))

    def op_contains(self, key: K, map_key: M) -> bytes:
        """Looks for an entry."""
        return self._target.one(s.OPERATION_KIND_MAP_CONTAINS, self._key(key), self._map_key(map_key))

    def op_remove(self, key: K, map_key: M) -> bytes:
        """Removes an entry."""
        return self._target.one(s.OPERATION_KIND_MAP_REMOVE, self._key(key), self._map_key(map_key))

    def op_count(self, key: K) -> bytes:
        """Counts entries."""
        return self._target.one(s.OPERATION_KIND_MAP_COUNT, self._key(key))

    def op_entries(self, key: K, first: bytes, end: bytes, prefix: bytes, limit: int) -> bytes:
        """A page of entries."""
        return self._target.other(
            s.OPERATION_KIND_MAP_ENTRIES, self._key(key), map_key=first, map_key_to=end, map_prefix=prefix, limit=limit
        )

    def value_of(self, result: Result | None) -> V | None:
        """The value in an answer."""
        found = present(result, self.name)
        return self._values.decode(found.value) if found.found else None

    def entries_of(self, result: Result) -> list[tuple[M, V]]:
        """The entries of a page."""
        return [(self._map_keys.decode(entry.key), self._values.decode(entry.value)) for entry in result.entries]


class ListHandle(Handle[K], Generic[K, V]):
    """A list per key."""

    def __init__(self, *arguments: Any, values: Serializer[V]) -> None:
        super().__init__(*arguments)
        self._values = values

    def op_add(self, key: K, value: V) -> bytes:
        """Appends an element."""
        return self._target.one(s.OPERATION_KIND_LIST_ADD, self._key(key), None, self._check_value(self._values.encode(value)))

    def op_all(self, kind: int, key: K, values: Iterable[V]) -> bytes:
        """Appends or replaces elements."""
        if isinstance(values, (str, bytes)):
            raise TypeError(f"state `{self.name}`: expected elements, got {type(values).__name__}")
        encoded = [self._check_value(self._values.encode(value)) for value in values]
        return self._target.other(kind, self._key(key), values=encoded)

    def op_get(self, key: K, start: int, limit: int, token: bytes = b"") -> bytes:
        """A page of elements, from an index or from where the token of the page before says."""
        return self._target.other(s.OPERATION_KIND_LIST_GET, self._key(key), start=start, limit=limit, token=token)

    def op_count(self, key: K) -> bytes:
        """Counts elements."""
        return self._target.one(s.OPERATION_KIND_LIST_COUNT, self._key(key))

    def elements_of(self, result: Result) -> list[V]:
        """The elements of a page."""
        return list(map(self._values.decode, result.elements))


class TimerHandle(Handle[K], Generic[K, N]):
    """Times, each with a key and a namespace."""

    def op_register(self, key: K, time: int) -> bytes:
        """Registers a timer."""
        return self._target.other(s.OPERATION_KIND_TIMER_REGISTER, self._key(key), time=self._time(time))

    def op_delete(self, key: K, time: int) -> bytes:
        """Deletes a timer."""
        return self._target.other(s.OPERATION_KIND_TIMER_DELETE, self._key(key), time=self._time(time))

    def op_due(self, kind: int, time: int, limit: int, token: bytes = b"") -> bytes:
        """A page of timers that are due, of all key groups."""
        target = Target(self.id)
        return target.other(kind, limit=limit, token=token, time=self._time(time), grouped=False)

    def op_count(self) -> bytes:
        """Counts timers of all key groups."""
        return Target(self.id).other(s.OPERATION_KIND_TIMER_COUNT, grouped=False)

    def _time(self, time: int) -> int:
        if isinstance(time, bool) or not isinstance(time, int):
            raise TypeError(f"state `{self.name}`: expected int as a time, got {type(time).__name__}")
        if not -(1 << 63) < time < 1 << 63:
            raise ValueError(f"state `{self.name}`: {time} is not within 64 bits, signed, above the lowest")
        return time
