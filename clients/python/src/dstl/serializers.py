"""How keys, namespaces, map keys and values become bytes.

The daemon sees bytes alone. Numbers are 8 bytes, little-endian, as its merge functions expect them; text is UTF-8; of a tuple, each
part but the last is preceded by its length as 4 bytes, little-endian. The other clients of dstl write the same bytes under the same ids, so
that a state may be read from several languages.

Maps are ordered by the bytes of their keys: use `ORDERED_INT64` for keys that are read in order or by range.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .errors import MalformedError

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

_INT64 = struct.Struct("<q")
_UINT64_ORDERED = struct.Struct(">Q")
_FLOAT64 = struct.Struct("<d")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Serializer(Generic[T]):
    """Two functions, and the name under which a state remembers them.

    `encode` gets a value and returns its bytes, or raises `TypeError` or `ValueError`; `decode` gets these bytes back. `id` and
    `version` are registered with the state: another one there is refused with `StateMismatchError`, unless the registration says
    `compatible=True` or migrates. `number` is the NumPy type of columns that need no encoding value by value (`"<i8"`, `"<f8"`), if any.
    """

    id: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    version: int = 0
    number: str | None = field(default=None, compare=False)


def _expect(value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {wanted}, got {type(value).__name__}: {value!r:.60}")


def _encode_bytes(value: bytes) -> bytes:
    _expect(value, (bytes, bytearray, memoryview), "bytes")
    return bytes(value)


def _encode_text(value: str) -> bytes:
    _expect(value, str, "str")
    return value.encode()


def _decode_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"{len(data)} stored bytes are no text in UTF-8") from error


def _encode_int(value: int) -> bytes:
    if value.__class__ is not int:
        value = _integer(value)
    try:
        return _INT64.pack(value)
    except struct.error:
        raise ValueError(f"{value} does not fit 64 bits, signed") from None


def _integer(value: object) -> int:
    """The value of other types that are integers, as those of NumPy."""
    if isinstance(value, (bool, float, str, bytes)) or not hasattr(value, "__index__"):
        raise TypeError(f"expected int, got {type(value).__name__}: {value!r:.60}")
    return value.__index__()  # type: ignore[no-any-return]


def _decode_int(data: bytes) -> int:
    if len(data) != 8:
        raise MalformedError(f"{len(data)} stored bytes are no 8-byte number")
    return int.from_bytes(data, "little", signed=True)


def _encode_ordered(value: int) -> bytes:
    number = _integer(value)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} does not fit 64 bits, signed")
    return _UINT64_ORDERED.pack(number + (1 << 63))


def _decode_ordered(data: bytes) -> int:
    if len(data) != 8:
        raise MalformedError(f"{len(data)} stored bytes are no 8-byte number")
    return int(_UINT64_ORDERED.unpack(data)[0]) - (1 << 63)


def _encode_float(value: float) -> bytes:
    if value.__class__ is not float and (isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__")):
        raise TypeError(f"expected float, got {type(value).__name__}: {value!r:.60}")
    try:
        return _FLOAT64.pack(float(value))
    except OverflowError:
        raise ValueError(f"{value!r:.60} does not fit 64 bits of floating point") from None


def _decode_float(data: bytes) -> float:
    if len(data) != 8:
        raise MalformedError(f"{len(data)} stored bytes are no 8-byte number")
    return float(_FLOAT64.unpack(data)[0])


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise MalformedError(f"{len(data)} stored bytes are no JSON") from error


def _encode_none(value: None) -> bytes:
    if value is not None:
        raise TypeError(f"expected None, got {type(value).__name__}")
    return b""


BYTES: Serializer[bytes] = Serializer("bytes", _encode_bytes, bytes)
"""Bytes as they are."""
STR: Serializer[str] = Serializer("utf8", _encode_text, _decode_text)
"""Text in UTF-8."""
INT64: Serializer[int] = Serializer("int64-le", _encode_int, _decode_int, number="<i8")
"""Integers of 64 bits, as the daemon's merge functions have them."""
FLOAT64: Serializer[float] = Serializer("float64-le", _encode_float, _decode_float, number="<f8")
"""Floating-point numbers of 64 bits, as the daemon's merge functions have them."""
ORDERED_INT64: Serializer[int] = Serializer("int64-ordered", _encode_ordered, _decode_ordered)
"""Integers of 64 bits whose bytes are in their order: for keys of maps that are read in order or by range."""
JSON: Serializer[Any] = Serializer("json", _encode_json, _decode_json)
"""What `json` takes; keys of objects are sorted, so equal values are equal bytes."""
NONE: Serializer[None] = Serializer("", _encode_none, lambda data: None)
"""Nothing: the key of operator state, the values of a set."""


