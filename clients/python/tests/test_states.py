"""What states do, through the blocking face, on both inner backends."""

import threading
import time

import pytest

import dstl


def test_a_value_is_put_read_and_cleared(backend, session):
    names = backend.value_state("names", dstl.INT64, dstl.STR, default="nobody")
    assert names.get(1) is None
    assert names.get_or_default(1) == "nobody"
    names.put(1, "ada")
    names.put(2, "")
    assert (names.get(1), names.get(2)) == ("ada", "")
    names.clear(1)
    assert names.get(1) is None
    assert sorted(names.keys()) == [2]


def test_a_state_without_a_default_says_so(backend, session):
    plain = backend.value_state("plain", dstl.STR, dstl.INT64)
    with pytest.raises(ValueError, match="without a default"):
        plain.get_or_default("x")


@pytest.mark.parametrize(
    ("merge", "operands", "expected"),
    [
        (dstl.SUM_I64, [1, 2, -5], -2),
        (dstl.MIN_I64, [3, -7, 5], -7),
        (dstl.MAX_I64, [3, -7, 5], 5),
        (dstl.SUM_F64, [0.5, 1.25], 1.75),
        (dstl.MIN_F64, [0.5, -1.5], -1.5),
        (dstl.MAX_F64, [0.5, -1.5], 0.5),
        (dstl.COUNT, [1, 1, 3, -1], 4),
        (dstl.AVERAGE_I64, [1, 2, 6], dstl.Average(9, 3)),
        (dstl.AVERAGE_F64, [0.5, 1.0], dstl.Average(1.5, 2)),
        (dstl.APPEND, [b"a", b"", b"bc"], b"abc"),
        (dstl.set_union(dstl.STR), [{"b", "ä"}, {"a", "b"}, set()], frozenset({"a", "b", "ä"})),
    ],
)
def test_the_daemon_merges(backend, session, merge, operands, expected):
    state = backend.merging_state("merged", dstl.STR, merge)
    for operand in operands:
        state.merge("one", operand)
    state.merge_many(["many"] * len(operands), operands).applied()
    assert state.get("one") == state.get("many") == expected


def test_a_sketch_counts_distinct_things(backend, session):
    seen = backend.merging_state("seen", dstl.STR, dstl.HYPER_LOG_LOG)
    seen.merge_many(["k"] * 1000, [b"%d" % (number % 100) for number in range(1000)])
    assert len(seen.get("k")) > 8


def test_a_map_is_ordered_and_read_by_range_prefix_and_page(backend, session):
    seen = backend.map_state("seen", dstl.STR, dstl.ORDERED_INT64, dstl.JSON)
    for number in (5, -3, 0, 700, -1 << 63):
        seen.put("k", number, {"n": number})
    assert [number for number, _ in seen.entries("k", page=2)] == [-1 << 63, -3, 0, 5, 700]
    assert list(seen.entries("k", first=-3, end=5)) == [(-3, {"n": -3}), (0, {"n": 0})]
    assert (seen.count("k"), seen.contains("k", 5), seen.contains("k", 6)) == (5, True, False)
    assert (seen.get("k", 5), seen.get("k", 6), seen.get("other", 5)) == ({"n": 5}, None, None)
    seen.remove("k", 5)
    assert seen.count("k") == 4
    texts = backend.map_state("texts", dstl.STR, dstl.STR, dstl.NONE)
    for text in ("apple", "apricot", "banana", ""):
        texts.put("k", text, None)
    assert [text for text, _ in texts.entries("k", prefix=b"ap")] == ["apple", "apricot"]
    assert [text for text, _ in texts.entries("k", page=1)] == ["", "apple", "apricot", "banana"]
    texts.clear("k")
    assert list(texts.entries("k")) == []


def test_entries_of_a_map_merge(backend, session):
    counts = backend.map_state("counts", dstl.STR, dstl.STR, dstl.INT64, merge=dstl.SUM_I64)
    counts.merge("k", "a", 2)
    counts.merge("k", "a", 3)
    assert counts.get("k", "a") == 5
    plain = backend.map_state("plain", dstl.STR, dstl.STR, dstl.INT64)
    with pytest.raises(TypeError, match="no merge function"):
        plain.merge("k", "a", 1)


def test_a_list_appends_replaces_and_pages(backend, session):
    lists = backend.list_state("lists", dstl.STR, dstl.INT64)
    lists.add("k", 1)
    lists.add_all("k", [2, 3])
    assert (lists.get("k"), lists.count("k")) == ([1, 2, 3], 3)
    assert list(lists.elements("k", start=1, page=1)) == [2, 3]
    lists.update("k", [9])
    assert (lists.get("k"), lists.get("other")) == ([9], [])
    lists.update("k", [])
    assert list(lists.keys()) == []


