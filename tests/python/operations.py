"""Every kind of operation: what it does, what it refuses, and its limits."""

import math
import struct
import sys

from support import LIST, MAP, VALUE, Merge, descriptor, get, op, put, refused, restore_latest, state_pb2
from world import scenario

if sys.version_info < (3, 14):
    import datasketches

LIMIT_REACHED = state_pb2.OUTCOME_LIMIT_REACHED
ASK_AGAIN = state_pb2.OUTCOME_ASK_AGAIN
MAX_VALUE = 1 << 20
MAX_KEY = 32 << 10


def i64(number):
    return struct.pack("<q", number)


def f64(number):
    return struct.pack("<d", number)


def merge(name):
    return Merge.Value(f"MERGE_FUNCTION_{name}")


def opened(world, *states):
    """A fresh backend with states: (client, ref, ids)."""
    client = world.client()
    ref = client.open(world.job).backend
    return client, ref, client.register(ref, *states)


@scenario
def values_are_put_read_and_cleared_per_key_and_namespace(world):
    client, ref, (state, other) = opened(world, descriptor("v"), descriptor("w"))
    session = client.session(ref)
    found = session.read(
        get(state, b"k"),
        put(state, b"k", b"one"),
        get(state, b"k"),
        put(state, b"k", b"two", ns=b"window"),
        get(state, b"k"),
        get(state, b"k", ns=b"window"),
        get(other, b"k"),
        put(state, b"e", b""),
        get(state, b"e"),
        op("CLEAR", state, b"k"),
        get(state, b"k"),
        get(state, b"k", ns=b"window"),
    )
    seen = [(r.operation, r.found, r.value) for r in found]
    assert seen == [
        (0, False, b""),
        (2, True, b"one"),
        (4, True, b"one"),
        (5, True, b"two"),
        (6, False, b""),
        (8, True, b""),
        (10, False, b""),
        (11, True, b"two"),
    ], seen
    session.finish()


@scenario
def maps_keep_their_entries_in_order_of_the_bytes(world):
    client, ref, (state,) = opened(world, descriptor("m", MAP))
    session = client.session(ref)
    keys = [b"", b"\x00", b"a", b"a\x00", b"b", b"\x7f", b"\x80", b"\xff"]
    session.batch(*[op("MAP_PUT", state, b"k", map_key=key, value=b"v" + key) for key in reversed(keys)])
    (page,) = session.read(op("MAP_ENTRIES", state, b"k"))
    assert [(e.key, e.value) for e in page.entries] == [(key, b"v" + key) for key in sorted(keys)]
    assert page.found and not page.more
    first, following, tail = session.read(
        op("MAP_ENTRIES", state, b"k", limit=3),
        op("MAP_ENTRIES", state, b"k", map_key=b"a\x00", limit=2),
        op("MAP_ENTRIES", state, b"k", map_key=b"\x80", limit=2),
    )
    assert [e.key for e in first.entries] == [b"", b"\x00", b"a"] and first.more
    assert [e.key for e in following.entries] == [b"a\x00", b"b"] and following.more
    assert [e.key for e in tail.entries] == [b"\x80", b"\xff"] and not tail.more
    between, begun, both, none = session.read(
        op("MAP_ENTRIES", state, b"k", map_key=b"a", map_key_to=b"\x7f", limit=3),
        op("MAP_ENTRIES", state, b"k", map_prefix=b"a"),
        op("MAP_ENTRIES", state, b"k", map_key=b"a\x00", map_key_to=b"b", map_prefix=b"a"),
        op("MAP_ENTRIES", state, b"k", map_prefix=b"x"),
    )
    assert [e.key for e in between.entries] == [b"a", b"a\x00", b"b"] and not between.more
    assert [e.key for e in begun.entries] == [b"a", b"a\x00"] and not begun.more
    assert [e.key for e in both.entries] == [b"a\x00"] and not none.found
    found = session.read(
        op("MAP_COUNT", state, b"k"),
        op("MAP_CONTAINS", state, b"k", map_key=b"a"),
        op("MAP_REMOVE", state, b"k", map_key=b"a"),
        op("MAP_REMOVE", state, b"k", map_key=b"a"),
        op("MAP_CONTAINS", state, b"k", map_key=b"a"),
        op("MAP_GET", state, b"k", map_key=b"b"),
        op("MAP_GET", state, b"k", map_key=b"a"),
        op("MAP_COUNT", state, b"k"),
        op("MAP_COUNT", state, b"nobody"),
        op("MAP_ENTRIES", state, b"nobody"),
        op("CLEAR", state, b"k"),
        op("MAP_COUNT", state, b"k"),
    )
    seen = [(r.operation, r.found, r.count or r.value) for r in found]
    assert seen == [
        (0, True, 8),
        (1, True, b""),
        (4, False, b""),
        (5, True, b"vb"),
        (6, False, b""),
        (7, True, 7),
        (8, False, b""),
        (9, False, b""),
        (11, False, b""),
    ], seen
    session.finish()