def pickled(kind: type[T] | None = None) -> Serializer[T]:
    """Any Python object, by `pickle`; `kind` is only for type checkers.

    Reading state that was written by somebody else runs whatever code they put there. Use it for state that this task alone writes, and
    mind that classes must not move. As keys pickles are useless: equal objects may have different bytes.
    """
    import pickle

    del kind
    return Serializer("pickle", lambda value: pickle.dumps(value, protocol=5), pickle.loads)


def msgpacked() -> Serializer[Any]:
    """What MessagePack takes. Needs the extra `dstl[msgpack]`."""
    import msgpack

    def encode(value: Any) -> bytes:
        try:
            return msgpack.packb(value)  # type: ignore[no-any-return]
        except OverflowError as error:
            raise ValueError(f"MessagePack does not take {value!r:.60}: {error}") from None

    def decode(data: bytes) -> Any:
        try:
            # All that was packed, maps with keys that are no text too.
            return msgpack.unpackb(data, strict_map_key=False)
        except ValueError as error:
            raise MalformedError(f"{len(data)} stored bytes are no MessagePack") from error

    return Serializer("msgpack", encode, decode)


def arrow_batches() -> Serializer[Any]:
    """Record batches of Apache Arrow, in its IPC stream format. Needs the extra `dstl[arrow]`."""
    import pyarrow as pa

    def encode(batch: Any) -> bytes:
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(f"expected pyarrow.RecordBatch, got {type(batch).__name__}")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    def decode(data: bytes) -> Any:
        try:
            with pa.ipc.open_stream(data) as reader:
                return reader.read_next_batch()
        except (pa.ArrowInvalid, StopIteration) as error:
            raise MalformedError(f"{len(data)} stored bytes are no Arrow record batch") from error

    return Serializer("arrow-ipc", encode, decode)


def tuple_of(first: Serializer[A], second: Serializer[B]) -> Serializer[tuple[A, B]]:
    """Pairs. Nest it for longer ones: `tuple_of(STR, tuple_of(INT64, STR))`."""

    def encode(value: tuple[A, B]) -> bytes:
        _expect(value, tuple, "a tuple")
        if len(value) != 2:
            raise ValueError(f"expected a pair, got a tuple of {len(value)}: {value!r:.60}")
        head = first.encode(value[0])
        return _LENGTH.pack(len(head)) + head + second.encode(value[1])

    def decode(data: bytes) -> tuple[A, B]:
        if len(data) < 4 or len(data) < 4 + _LENGTH.unpack_from(data)[0]:
            raise MalformedError(f"{len(data)} stored bytes are no pair")
        end = 4 + _LENGTH.unpack_from(data)[0]
        return first.decode(data[4:end]), second.decode(data[end:])

    return Serializer(f"({first.id},{second.id})", encode, decode)


def set_of(member: Serializer[T]) -> Serializer[frozenset[T]]:
    """Sets, as the merge function `set_union` has them: members in order of their bytes, each behind its length."""

    def encode(members: Iterable[T]) -> bytes:
        if isinstance(members, (str, bytes)):
            raise TypeError(f"expected a set, got {type(members).__name__}")
        sorted_members = sorted({member.encode(value) for value in members})
        return b"".join(_LENGTH.pack(len(value)) + value for value in sorted_members)

    def decode(data: bytes) -> frozenset[T]:
        found, at = [], 0
        while at < len(data):
            end = at + 4 + (_LENGTH.unpack_from(data, at)[0] if at + 4 <= len(data) else 0)
            if end > len(data) or at + 4 > len(data):
                raise MalformedError(f"{len(data)} stored bytes are no set")
            found.append(member.decode(data[at + 4 : end]))
            at = end
        return frozenset(found)

    return Serializer(f"set({member.id})", encode, decode)