def test_a_list_beyond_a_message_is_read_whole(backend, session):
    blobs = backend.list_state("blobs", dstl.STR, dstl.BYTES)
    for number in range(12):
        blobs.add("k", bytes([number]) * 900_000)
    assert [blob[:1] for blob in blobs.get("k")] == [bytes([number]) for number in range(12)]


def test_elements_that_expire_between_pages_hide_none_that_live(backend, session):
    # Where the machine is so slow that the later ones expire too, there is more time in the next round.
    for seconds in (2, 8, 32, 128):
        lists = backend.list_state(f"expiring-{seconds}", dstl.STR, dstl.INT64, ttl=dstl.Ttl(seconds))
        lists.add_all("k", range(10))
        time.sleep(seconds / 2)
        lists.add_all("k", range(10, 20))
        found = []
        for element in lists.elements("k", page=5):
            found.append(element)
            if len(found) == 5:
                # The first ten expire behind the first page.
                while len(lists.get("k")) == 20:
                    time.sleep(0.05)
        if lists.get("k") == list(range(10, 20)):
            assert found[-10:] == list(range(10, 20))
            return
    raise AssertionError("this machine is too slow")


def test_timers_are_due_in_order_and_fire_once(backend, session):
    timers = backend.timer_state("timers", dstl.STR, namespace=dstl.STR)
    hour = timers.in_namespace("hour")
    for key, time_ in (("b", 5), ("a", 5), ("a", -7), ("a", 5), ("c", 100)):
        hour.register(key, time_)
    assert [(t.time, t.key, t.namespace) for t in timers.due(50, page=1)] == [(-7, "a", "hour"), (5, "a", "hour"), (5, "b", "hour")]
    assert (timers.count(), timers.peek().time) == (4, -7)
    hour.delete("a", -7)
    fired, more = timers.fire(50, 1)
    assert ([timer.key for timer in fired], more) == (["a"], True)
    fired, more = timers.fire(1 << 62)
    assert ([timer.key for timer in fired], more) == (["b", "c"], False)
    assert (timers.peek(), timers.count()) == (None, 0)
    with pytest.raises(ValueError):
        hour.register("a", 1 << 63)


def test_namespaces_merge_as_session_windows_need(backend, session):
    sums = backend.merging_state("sums", dstl.STR, dstl.SUM_I64, namespace=dstl.INT64)
    sums.in_namespace(1).merge("k", 1)
    sums.in_namespace(2).merge("k", 10)
    sums.in_namespace(3).merge_namespaces("k", [1, 2])
    assert [sums.in_namespace(window).get("k") for window in (1, 2, 3)] == [None, None, 11]
    assert [(stored.key, stored.namespace) for stored in sums.all_keys()] == [("k", 3)]
    with pytest.raises(ValueError, match="distinct"):
        sums.in_namespace(3).merge_namespaces("k", [3])