@scenario
def the_keys_of_a_state_are_read_page_by_page(world):
    client, ref, (values, maps) = opened(world, descriptor("v"), descriptor("m", MAP))
    session = client.session(ref)
    names = {(b"key %d" % n, namespace) for n in range(300) for namespace in (b"", b"w")}
    session.batch(*[op("PUT", values, key, namespace=namespace, value=b"v") for key, namespace in names])
    session.batch(*[op("MAP_PUT", maps, b"k", namespace=b"n", map_key=bytes([n]), value=b"v") for n in range(3)])

    def pages(state, **fields):
        found, token = [], b""
        while True:
            (page,) = session.read(op("KEYS", state, b"", token=token, **fields))
            found += [(key.key, key.namespace) for key in page.keys]
            token = page.token
            if not token:
                return found

    every = pages(values, all_namespaces=True, limit=7)
    assert len(every) == 600 and set(every) == names, len(every)
    assert pages(values, all_namespaces=True) == every, "in an order that lasts"
    assert sorted(pages(values, namespace=b"w", limit=100)) == sorted(name for name in names if name[1] == b"w")
    assert pages(values, namespace=b"nobody") == []
    assert pages(maps, all_namespaces=True) == [(b"k", b"n")], "each once, however many entries it has"
    (first,) = session.read(op("KEYS", values, b"", all_namespaces=True, limit=50))
    seen = {(key.key, key.namespace) for key in first.keys}
    gone = next(name for name in names if name not in seen)
    session.batch(op("CLEAR", values, gone[0], namespace=gone[1]), op("PUT", values, b"new", value=b"v"))
    rest, token = [], first.token
    while token:
        (page,) = session.read(op("KEYS", values, b"", all_namespaces=True, token=token))
        rest += [(key.key, key.namespace) for key in page.keys]
        token = page.token
    assert not seen & set(rest) and gone not in rest and seen | set(rest) >= names - {gone}
    session.finish()
    again = client.open(world.job, attempt=2).backend
    client.register(again, descriptor("v"), descriptor("m", MAP))
    for wrong in (dict(key=b"k"), dict(key=b"", token=b"x"), dict(key=b"", token=first.token), dict(key=b"", value=b"v")):
        with refused("REASON_INVALID_ARGUMENT"):
            client.apply(again, op("KEYS", values, all_namespaces=True, **wrong))
    with refused("REASON_INVALID_ARGUMENT"):
        client.apply(again, op("KEYS", values, b"", all_namespaces=True, namespace=b"w"))


