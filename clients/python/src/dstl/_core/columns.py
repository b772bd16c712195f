"""Many keys and values at once, made into operations by few steps of Python.

A column is one of these, with as many entries as there are operations:

* a list (or any sequence) of what the serializer takes;
* a NumPy array: numbers for `INT64` and `FLOAT64`; for `BYTES`, dtype `S8` or `V8` of n entries, or `uint8` of n x 8;
* an Arrow array or chunked array: numbers, binary, fixed-size binary or strings.

Where all entries have one length, the operations are a template that NumPy fills column by column; else they are joined from parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, repeat
from typing import Any

from ..errors import LimitExceededError
from ..proto import service_pb2
from ..serializers import Serializer
from .wire import Target

try:
    import numpy as np
except ImportError:  # NumPy is an extra; lists work without it.
    np = None  # type: ignore[assignment]

ROWS = 4096
"""Most operations of one batch that a column makes."""
BYTES = 512 << 10
"""Bytes from which on such a batch ends."""


class Column:
    """Encoded entries: of one `width` in `matrix` (rows x width, uint8), or of several lengths in `parts`."""

    __slots__ = ("matrix", "parts", "width", "longest", "shortest")

    def __init__(self, matrix: Any, parts: Sequence[bytes] | None) -> None:
        self.matrix, self.parts = matrix, parts
        self.width: int | None
        if parts is None:
            self.longest = self.shortest = int(matrix.shape[1])
            self.width = self.longest
        else:
            lengths = set(map(len, parts))
            self.longest, self.shortest = max(lengths, default=0), min(lengths, default=0)
            self.width = self.longest if len(lengths) == 1 else None

    def __len__(self) -> int:
        return len(self.matrix) if self.parts is None else len(self.parts)

    def slice(self, first: int, last: int) -> Column:
        """Entries from `first` to before `last`."""
        if self.parts is None:
            return Column(self.matrix[first:last], None)
        return Column(None, self.parts[first:last])

    def as_parts(self) -> Sequence[bytes]:
        """Each entry as bytes."""
        if self.parts is not None:
            return self.parts
        data, width = self.matrix.tobytes(), self.matrix.shape[1]
        return [data[at : at + width] for at in range(0, len(data), width)]


def encode(column: Any, serializer: Serializer[Any], what: str) -> Column:
    """Encodes a column; `what` is for messages. Raises `TypeError` for types that the serializer does not take."""
    if np is not None and isinstance(column, np.ndarray):
        return _of_array(column, serializer, what)
    if type(column).__module__.partition(".")[0] == "pyarrow":
        return _of_arrow(column, serializer, what)
    # Sets have no order that the other column could have, too.
    if isinstance(column, (str, bytes, bytearray, memoryview, Mapping, Set)) or not hasattr(column, "__len__"):
        raise _not_a_column(column, what)
    if serializer.id == "bytes" and set(map(type, column)) <= {bytes}:
        return Column(None, column if isinstance(column, list) else list(column))
    if serializer.number and np is not None and len(column) > 32 and _are_numbers(column, serializer):
        return _of_array(np.array(column, dtype=serializer.number), serializer, what)
    return Column(None, list(map(serializer.encode, column)))


def _not_a_column(column: Any, what: str) -> TypeError:
    return TypeError(f"{what}: expected a sequence, a NumPy array or an Arrow array, got {type(column).__name__}")


def _are_numbers(column: Sequence[Any], serializer: Serializer[Any]) -> bool:
    """Whether NumPy makes of them exactly what the serializer would."""
    if serializer.number == "<i8":
        return set(map(type, column)) == {int} and -(1 << 63) <= min(column) and max(column) < 1 << 63
    return set(map(type, column)) == {float}


def _of_array(array: Any, serializer: Serializer[Any], what: str) -> Column:
    masked = np.count_nonzero(array.mask) if isinstance(array, np.ma.MaskedArray) else 0
    if masked:
        raise TypeError(f"{what}: {masked} entries are masked; fill or drop them first")
    rows = len(array) if array.ndim else 0
    if serializer.number and array.ndim == 1 and array.dtype.kind in "iuf":
        wanted = np.dtype(serializer.number)
        if np.can_cast(array.dtype, wanted, "safe") or (array.dtype.kind == "u" and wanted.kind == "i"):
            if array.dtype == np.uint64 and rows and array.max() >= 1 << 63:
                raise ValueError(f"{what}: {array.max()} does not fit 64 bits, signed")
            return Column(np.ascontiguousarray(array, wanted).view(np.uint8).reshape(rows, 8), None)
    if serializer.id == "bytes":
        if array.ndim == 2 and array.dtype == np.uint8:
            return Column(np.ascontiguousarray(array), None)
        if array.ndim == 1 and array.dtype.kind in "SV" and array.dtype.itemsize:
            # NumPy cuts zero bytes at the end of `S` where it makes Python objects of them; here each entry keeps its width.
            return Column(np.ascontiguousarray(array).view(np.uint8).reshape(rows, array.dtype.itemsize), None)
    if array.ndim == 1 and array.dtype.kind in "OUT":
        return encode(array.tolist(), serializer, what)
    raise TypeError(f"{what}: an array of {array.ndim} dimensions and type {array.dtype} for serializer `{serializer.id}`")


def _of_arrow(column: Any, serializer: Serializer[Any], what: str) -> Column:
    import pyarrow as pa

    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        raise _not_a_column(column, what)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise TypeError(f"{what}: {column.null_count} entries are null; fill or drop them first")
    kind = column.type
    if serializer.number and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        if np is not None:
            return _of_array(column.to_numpy(zero_copy_only=False), serializer, what)
        return encode(column.to_pylist(), serializer, what)
    if serializer.id == "bytes" and pa.types.is_fixed_size_binary(kind):
        return _rows_of(column.buffers()[1], column.offset * kind.byte_width, len(column), kind.byte_width)
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if (serializer.id == "bytes" and binary) or (serializer.id == "utf8" and text):
        return _of_offsets(column, pa.types.is_large_binary(kind) or pa.types.is_large_string(kind))
    return encode(column.to_pylist(), serializer, what)


def _rows_of(buffer: Any, start: int, rows: int, width: int) -> Column:
    data = memoryview(buffer)[start : start + rows * width]
    if np is not None:
        return Column(np.frombuffer(data, np.uint8).reshape(rows, width), None)
    return Column(None, [bytes(data[at : at + width]) for at in range(0, rows * width, width)])


def _of_offsets(column: Any, large: bool) -> Column:
    _, offsets, data = column.buffers()
    if offsets is None or not len(column):
        return Column(None, [])
    ends = memoryview(offsets).cast("B").cast("q" if large else "i")[column.offset : column.offset + len(column) + 1]
    width = ends[1] - ends[0]
    if np is not None and width and bool((np.diff(np.asarray(ends)) == width).all()):
        return _rows_of(data, ends[0], len(column), width)
    places = ends.tolist()
    text = memoryview(data if data is not None else b"").cast("B")[places[0] : places[-1]].tobytes()
    base = places[0]
    return Column(None, [text[at - base : end - base] for at, end in zip(places, places[1:])])


def batches(
    target: Target, kind: int, keys: Column, values: Column | None, limits: service_pb2.Limits
) -> Iterator[tuple[bytes, int]]:
    """Framed operations of `kind`, one for each key, in batches that the daemon takes: each with its number of operations."""
    most = limits.max_message_bytes - 64
    row = 40 + len(target.namespace) + keys.longest + (0 if values is None else values.longest)
    if row > most:
        raise LimitExceededError(f"an operation of {row} bytes is longer than a message may be, {most}")
    step = max(1, min(ROWS, limits.max_batch_operations, min(BYTES, most) // row))
    for first in range(0, len(keys), step):
        last = min(first + step, len(keys))
        yield _operations(target, kind, keys.slice(first, last), None if values is None else values.slice(first, last)), last - first


def gathered(operations: Iterable[bytes], limits: service_pb2.Limits) -> Iterator[tuple[bytes, int]]:
    """Operations that are framed already, likewise; each of them fits a message."""
    most = min(BYTES, limits.max_message_bytes - 64)
    rows = min(ROWS, limits.max_batch_operations)
    parts: list[bytes] = []
    size = 0
    for operation in operations:
        if parts and (len(parts) == rows or size + len(operation) > most):
            yield b"".join(parts), len(parts)
            parts, size = [], 0
        parts.append(operation)
        size += len(operation)
    if parts:
        yield b"".join(parts), len(parts)


def _operations(target: Target, kind: int, keys: Column, values: Column | None) -> bytes:
    if keys.width is not None and (values is None or values.width is not None):
        around = target.frame_around(kind, keys.width, None if values is None else values.width)
        if np is not None and keys.parts is None and (values is None or values.parts is None):
            return _filled(around, keys.matrix, None if values is None else values.matrix)
        before, between, after = around
        columns = [repeat(before), keys.as_parts(), repeat(between)]
        if values is not None:
            columns.append(values.as_parts())
        if after:
            columns.append(repeat(after))
        return b"".join(chain.from_iterable(zip(*columns)))
    return _joined(target, kind, keys.as_parts(), None if values is None else values.as_parts())


def _filled(around: tuple[bytes, bytes, bytes], keys: Any, values: Any) -> bytes:
    """A template row with both columns in their places."""
    before, between, after = around
    rows, key = keys.shape
    value = 0 if values is None else values.shape[1]
    template = before + bytes(key) + between + bytes(value) + after
    out = np.empty((rows, len(template)), np.uint8)
    out[:] = np.frombuffer(template, np.uint8)
    out[:, len(before) : len(before) + key] = keys
    if value:
        at = len(before) + key + len(between)
        out[:, at : at + value] = values
    return out.tobytes()


def _joined(target: Target, kind: int, keys: Sequence[bytes], values: Sequence[bytes] | None) -> bytes:
    """Entries of several lengths; what stands around them is made once for each pair of lengths."""
    if values is None:
        lengths: list[Any] = [(len(key), None) for key in keys]
    else:
        lengths = list(zip(map(len, keys), map(len, values)))
    around = {pair: target.frame_around(kind, *pair) for pair in set(lengths)}
    frames = list(map(around.__getitem__, lengths))
    if values is None:
        return b"".join([before + key + between + after for (before, between, after), key in zip(frames, keys)])
    pairs = zip(frames, keys, values)
    return b"".join([part for (a, b, c), key, value in pairs for part in (a, key, b, value, c)])