def test_a_function_of_the_task_folds(backend, session):
    longest = backend.reducing_state("longest", dstl.STR, dstl.STR, lambda a, b: max(a, b, key=len))
    longest.add("k", "ab")
    longest.add_all([("k", "abcd"), ("k", "abc"), ("other", "x")])
    assert (longest.get("k"), longest.get("other"), longest.get("none")) == ("abcd", "x", None)
    longest.clear("k")
    assert longest.get("k") is None
    means = backend.aggregating_state(
        "means",
        dstl.STR,
        dstl.JSON,
        start=lambda: [0, 0],
        add=lambda total, value: [total[0] + value, total[1] + 1],
        result=lambda total: total[0] / total[1],
    )
    threads = [threading.Thread(target=means.add, args=("k", number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert means.get("k") == sum(range(20)) / 20
    assert means.in_namespace(b"w").get("k") is None


def test_entries_expire(backend, session):
    fleeting = backend.value_state("fleeting", dstl.STR, dstl.STR, ttl=dstl.Ttl(0.2))
    fleeting.put("k", "v")
    deadline = time.monotonic() + 20
    while fleeting.get("k") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_reads_that_touch_cost_credit_and_keep_alive(backend, session):
    kept = backend.value_state("kept", dstl.STR, dstl.STR, ttl=dstl.Ttl(3600, update_on_read=True, cleanup_entries=3))
    kept.put("k", "v" * 1000)
    for _ in range(50):
        assert kept.get_many(["k"] * 100) == ["v" * 1000] * 100
    assert kept.descriptor.ttl.duration_ms == 3_600_000


def test_a_batch_sees_its_own_writes(backend, session):
    numbers = backend.merging_state("numbers", dstl.STR, dstl.SUM_I64)
    numbers.put("k", 1)
    lists = backend.list_state("lists", dstl.STR, dstl.STR)
    maps = backend.map_state("maps", dstl.STR, dstl.STR, dstl.INT64, merge=dstl.SUM_I64)
    timers = backend.timer_state("timers", dstl.STR)
    batch = session.batch()
    before = batch.get(numbers, "k")
    batch.merge(numbers, "k", 4)
    after = batch.get(numbers, "k")
    batch.put_many(numbers, ["x", "y"], [7, 8])
    many = batch.get_many(numbers, ["y", "x", "z"])
    batch.map_put(maps, "k", "m", 1)
    batch.map_merge(maps, "k", "m", 2)
    batch.map_put(maps, "k", "gone", 0)
    batch.map_remove(maps, "k", "gone")
    entry = batch.map_get(maps, "k", "m")
    batch.list_add(lists, "k", "a")
    batch.list_add_all(lists, "k", ["b"])
    batch.timer_register(timers, "k", 3)
    batch.timer_register(timers, "k", 4)
    batch.timer_delete(timers, "k", 3)
    batch.clear(numbers, "y")
    applied = session.send(batch).applied()
    assert (applied[before], applied[after], applied[many], applied[entry]) == (1, 5, [8, 7, None], 3)
    assert (lists.get("k"), maps.count("k"), [t.time for t in timers.due(9)]) == (["a", "b"], 1, [4])
    assert numbers.get("y") is None


def test_many_values_are_read_although_they_do_not_fit_one_message(backend, session):
    blobs = backend.value_state("blobs", dstl.INT64, dstl.BYTES)
    receipts = blobs.put_many(list(range(30)), [bytes([number]) * 500_000 for number in range(30)])
    to = receipts.applied()
    found = blobs.get_many(list(range(31)))
    assert [value and value[:1] for value in found] == [bytes([number]) for number in range(30)] + [None]
    assert session.persist() >= to
    assert session.wait_persisted(to).persisted_to >= to


def test_a_merge_that_grows_too_long_is_told(backend, session):
    texts = backend.merging_state("texts", dstl.STR, dstl.APPEND)
    texts.put("k", bytes(1_000_000))
    with pytest.raises(dstl.LimitReachedError):
        texts.merge("k", bytes(1_000_000))
    receipts = texts.merge_many(["k"], [bytes(1_000_000)])
    with pytest.raises(dstl.LimitReachedError):
        receipts.applied()
    texts.merge_many(["k"], [bytes(1_000_000)])
    with pytest.raises(dstl.RejectedError, match="longer than"):
        session.flush()
    session.flush()
    assert len(texts.get("k")) == 1_000_000


def test_a_query_reads_beside_the_writer(client, backend, session, job):
    numbers = backend.merging_state("numbers", dstl.STR, dstl.SUM_I64)
    maps = backend.map_state("maps", dstl.STR, dstl.STR, dstl.INT64)
    backend.list_state("lists", dstl.STR, dstl.INT64).add("k", 1)
    backend.timer_state("timers", dstl.STR).register("k", 1)
    numbers.put_many([f"k{number}" for number in range(1000)], list(range(1000))).applied()
    maps.put("k", "a", 1)
    with client.query(job, "op") as query:
        read = query.value_state("numbers", dstl.STR, dstl.INT64)
        assert (read.get("k7"), read.get("none")) == (7, None)
        assert read.get_many([f"k{number}" for number in range(1000)]) == list(range(1000))
        assert list(query.map_state("maps", dstl.STR, dstl.STR, dstl.INT64).entries("k")) == [("a", 1)]
        assert query.list_state("lists", dstl.STR, dstl.INT64).get("k") == [1]
        assert [t.time for t in query.timer_state("timers", dstl.STR, namespace=dstl.BYTES).due(5)] == [1]
        assert len(list(read.keys())) == 1000
        for write in (lambda: read.put("k", 1), lambda: read.put_many(["k"], [1]), lambda: read.clear("k")):
            with pytest.raises(dstl.UnsupportedError):
                write()
        with pytest.raises(dstl.NotFoundError, match="numbers"):
            query.value_state("other", dstl.STR, dstl.INT64)
    with pytest.raises(dstl.ClosedError):
        read.get("k7")
    with pytest.raises(dstl.DstlError) as refused, client.query(job, "nobody") as query:
        query.value_state("numbers", dstl.STR, dstl.INT64)
    assert refused.value.reason == "BACKEND_NOT_OPEN"


def test_a_query_of_what_is_completed_names_the_checkpoint(client, backend, session, job):
    numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
    numbers.put("k", 1)
    session.complete(session.checkpoint(1))
    numbers.put("k", 2)
    with client.query(job, "op", completed=True) as query:
        assert query.value_state("numbers", dstl.STR, dstl.INT64).get("k") == 1
        assert query.checkpoint.id == 1