@scenario
def lists_append_replace_and_page(world):
    client, ref, (state,) = opened(world, descriptor("l", LIST))
    session = client.session(ref)
    found = session.read(
        op("LIST_ADD", state, b"k", value=b"0"),
        op("LIST_ADD_ALL", state, b"k", values=[b"1", b"", b"3"]),
        op("LIST_ADD_ALL", state, b"k", values=[]),
        op("LIST_GET", state, b"k"),
        op("LIST_GET", state, b"k", start=1, limit=2),
        op("LIST_GET", state, b"k", start=3, limit=2),
        op("LIST_GET", state, b"k", start=4),
        op("LIST_GET", state, b"k", start=2**64 - 1, limit=2**64 - 1),
        op("LIST_COUNT", state, b"k"),
    )
    seen = [(list(r.elements), r.more, r.count) for r in found]
    assert seen == [
        ([b"0", b"1", b"", b"3"], False, 0),
        ([b"1", b""], True, 0),
        ([b"3"], False, 0),
        ([], False, 0),
        ([], False, 0),
        ([], False, 4),
    ], seen
    found = session.read(
        op("LIST_UPDATE", state, b"k", values=[b"x", b"y"]),
        op("LIST_GET", state, b"k"),
        op("LIST_UPDATE", state, b"k", values=[]),
        op("LIST_COUNT", state, b"k"),
        op("LIST_ADD", state, b"k", value=b"z"),
        op("LIST_GET", state, b"k"),
    )
    assert list(found[0].elements) == [b"x", b"y"] and not found[1].found and list(found[2].elements) == [b"z"]
    session.finish()


@scenario
def merges_of_numbers_have_defined_results_overflow_and_nan_included(world):
    names = ["SUM_I64", "MIN_I64", "MAX_I64", "SUM_F64", "MIN_F64", "MAX_F64"]
    kinds = [descriptor(name, VALUE, merge(name)) for name in names]
    maps = [descriptor("map " + name, MAP, merge(name)) for name in names]
    client, ref, ids = opened(world, *kinds, *maps)
    states, tables = dict(zip(names, ids)), dict(zip(names, ids[len(names) :]))
    low, high = -(2**63), 2**63 - 1
    nan, infinite = math.nan, math.inf
    cases = [
        ("SUM_I64", [5], 5),
        ("SUM_I64", [high, 1], low),
        ("SUM_I64", [low, -1], high),
        ("SUM_I64", [high, high, 2], 0),
        ("MIN_I64", [3, -4, 7], -4),
        ("MIN_I64", [low, high], low),
        ("MAX_I64", [3, -4, 7], 7),
        ("MAX_I64", [low, high], high),
        ("SUM_F64", [0.5, 0.25], 0.75),
        ("SUM_F64", [1e308, 1e308], infinite),
        ("SUM_F64", [infinite, -infinite], nan),
        ("MIN_F64", [nan, 2.0, nan, 3.0], 2.0),
        ("MIN_F64", [nan, nan], nan),
        ("MIN_F64", [-infinite, 1.0], -infinite),
        ("MAX_F64", [2.0, nan, 3.0], 3.0),
        ("MAX_F64", [nan], nan),
    ]
    session = client.session(ref)
    for index, (name, operands, expected) in enumerate(cases):
        pack = i64 if name.endswith("I64") else f64
        key = b"%d" % index
        session.batch(*[op("MERGE", states[name], key, value=pack(o)) for o in operands])
        session.batch(*[op("MAP_MERGE", tables[name], key, map_key=b"e", value=pack(o)) for o in operands])
        value, entry = session.read(get(states[name], key), op("MAP_GET", tables[name], key, map_key=b"e"))
        assert value.value == entry.value and value.found, (name, operands)
        (result,) = struct.unpack("<q" if pack is i64 else "<d", value.value)
        assert result == expected or (math.isnan(expected) and math.isnan(result)), (name, operands, result)
    session.batch(put(states["SUM_I64"], b"put", i64(40)), op("MERGE", states["SUM_I64"], b"put", value=i64(2)))
    (found,) = session.read(get(states["SUM_I64"], b"put"))
    assert found.value == i64(42)
    session.finish()
    for name in names:
        for kind, state in (("PUT", states[name]), ("MERGE", states[name])):
            for wrong in (b"", b"1234567", b"123456789"):
                with refused("REASON_INVALID_ARGUMENT", "operation 0"):
                    client.apply(ref, op(kind, state, b"k", value=wrong))
        with refused("REASON_INVALID_ARGUMENT", "operation 0"):
            client.apply(ref, op("MAP_PUT", tables[name], b"k", map_key=b"e", value=b"short"))


