"""Batches that columns make are those that protobuf would write, whatever the column is."""

import random

import pyarrow as pa
import pytest

import dstl
from dstl._core import columns, wire
from dstl.proto import service_pb2, session_pb2, state_pb2

numpy = pytest.importorskip("numpy")
KEYS = [b"k%07d" % number for number in range(5000)]
LIMITS = service_pb2.Limits(max_message_bytes=4 << 20, max_batch_operations=100_000)
VALUES = [bytes([number % 251]) * 100 for number in range(5000)]


def operations(keys, values, key=dstl.BYTES, value=dstl.BYTES, target=None, kind=state_pb2.OPERATION_KIND_PUT):
    target = target or wire.Target(300, b"window", 7)
    column = columns.encode(keys, key, "keys")
    other = None if values is None else columns.encode(values, value, "values")
    found = []
    for content, count in columns.batches(target, kind, column, other, LIMITS):
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
        # Views: strided, reversed, in Fortran's order, without a mask, sliced, of a dictionary, run-end encoded, as a view.
        (numpy.array(KEYS).repeat(2)[::2], numpy.array(VALUES)[::-1][::-1]),
        (numpy.asfortranarray(numpy.array(KEYS).view(numpy.uint8).reshape(5000, 8)), numpy.ma.masked_array(numpy.array(VALUES, "V100"))),
        (numpy.frombuffer(b"".join(b"--" + key for key in KEYS), numpy.uint8).reshape(5000, 10)[:, 2:], VALUES),
        (pa.array([b"x", *KEYS, b"y"])[1:-1], pa.array([b"x", *VALUES], pa.large_binary()).slice(1)),
        (pa.array([b"x" * 8, *KEYS, b"y" * 8], pa.binary(8)).slice(1, 5000), pa.chunked_array([VALUES[:7], [], VALUES[7:]]).slice(0)),
        (pa.array(KEYS).dictionary_encode(), pa.chunked_array([VALUES[:9], VALUES[9:]]).dictionary_encode()),
        (pa.array(KEYS, pa.binary_view()), pa.array(VALUES).dictionary_encode()[:]),
        (pa.chunked_array([pa.array(KEYS[:3], pa.binary(8)), pa.array(KEYS[3:], pa.binary(8))]).slice(0, 5000), VALUES),
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


def test_numbers_of_other_arrays_are_the_same():
    numbers = list(range(-50, 50))
    expected = plain(map(dstl.INT64.encode, numbers), map(dstl.FLOAT64.encode, map(float, numbers)))
    for keys in (
        numpy.arange(-50, 150, 1)[:100], numpy.arange(-100, 100, 2) // 2, numpy.array(numbers, ">i8"), numpy.array(numbers, numpy.int8),
        numpy.arange(-50, 150).reshape(100, 2).T[0] * 0 + numpy.array(numbers), numpy.repeat(numbers, 3)[::3], numpy.array(numbers, object),
        pa.array([0, *numbers]).slice(1), pa.chunked_array([numbers[:3], [], numbers[3:]]), pa.array(numbers, pa.int8()).dictionary_encode(),
    ):
        for values in (
            numpy.array(numbers, numpy.float32), numpy.array(numbers, ">f8"), numpy.repeat(numpy.array(numbers, float), 2)[::2],
            pa.array(numbers, pa.float32()), pa.array([0.5, *map(float, numbers)])[1:], pa.array(numbers, pa.int16()),
        ):
            assert operations(keys, values, dstl.INT64, dstl.FLOAT64) == expected


def test_empty_columns_make_nothing():
    for column in ([], (), numpy.array([], "S8"), numpy.zeros((0, 8), numpy.uint8), pa.array([], pa.binary()), pa.array([], pa.binary(8)),
                   pa.chunked_array([], pa.binary()), pa.chunked_array([], pa.binary(8)), pa.array([], pa.dictionary(pa.int8(), pa.binary())),
                   pa.array([b"12345678"], pa.binary(8))[:0], pa.array([b"1"])[:0]):
        assert operations(column, None, kind=state_pb2.OPERATION_KIND_GET) == []
    for column in (numpy.array([], int), pa.array([], pa.int64()), pa.array([], pa.null())):
        assert operations(column, [], dstl.INT64) == []


