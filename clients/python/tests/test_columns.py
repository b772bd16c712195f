"""Batches that columns make are those that protobuf would write, whatever the column is."""

import random

import pyarrow as pa
import pytest

import dstl
from dstl._core import columns, wire
from dstl.proto import session_pb2, state_pb2

numpy = pytest.importorskip("numpy")
KEYS = [b"k%07d" % number for number in range(5000)]
VALUES = [bytes([number % 251]) * 100 for number in range(5000)]


def operations(keys, values, key=dstl.BYTES, value=dstl.BYTES, target=None, kind=state_pb2.OPERATION_KIND_PUT):
    target = target or wire.Target(300, b"window", 7)
    column = columns.encode(keys, key, "keys")
    other = None if values is None else columns.encode(values, value, "values")
    found = []
    for content, count in columns.batches(target, kind, column, other, 4 << 20):
        batch = session_pb2.Batch.FromString(content)
        assert (len(batch.operations), batch.SerializeToString()) == (count, content)
        assert wire.split(content)[0] == content[: len(wire.split(content)[0])]
        found += batch.operations
    return found


def plain(keys, values, **more):
    pairs = zip(keys, values if values is not None else [b""] * len(keys))
    given = {"kind": state_pb2.OPERATION_KIND_PUT, "state": 300, "namespace": b"window", "key_group": 7, **more}
    return [state_pb2.Operation(key=key, value=value, **given) for key, value in pairs]


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (KEYS, VALUES),
        (numpy.array(KEYS), numpy.array(VALUES)),
        (numpy.array(KEYS).view(numpy.uint8).reshape(5000, 8), numpy.array(VALUES, "V100")),
        (numpy.array(KEYS, object), VALUES),
        (pa.array(KEYS), pa.array(VALUES, pa.large_binary())),
        (pa.array(KEYS, pa.binary(8)), pa.array(VALUES, pa.binary(100))),
        (pa.chunked_array([KEYS[:10], KEYS[10:]]), pa.chunked_array([VALUES])),
    ],
)
def test_every_column_of_bytes_makes_the_same_operations(keys, values):
    assert operations(keys, values) == plain(KEYS, VALUES)


def test_numbers_are_those_of_the_serializer():
    numbers = [0, 1, -1, (1 << 63) - 1, -(1 << 63)] + list(range(100))
    floats = [float(number) for number in range(105)]
    expected = plain(map(dstl.INT64.encode, numbers), map(dstl.FLOAT64.encode, floats))
    for keys in (numbers, numpy.array(numbers), pa.array(numbers)):
        for values in (floats, numpy.array(floats), pa.array(floats), numpy.arange(105, dtype=numpy.int32)):
            assert operations(keys, values, dstl.INT64, dstl.FLOAT64) == expected
    assert operations(numpy.arange(9, dtype=numpy.uint64), [b""] * 9, dstl.INT64) == operations(list(range(9)), [b""] * 9, dstl.INT64)


def test_entries_of_several_lengths_and_texts_work_as_one_by_one():
    texts = ["", "ä", "text" * 100, "x"] * 50
    keys = [bytes([1 + number % 255]) * (1 + number % 200) for number in range(200)]
    expected = plain(keys, [text.encode() for text in texts])
    for column in (texts, numpy.array(texts), pa.array(texts), pa.array(texts, pa.large_string())):
        assert operations(keys, column, value=dstl.STR) == expected
    get = {"kind": state_pb2.OPERATION_KIND_GET}
    assert operations(keys, None, kind=state_pb2.OPERATION_KIND_GET) == plain(keys, None, **get)
    assert operations(KEYS, None, kind=state_pb2.OPERATION_KIND_GET) == plain(KEYS, None, **get)