def members(*of):
    """A set as bytes: its members ascending, each after its length."""
    return b"".join(struct.pack("<I", len(member)) + member for member in sorted(of))


def estimated(sketch):
    """About how many distinct operands a sketch had: by the library of another language, or else by what its head says."""
    if sys.version_info < (3, 14):
        return datasketches.hll_sketch.deserialize(sketch).get_estimate()
    mode = sketch[7] & 3
    return (sketch[6], *struct.unpack_from("<i", sketch, 8))[mode] if mode < 2 else struct.unpack_from("<d", sketch, 8)[0]


@scenario
def counts_averages_sets_and_sketches_are_merged_by_the_daemon(world):
    names = ["COUNT", "AVERAGE_I64", "AVERAGE_F64", "SET_UNION", "HYPER_LOG_LOG"]
    kinds = [descriptor(name, VALUE, merge(name)) for name in names]
    maps = [descriptor("map " + name, MAP, merge(name)) for name in names]
    client, ref, ids = opened(world, *kinds, *maps)
    states, tables = dict(zip(names, ids)), dict(zip(names, ids[len(names) :]))
    low, high = -(2**63), 2**63 - 1
    cases = [
        ("COUNT", [b""], i64(1)),
        ("COUNT", [b"", i64(5), i64(-2), b""], i64(5)),
        ("COUNT", [i64(high), b""], i64(low)),
        ("AVERAGE_I64", [i64(7)], i64(7) + i64(1)),
        ("AVERAGE_I64", [i64(7), i64(-2), i64(30) + i64(4)], i64(35) + i64(6)),
        ("AVERAGE_I64", [i64(high), i64(1)], i64(low) + i64(2)),
        ("AVERAGE_F64", [f64(0.5), f64(1.0)], f64(1.5) + i64(2)),
        ("AVERAGE_F64", [f64(1e308), f64(1e308)], f64(math.inf) + i64(2)),
        ("SET_UNION", [b""], b""),
        ("SET_UNION", [members(b"b"), members(b"a", b""), members(b"b", b"c")], members(b"", b"a", b"b", b"c")),
        ("HYPER_LOG_LOG", [b"key", b"key"], bytes.fromhex("0201070c03080100b5daf006")),
    ]
    session = client.session(ref)
    for index, (name, operands, expected) in enumerate(cases):
        key = b"%d" % index
        session.batch(*[op("MERGE", states[name], key, value=o) for o in operands])
        session.batch(*[op("MAP_MERGE", tables[name], key, map_key=b"e", value=o) for o in operands])
        value, entry = session.read(get(states[name], key), op("MAP_GET", tables[name], key, map_key=b"e"))
        assert value.found and value.value == entry.value == expected, (name, operands, value.value)
        session.batch(put(states[name], b"put", expected))
        (found,) = session.read(get(states[name], b"put"))
        assert found.value == expected
    session.finish()
    sketch = states["HYPER_LOG_LOG"]
    for count in (100, 3_000, 30_000):
        key = b"%d things" % count
        things = [b"thing %d" % number for number in range(count)]
        for at in range(0, count, 10_000):
            client.apply(ref, *[op("MERGE", sketch, key, value=thing) for thing in things[at : at + 10_000]])
        client.apply(ref, *[op("MERGE", sketch, key, value=thing) for thing in things[:1_000]])
        (found,) = client.read(ref, get(sketch, key))
        assert abs(estimated(found.value) / count - 1) < 0.07, (count, estimated(found.value))
    if sys.version_info < (3, 14):
        made = datasketches.hll_sketch(12)
        for number in range(20_000):
            made.update("thing %d" % number)
        client.apply(ref, put(sketch, b"elsewhere", made.serialize_compact()))
        client.apply(ref, *[op("MERGE", sketch, b"elsewhere", value=b"thing %d" % number) for number in range(30_000)])
        (found,) = client.read(ref, get(sketch, b"elsewhere"))
        assert abs(estimated(found.value) / 30_000 - 1) < 0.07, estimated(found.value)
    for name, wrong in (
        ("COUNT", b"1234567"),
        ("AVERAGE_I64", b""),
        ("AVERAGE_F64", b"123456789"),
        ("SET_UNION", b"member"),
        ("SET_UNION", members(b"b") + members(b"a")),
        ("SET_UNION", members(b"a", b"a")),
    ):
        for kind, state, more in (("MERGE", states[name], {}), ("MAP_MERGE", tables[name], {"map_key": b"e"})):
            with refused("REASON_INVALID_ARGUMENT", "operation 0", scope="SCOPE_BATCH"):
                client.apply(ref, op(kind, state, b"0", value=wrong, **more))
    for name, wrong in (("COUNT", b""), ("AVERAGE_I64", i64(1)), ("SET_UNION", b"x"), ("HYPER_LOG_LOG", b"not a sketch!")):
        with refused("REASON_INVALID_ARGUMENT", "operation 1", scope="SCOPE_BATCH"):
            client.apply(ref, get(states[name], b"0"), put(states[name], b"0", wrong))


