"""Operations as bytes, exactly as protobuf would write them: empty fields are left out.

A batch is a sequence of framed operations (field 2 of `Batch`), so batches are joined, split and counted without being parsed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..proto import state_pb2 as s


def varint(number: int) -> bytes:
    """An unsigned varint."""
    if number < 0x80:
        return _SHORT[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = [bytes([number]) for number in range(0x80)]

# Tags of `Operation`; all of them have a length but `START` to `ALL_NAMESPACES` and `TIME`.
KIND, STATE, KEY, NAMESPACE, MAP_KEY, VALUE, VALUES = b"\x08", b"\x10", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a"
START, LIMIT, KEY_GROUP, ALL_NAMESPACES, TOKEN, TIME = b"\x40", b"\x48", b"\x50", b"\x58\x01", b"\x62", b"\x68"
MAP_KEY_TO, MAP_PREFIX = b"\x72", b"\x7a"
OPERATION = b"\x12"

READS = frozenset(
    (
        s.OPERATION_KIND_GET,
        s.OPERATION_KIND_MAP_GET,
        s.OPERATION_KIND_MAP_CONTAINS,
        s.OPERATION_KIND_MAP_ENTRIES,
        s.OPERATION_KIND_MAP_COUNT,
        s.OPERATION_KIND_LIST_GET,
        s.OPERATION_KIND_LIST_COUNT,
        s.OPERATION_KIND_KEYS,
        s.OPERATION_KIND_TIMERS,
        s.OPERATION_KIND_TIMER_COUNT,
    )
)
"""Operations that change nothing, but for states with `update_on_read`."""
FIRE = s.OPERATION_KIND_TIMERS_FIRE


def sized(tag: bytes, content: bytes) -> bytes:
    """A field with a length."""
    return tag + varint(len(content)) + content


def framed(body: bytes) -> bytes:
    """An operation as a field of its batch."""
    return OPERATION + varint(len(body)) + body


class Target:
    """A state, a namespace and perhaps a key group: the start of operations on them."""

    __slots__ = ("state", "namespace", "key_group", "_namespace", "_group", "_heads")

    def __init__(self, state: int, namespace: bytes = b"", key_group: int | None = None) -> None:
        self.state, self.namespace, self.key_group = state, namespace, key_group
        self._namespace = sized(NAMESPACE, namespace) if namespace else b""
        self._group = KEY_GROUP + varint(key_group) if key_group is not None else b""
        self._heads: dict[int, bytes] = {}

    def head(self, kind: int) -> bytes:
        """Kind and state."""
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = KIND + varint(kind) + STATE + varint(self.state)
        return head

    def one(self, kind: int, key: bytes | None, map_key: bytes | None = None, value: bytes | None = None) -> bytes:
        """A framed operation with at most a key, a map key and a value."""
        body = self.head(kind)
        if key is not None:
            body += KEY + varint(len(key)) + key
        body += self._namespace
        if map_key:
            body += MAP_KEY + varint(len(map_key)) + map_key
        if value:
            body += VALUE + varint(len(value)) + value
        body += self._group
        return OPERATION + varint(len(body)) + body

    def other(
        self,
        kind: int,
        key: bytes | None = None,
        *,
        map_key: bytes | None = None,
        values: Iterable[bytes] = (),
        start: int = 0,
        limit: int = 0,
        all_namespaces: bool = False,
        token: bytes = b"",
        time: int | None = None,
        map_key_to: bytes = b"",
        map_prefix: bytes = b"",
        grouped: bool = True,
    ) -> bytes:
        """A framed operation with the rarer fields; without `grouped`, one over all key groups."""
        parts = [self.head(kind)]
        if key is not None:
            parts.append(sized(KEY, key))
        if self._namespace and not all_namespaces:
            parts.append(self._namespace)
        if map_key:
            parts.append(sized(MAP_KEY, map_key))
        parts.extend(sized(VALUES, value) for value in values)
        if start:
            parts.append(START + varint(start))
        if limit:
            parts.append(LIMIT + varint(limit))
        if grouped:
            parts.append(self._group)
        if all_namespaces:
            parts.append(ALL_NAMESPACES)
        if token:
            parts.append(sized(TOKEN, token))
        if time:
            parts.append(TIME + varint(time & 0xFFFF_FFFF_FFFF_FFFF))
        if map_key_to:
            parts.append(sized(MAP_KEY_TO, map_key_to))
        if map_prefix:
            parts.append(sized(MAP_PREFIX, map_prefix))
        return framed(b"".join(parts))

    def frame_around(self, kind: int, key: int, value: int | None) -> tuple[bytes, bytes, bytes]:
        """What stands before the key, between key and value, and behind the value, where both have these lengths."""
        before = self.head(kind) + KEY + varint(key)
        between = self._namespace
        if value:
            between += VALUE + varint(value)
        length = len(before) + key + len(between) + (value or 0) + len(self._group)
        return OPERATION + varint(length) + before, between, self._group


def split(operations: bytes) -> list[bytes]:
    """The framed operations of a batch, one by one."""
    found, at = [], 0
    while at < len(operations):
        length, start = _read_varint(operations, at + 1)
        found.append(operations[at : start + length])
        at = start + length
    return found


def kind_of(operation: bytes) -> int:
    """The kind of a framed operation; `Target` writes it first, and all kinds take one byte."""
    _, start = _read_varint(operation, 1)
    return operation[start + 1]


def states_of(operations: Iterable[bytes]) -> frozenset[int]:
    """The states that these framed operations are on; `Target` writes the state behind the kind."""
    starts = ((operation, _read_varint(operation, 1)[1]) for operation in operations)
    return frozenset(_read_varint(operation, start + 3)[0] for operation, start in starts)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def batch_length(number: int, operations: int) -> int:
    """The length of a `Batch` of this number with so many bytes of operations: what it costs of the credit."""
    return operations + (1 + len(varint(number)) if number else 0)


def batch_request(number: int, operations: bytes) -> bytes:
    """A `SessionRequest` with a batch."""
    head = b"\x08" + varint(number) if number else b""
    return b"".join((b"\x12", varint(len(head) + len(operations)), head, operations))