def test_operations_one_by_one_are_those_of_protobuf():
    chance = random.Random(7)
    for _ in range(300):
        size = chance.choice([0, 1, 127, 128, 300, 70_000])
        fields = {
            "key": bytes(chance.randrange(1, 9)), "map_key": bytes(size % 1000), "values": [bytes(size), b""],
            "start": size, "limit": size, "token": bytes(size % 7), "time": chance.choice([0, 5, -5, -(1 << 63) + 1]),
            "map_key_to": b"to", "map_prefix": b"prefix",
        }
        target = wire.Target(chance.choice([1, 127, 128, 9999]), bytes(size % 50), chance.choice([None, 0, 5000]))
        made = target.other(state_pb2.OPERATION_KIND_MAP_ENTRIES, all_namespaces=False, **fields)
        expected = state_pb2.Operation(
            kind=state_pb2.OPERATION_KIND_MAP_ENTRIES, state=target.state, namespace=target.namespace, **fields
        )
        if target.key_group is not None:
            expected.key_group = target.key_group
        (operation,) = session_pb2.Batch.FromString(made).operations
        assert operation == expected
        assert wire.kind_of(made) == state_pb2.OPERATION_KIND_MAP_ENTRIES


@pytest.mark.parametrize(
    ("column", "serializer", "error"),
    [
        ("text", dstl.STR, TypeError),
        (b"bytes", dstl.BYTES, TypeError),
        (5, dstl.INT64, TypeError),
        ([1, "two"], dstl.INT64, TypeError),
        ([1] * 40 + [True], dstl.INT64, TypeError),
        ([1] * 40 + [1.5], dstl.INT64, TypeError),
        ([1 << 63] * 40, dstl.INT64, ValueError),
        ([b"a", "b"], dstl.BYTES, TypeError),
        (numpy.zeros((2, 2)), dstl.FLOAT64, TypeError),
        (numpy.array([1.5]), dstl.INT64, TypeError),
        (numpy.array([1 << 63], numpy.uint64), dstl.INT64, ValueError),
        (numpy.array([1, 2]), dstl.BYTES, TypeError),
        (numpy.array(5), dstl.INT64, TypeError),
        (pa.array([1, None]), dstl.INT64, TypeError),
        (pa.array(["a"]), dstl.BYTES, TypeError),
        (None, dstl.BYTES, TypeError),
        (iter([1]), dstl.INT64, TypeError),
    ],
)
def test_a_column_that_the_serializer_does_not_take_is_a_clear_error(column, serializer, error):
    with pytest.raises(error):
        columns.encode(column, serializer, "keys")


def test_serializers_give_back_what_they_got():
    from dstl.serializers import arrow_batches, msgpacked, pickled, set_of, tuple_of

    batch = pa.record_batch({"a": [1, 2]})
    for serializer, values in [
        (dstl.BYTES, [b"", b"x"]), (dstl.STR, ["", "ä"]), (dstl.INT64, [0, -1, (1 << 63) - 1]), (dstl.FLOAT64, [0.5, -1e300]),
        (dstl.ORDERED_INT64, [-(1 << 63), -1, 0, 5]), (dstl.JSON, [{"b": [1, None]}, "x"]), (dstl.NONE, [None]),
        (pickled(), [{1, 2}, ("a", 1)]), (msgpacked(), [{"a": [1, b"x"]}]), (arrow_batches(), [batch]),
        (tuple_of(dstl.STR, tuple_of(dstl.INT64, dstl.BYTES)), [("k", (5, b""))]), (set_of(dstl.STR), [frozenset({"b", "a"})]),
    ]:
        for value in values:
            assert serializer.decode(serializer.encode(value)) == value
    assert sorted(map(dstl.ORDERED_INT64.encode, [3, -3, 0])) == list(map(dstl.ORDERED_INT64.encode, [-3, 0, 3]))


@pytest.mark.parametrize(
    ("serializer", "data"),
    [
        (dstl.INT64, b"1"), (dstl.FLOAT64, b"123456789"), (dstl.STR, b"\xff"), (dstl.JSON, b"{"), (dstl.ORDERED_INT64, b""),
        (dstl.tuple_of(dstl.STR, dstl.STR), b"\xff\0\0\0"), (dstl.set_of(dstl.STR), b"\1\0\0\0"), (dstl.arrow_batches(), b"x"),
        (dstl.AVERAGE_I64.value, b"x"),
    ],
)
def test_stored_bytes_of_another_type_are_a_clear_error(serializer, data):
    with pytest.raises(dstl.MalformedError):
        serializer.decode(data)
