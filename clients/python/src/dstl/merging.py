"""The daemon's merge functions: it combines a stored value with an operand, and the client reads nothing for it.

| function | operand | value | a missing value |
| --- | --- | --- | --- |
| `SUM_I64`, `MIN_I64`, `MAX_I64` | int | int | the operand |
| `SUM_F64`, `MIN_F64`, `MAX_F64` | float | float | the operand |
| `COUNT` | int, how many to add | int | the operand |
| `AVERAGE_I64`, `AVERAGE_F64` | a number | `Average` | of this number |
| `APPEND` | bytes | bytes | the operand |
| `set_union(member)` | a set | frozenset | the operand |
| `HYPER_LOG_LOG` | bytes: one thing to count | bytes: a sketch of Apache DataSketches, lgK = 12 | a sketch of one |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import MalformedError
from .proto import state_pb2
from .serializers import BYTES, FLOAT64, INT64, Serializer, set_of

V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
T = TypeVar("T")


@dataclass(frozen=True)
class Merge(Generic[V, O]):
    """A merge function: its number in the protocol, the serializer of what is stored, and that of operands."""

    function: int
    value: Serializer[V]
    operand: Serializer[O]


@dataclass(frozen=True)
class Average:
    """A sum and how many numbers made it."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        """Sum by count; NaN without any number."""
        return self.sum / self.count if self.count else float("nan")


def _average(number: str, serializer: Serializer[float]) -> Serializer[Average]:
    layout = struct.Struct(number)

    def encode(value: Average) -> bytes:
        if not isinstance(value, Average):
            raise TypeError(f"expected Average, got {type(value).__name__}")
        try:
            return layout.pack(value.sum, value.count)
        except struct.error as error:
            raise ValueError(f"{value} is no average of this state: {error}") from None

    def decode(data: bytes) -> Average:
        if len(data) != 16:
            raise MalformedError(f"{len(data)} stored bytes are no average")
        return Average(*layout.unpack(data))

    return Serializer(f"average({serializer.id})", encode, decode)


_F = state_pb2

SUM_I64 = Merge(_F.MERGE_FUNCTION_SUM_I64, INT64, INT64)
"""Sum of integers; wraps around on overflow."""
MIN_I64 = Merge(_F.MERGE_FUNCTION_MIN_I64, INT64, INT64)
MAX_I64 = Merge(_F.MERGE_FUNCTION_MAX_I64, INT64, INT64)
SUM_F64 = Merge(_F.MERGE_FUNCTION_SUM_F64, FLOAT64, FLOAT64)
MIN_F64 = Merge(_F.MERGE_FUNCTION_MIN_F64, FLOAT64, FLOAT64)
MAX_F64 = Merge(_F.MERGE_FUNCTION_MAX_F64, FLOAT64, FLOAT64)
COUNT = Merge(_F.MERGE_FUNCTION_COUNT, INT64, INT64)
"""A count of things; a negative operand takes away."""
AVERAGE_I64 = Merge(_F.MERGE_FUNCTION_AVERAGE_I64, _average("<qq", INT64), INT64)  # type: ignore[arg-type]
AVERAGE_F64 = Merge(_F.MERGE_FUNCTION_AVERAGE_F64, _average("<dq", FLOAT64), FLOAT64)
APPEND = Merge(_F.MERGE_FUNCTION_APPEND, BYTES, BYTES)
"""Concatenation of bytes."""
HYPER_LOG_LOG = Merge(_F.MERGE_FUNCTION_HYPER_LOG_LOG, BYTES, BYTES)
"""A sketch of distinct operands, which the libraries of Apache DataSketches read."""


def set_union(member: Serializer[T]) -> Merge[frozenset[T], frozenset[T]]:
    """The union of sets whose members `member` writes."""
    return Merge(_F.MERGE_FUNCTION_SET_UNION, set_of(member), set_of(member))