def test_batches_are_such_as_the_daemon_takes():
    for rows, most in ((1, 4 << 20), (7, 4 << 20), (100_000, 1 << 10)):
        limits = service_pb2.Limits(max_message_bytes=most, max_batch_operations=rows)
        target, column = wire.Target(300), columns.encode(KEYS[:100], dstl.BYTES, "keys")
        for made in (
            list(columns.batches(target, state_pb2.OPERATION_KIND_GET, column, None, limits)),
            list(columns.gathered((target.one(state_pb2.OPERATION_KIND_GET, key) for key in KEYS[:100]), limits)),
        ):
            assert all(count <= rows and len(content) <= most for content, count in made) and len(made) > 1
            found = [operation.key for content, _ in made for operation in session_pb2.Batch.FromString(content).operations]
            assert found == KEYS[:100]
    assert list(columns.gathered([], LIMITS)) == []


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
        # What masks hide, what has no order, what is no column, and types that would be cut or rounded.
        (numpy.ma.masked_array([1, 2], [False, True]), dstl.INT64, TypeError),
        (numpy.ma.masked_array([b"a", b"b"], [True, False]), dstl.BYTES, TypeError),
        ({1, 2}, dstl.INT64, TypeError),
        ({1: 2}, dstl.INT64, TypeError),
        (bytearray(b"ab"), dstl.INT64, TypeError),
        (pa.table({"a": [1]}), dstl.INT64, TypeError),
        (pa.record_batch({"a": [1]}), dstl.INT64, TypeError),
        (pa.scalar(1), dstl.INT64, TypeError),
        (pa.py_buffer(b"ab"), dstl.BYTES, TypeError),
        (numpy.array([True]), dstl.INT64, TypeError),
        (numpy.array(["2020-01-01"], "M8[D]"), dstl.INT64, TypeError),
        (numpy.array([1.5 + 2j]), dstl.FLOAT64, TypeError),
        (numpy.array([1, None], object), dstl.INT64, TypeError),
        (numpy.array([b"a"]), dstl.STR, TypeError),
        (numpy.zeros((2, 2, 2), numpy.uint8), dstl.BYTES, TypeError),
        (pa.array([True]), dstl.INT64, TypeError),
        (pa.array([1.5]), dstl.INT64, TypeError),
        (pa.array([1], pa.timestamp("s")), dstl.INT64, TypeError),
        (pa.array([None, None]), dstl.STR, TypeError),
        (pa.chunked_array([[b"a"], [None]]), dstl.BYTES, TypeError),
        (pa.array([b"a", None]).dictionary_encode(), dstl.BYTES, TypeError),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([b"a", None])), dstl.BYTES, TypeError),
        (pa.array([b"a"]), dstl.STR, TypeError),
        (pa.array([1 << 63], pa.uint64()), dstl.INT64, ValueError),
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
        (pickled(), [{1, 2}, ("a", 1)]), (msgpacked(), [{"a": [1, b"x"]}, {1: 2, b"k": None}]),
        (arrow_batches(), [batch, batch.slice(1), batch.slice(0, 0)]),
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
        (dstl.AVERAGE_I64.value, b"x"), (dstl.msgpacked(), b"\xc1"), (dstl.msgpacked(), b"\1\1"),
    ],
)
def test_stored_bytes_of_another_type_are_a_clear_error(serializer, data):
    with pytest.raises(dstl.MalformedError):
        serializer.decode(data)


@pytest.mark.parametrize(
    ("serializer", "value", "error"),
    [
        (dstl.tuple_of(dstl.STR, dstl.INT64), ("a", 1, 2), ValueError), (dstl.tuple_of(dstl.STR, dstl.INT64), ("a",), ValueError),
        (dstl.tuple_of(dstl.STR, dstl.INT64), ["a", 1], TypeError), (dstl.AVERAGE_I64.value, dstl.Average(1.5, 2), ValueError),
        (dstl.AVERAGE_I64.value, (1, 2), TypeError), (dstl.msgpacked(), 1 << 64, ValueError), (dstl.msgpacked(), object(), TypeError),
        (dstl.FLOAT64, 1 << 2000, ValueError), (dstl.JSON, {1, 2}, TypeError), (dstl.STR, "\ud800", ValueError), (dstl.NONE, 0, TypeError),
        (dstl.set_of(dstl.STR), "abc", TypeError), (dstl.set_of(dstl.STR), {1}, TypeError), (dstl.arrow_batches(), pa.array([1]), TypeError),
    ],
)
def test_a_value_that_would_not_come_back_is_a_clear_error(serializer, value, error):
    with pytest.raises(error):
        serializer.encode(value)