@scenario
def a_set_that_would_grow_too_long_is_left_and_says_so(world):
    client, ref, (state,) = opened(world, descriptor("s", VALUE, merge("SET_UNION")))
    session = client.session(ref)
    halves = [bytes([n]) * (MAX_VALUE // 2 - 4) for n in (1, 2)]
    session.batch(*[op("MERGE", state, b"k", value=members(half)) for half in halves])
    said = session.read(
        op("MERGE", state, b"k", value=members(b"one more")),
        op("MERGE", state, b"k", value=members(halves[0])),
        get(state, b"k"),
    )
    assert [(r.operation, r.outcome) for r in said] == [(0, LIMIT_REACHED), (2, 0)], said
    assert said[1].value == members(*halves)
    session.finish()


@scenario
def an_append_that_would_grow_too_long_leaves_the_value_and_says_so(world):
    client, ref, (state, table) = opened(
        world, descriptor("a", VALUE, merge("APPEND")), descriptor("m", MAP, merge("APPEND"))
    )
    session = client.session(ref)
    half = b"x" * (MAX_VALUE // 2)
    for merged, target in (
        ("MERGE", {"state": state}),
        ("MAP_MERGE", {"state": table, "map_key": b"e"}),
    ):
        fields = dict(target)
        number = fields.pop("state")
        session.batch(op(merged, number, b"k", value=half, **fields), op(merged, number, b"k", value=half, **fields))
        said = session.read(op(merged, number, b"k", value=b"!", **fields), op(merged, number, b"k", value=b"", **fields))
        assert [(r.operation, r.outcome) for r in said] == [(0, LIMIT_REACHED)], said
        (found,) = session.read(op(merged.replace("MERGE", "GET"), number, b"k", **fields))
        assert found.value == half + half
    session.finish()


def window_states():
    functions = ["SUM_I64", "AVERAGE_I64", "SET_UNION", "HYPER_LOG_LOG"]
    values = [descriptor(name, VALUE, merge(name)) for name in functions]
    return [*values, descriptor("plain"), descriptor("l", LIST), descriptor("m", MAP), descriptor("c", MAP, merge("COUNT"))]


@scenario
def session_windows_merge_for_every_kind_and_survive_a_kill(world):
    daemon = world.start()
    client = world.client(daemon)
    ref = client.open(world.job).backend
    total, average, union, sketch, plain, items, table, counts = ids = client.register(ref, *window_states())
    session = client.session(ref)

    def record(window, number, tag):
        return [
            op("MERGE", total, b"k", namespace=window, value=i64(number)),
            op("MERGE", average, b"k", namespace=window, value=i64(number)),
            op("MERGE", union, b"k", namespace=window, value=members(tag)),
            op("MERGE", sketch, b"k", namespace=window, value=tag),
            put(plain, b"k", tag, ns=window),
            op("LIST_ADD", items, b"k", namespace=window, value=tag),
            op("MAP_PUT", table, b"k", namespace=window, map_key=tag, value=i64(number)),
            op("MAP_MERGE", counts, b"k", namespace=window, map_key=tag),
        ]

    def merges(target, *sources):
        return [op("MERGE_NAMESPACES", state, b"k", namespace=target, values=sources) for state in ids]

    def contents(client_or_session, window, *first):
        reads = [get(state, b"k", ns=window) for state in ids[:5]]
        reads.append(op("LIST_GET", items, b"k", namespace=window))
        reads += [op("MAP_ENTRIES", state, b"k", namespace=window) for state in (table, counts)]
        results = client_or_session.read(*first, *reads)
        values = [(r.found, r.value) for r in results[:5]]
        return values, list(results[5].elements), [[(e.key, e.value) for e in r.entries] for r in results[6:]]

    empty = ([(False, b"")] * 5, [], [[], []])
    session.batch(*record(b"w1", 5, b"x"), *record(b"w2", 7, b"y"), *record(b"w2", 9, b"x"), *record(b"", 1, b"z"))
    session.batch(*merges(b"all", b"w2", b"nothing", b"w1"))
    expected = (
        [
            (True, i64(21)),
            (True, i64(21) + i64(3)),
            (True, members(b"x", b"y")),
            (True, contents(session, b"all")[0][3][1]),
            (True, b"x"),
        ],
        [b"y", b"x", b"x"],
        [[(b"x", i64(5)), (b"y", i64(7))], [(b"x", i64(2)), (b"y", i64(1))]],
    )
    assert contents(session, b"all") == expected, contents(session, b"all")
    assert round(estimated(expected[0][3][1])) == 2
    assert contents(session, b"w1") == contents(session, b"w2") == empty
    session.batch(*merges(b"all"), *merges(b"all", b"nothing"))
    assert contents(session, b"all") == expected
    session.checkpoint(1)
    session.batch(*merges(b"all", b""))
    session.finish()
    daemon.kill()
    client = world.client(daemon.start())
    ref = client.open(world.job, attempt=2, restore=restore_latest()).backend
    assert client.register(ref, *window_states()) == ids
    session = client.session(ref)
    assert contents(session, b"all") == expected
    assert contents(session, b"w1") == contents(session, b"w2") == empty
    assert contents(session, b"")[1] == [b"z"], "what was not confirmed is as it was"
    session.finish()


@scenario
def merges_of_namespaces_that_cannot_be_are_refused_and_change_nothing(world):
    client, ref, ids = opened(world, descriptor("v", VALUE, merge("APPEND")), descriptor("l", LIST), descriptor("m", MAP))
    state, items, table = ids
    half = b"x" * (MAX_VALUE // 2)
    client.apply(ref, put(state, b"k", half, ns=b"a"), put(state, b"k", half + b"x", ns=b"b"))

    def merged(state, sources, **fields):
        return op("MERGE_NAMESPACES", state, b"k", values=sources, **{"namespace": b"t", **fields})

    for number in ids:
        for reason, wrong in (
            ("REASON_INVALID_ARGUMENT", merged(number, [b"a", b"t"])),
            ("REASON_INVALID_ARGUMENT", merged(number, [b""], namespace=b"")),
            ("REASON_INVALID_ARGUMENT", merged(number, [b"a", b"b", b"a"])),
            ("REASON_INVALID_ARGUMENT", merged(number, [b"a"], value=b"b")),
            ("REASON_INVALID_ARGUMENT", merged(number, [b"a"], map_key=b"b")),
            ("REASON_INVALID_ARGUMENT", op("MERGE_NAMESPACES", number, b"", values=[b"a"])),
            ("REASON_LIMIT_EXCEEDED", merged(number, [b"n" * (MAX_KEY + 1)])),
            ("REASON_LIMIT_EXCEEDED", merged(number, [b"%d" % n for n in range(1001)])),
        ):
            with refused(reason, "operation 1", scope="SCOPE_BATCH"):
                client.apply(ref, put(state, b"first", b"applied"), wrong)
    results = client.read(
        ref,
        merged(state, [b"a", b"b"]),
        get(state, b"k", ns=b"t"),
        get(state, b"k", ns=b"a"),
        get(state, b"k", ns=b"b"),
        get(state, b"first"),
    )
    assert results[0].outcome == LIMIT_REACHED and not results[1].found and not results[4].found
    assert (results[2].value, results[3].value) == (half, half + b"x")


@scenario
def an_operation_that_does_not_fit_its_state_is_refused(world):
    states = {"v": VALUE, "l": LIST, "m": MAP}
    client, ref, ids = opened(world, *[descriptor(name, kind) for name, kind in states.items()])
    value, items, table = ids
    fields = {
        "PUT": dict(value=b"x"),
        "GET": {},
        "MAP_PUT": dict(map_key=b"x", value=b"x"),
        "MAP_GET": dict(map_key=b"x"),
        "MAP_REMOVE": dict(map_key=b"x"),
        "MAP_CONTAINS": dict(map_key=b"x"),
        "MAP_ENTRIES": {},
        "MAP_COUNT": {},
        "LIST_ADD": dict(value=b"x"),
        "LIST_ADD_ALL": dict(values=[b"x"]),
        "LIST_UPDATE": dict(values=[b"x"]),
        "LIST_GET": {},
        "LIST_COUNT": {},
    }
    for kind, extra in fields.items():
        own = table if kind.startswith("MAP") else items if kind.startswith("LIST") else value
        client.apply(ref, op(kind, own, b"k", **extra))
        for state in ids:
            if state != own:
                with refused("REASON_WRONG_KIND", "operation 1", scope="SCOPE_BATCH"):
                    client.apply(ref, get(value, b"k"), op(kind, state, b"k", **extra))
    for state, kind in ((value, "MERGE"), (table, "MAP_MERGE"), (items, "MERGE")):
        with refused("REASON_WRONG_KIND"):
            client.apply(ref, op(kind, state, b"k", value=b"x"))
    for state in ids:
        client.apply(ref, op("CLEAR", state, b"k"))
    for unknown in (0, 4, 2**32 - 1):
        with refused("REASON_UNKNOWN_STATE", "operation 0", unknown):
            client.apply(ref, get(unknown, b"k"))


@scenario
def a_malformed_operation_is_refused_and_nothing_of_its_batch_applied(world):
    client, ref, (state, table, items) = opened(
        world, descriptor("v"), descriptor("m", MAP), descriptor("l", LIST)
    )
    for reason, wrong in (
        ("REASON_INVALID_ARGUMENT", state_pb2.Operation(state=state, key=b"k")),
        ("REASON_INVALID_ARGUMENT", state_pb2.Operation(kind=99, state=state, key=b"k")),
        ("REASON_INVALID_ARGUMENT", put(state, b"", b"v")),
        ("REASON_INVALID_ARGUMENT", get(state, b"k", value=b"v")),
        ("REASON_INVALID_ARGUMENT", get(state, b"k", limit=1)),
        ("REASON_INVALID_ARGUMENT", put(state, b"k", b"v", map_key=b"m")),
        ("REASON_INVALID_ARGUMENT", put(state, b"k", b"v", values=[b"v"])),
        ("REASON_INVALID_ARGUMENT", op("MAP_ENTRIES", table, b"k", start=1)),
        ("REASON_LIMIT_EXCEEDED", put(state, b"k" * (MAX_KEY + 1), b"v")),
        ("REASON_LIMIT_EXCEEDED", put(state, b"k", b"v", ns=b"n" * (MAX_KEY + 1))),
        ("REASON_LIMIT_EXCEEDED", put(state, b"k", b"v" * (MAX_VALUE + 1))),
        ("REASON_LIMIT_EXCEEDED", op("MAP_PUT", table, b"k", map_key=b"m" * (MAX_KEY + 1), value=b"v")),
        ("REASON_LIMIT_EXCEEDED", op("LIST_ADD_ALL", items, b"k", values=[b"", b"v" * (MAX_VALUE + 1)])),
    ):
        with refused(reason, "operation 1", scope="SCOPE_BATCH"):
            client.apply(ref, put(state, b"first", b"applied"), wrong)
    with refused("REASON_LIMIT_EXCEEDED", 100_000):
        client.apply(ref, *[get(state, b"k")] * 100_001)
    (found,) = client.read(ref, get(state, b"first"))
    assert not found.found
    longest = b"k" * MAX_KEY
    client.apply(ref, put(state, longest, b"v" * MAX_VALUE, ns=longest))
    client.apply(ref, op("MAP_PUT", table, longest, map_key=longest, value=b""))
    (found,) = client.read(ref, get(state, longest, ns=longest))
    assert found.value == b"v" * MAX_VALUE
    (page,) = client.read(ref, op("MAP_ENTRIES", table, longest, map_key=longest + b"\x00"))
    assert not page.entries and not page.more, "the place after the longest key can be asked for"


@scenario
def reads_that_fill_a_message_are_paged_and_none_is_lost(world):
    client, ref, (value, items, table) = opened(world, descriptor("v"), descriptor("l", LIST), descriptor("m", MAP))
    big = b"x" * 300_000
    for index in range(30):
        client.apply(
            ref,
            put(value, b"%d" % index, big + b"%d" % index),
            op("LIST_ADD", items, b"k", value=big + b"%d" % index),
            op("MAP_PUT", table, b"k", map_key=b"%02d" % index, value=big),
        )
    session = client.session(ref)
    wanted, asked = list(range(30)), 0
    while wanted:
        results = session.read(*[get(value, b"%d" % index) for index in wanted])
        assert [r.operation for r in results] == list(range(len(wanted)))
        assert results[0].outcome != ASK_AGAIN, "the first read is always carried out"
        for index, result in zip(wanted, results):
            assert result.outcome == ASK_AGAIN or result.value == big + b"%d" % index
        wanted = [index for index, result in zip(wanted, results) if result.outcome == ASK_AGAIN]
        asked += 1
    assert asked > 2
    elements = []
    while True:
        (page,) = session.read(op("LIST_GET", items, b"k", start=len(elements)))
        elements += page.elements
        if not page.more:
            break
    assert elements == [big + b"%d" % index for index in range(30)]
    keys, after = [], b""
    while True:
        (page,) = session.read(op("MAP_ENTRIES", table, b"k", map_key=after))
        keys += [entry.key for entry in page.entries]
        after = keys[-1] + b"\x00"
        if not page.more:
            break
    assert keys == [b"%02d" % index for index in range(30)]
    session.finish()


@scenario
def a_unary_batch_takes_the_next_number_and_one_sent_again_applies_once(world):
    client, ref, (state,) = opened(world, descriptor("s", VALUE, merge("SUM_I64")))
    one = op("MERGE", state, b"k", value=i64(1))
    reply = client.apply(ref, one)
    assert (reply.result.number, reply.acknowledgement.applied_to, reply.acknowledgement.credit) == (0, 1, 0)
    assert client.apply(ref, one, number=1).acknowledgement.applied_to == 2
    again = client.apply(ref, one, number=1)
    assert again.result.repeated_batch and not again.result.results and again.result.number == 1
    with refused("REASON_BATCH_OUT_OF_ORDER", 5, 2):
        client.apply(ref, one, number=5)
    (found,) = client.read(ref, get(state, b"k"))
    assert found.value == i64(2)
