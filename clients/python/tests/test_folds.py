"""States that a function of the task folds: whoever adds at the same time, by whatever handle, loses nothing to another."""

import asyncio
import threading

import pytest

import dstl


@pytest.fixture
def inner():
    return dstl.Inner.HASHMAP


def total_and_count(backend, **more):
    return backend.aggregating_state(
        "means",
        dstl.STR,
        dstl.JSON,
        start=lambda: [0, 0],
        add=lambda total, value: [total[0] + value, total[1] + 1],
        result=lambda total: tuple(total),
        namespace=dstl.INT64,
        **more,
    )


def test_namespaces_merge_by_the_function(backend, session):
    means = total_and_count(backend, merge=lambda one, other: [one[0] + other[0], one[1] + other[1]])
    texts = backend.reducing_state("texts", dstl.STR, dstl.STR, lambda one, other: one + other, namespace=dstl.STR)
    for window in (1, 2, 5):
        means.in_namespace(window).add_all([("k", 10 * window), ("k", 1), ("other", window)])
    means.in_namespace(5).merge_namespaces("k", [2, 1, 77])
    assert [means.in_namespace(window).get("k") for window in (1, 2, 5)] == [None, None, (83, 6)]
    assert [means.in_namespace(window).get("other") for window in (1, 2, 5)] == [(1, 1), (2, 1), (5, 1)]
    assert sorted(means.in_namespace(5).keys()) == ["k", "other"]
    assert sorted((at.key, at.namespace) for at in means.all_keys()) == [("k", 5), ("other", 1), ("other", 2), ("other", 5)]
    for window in "cab":
        texts.in_namespace(window).add("k", window)
    texts.in_namespace("d").merge_namespaces("k", ["b", "c", "a"])
    assert texts.in_namespace("d").get("k") == "bca"
    texts.in_namespace("e").merge_namespaces("k", ["x", "y"])
    assert texts.in_namespace("e").get("k") is None
    for sources, error in ((["d"], ValueError), (["a", "a"], ValueError), ("ab", TypeError), ([5], TypeError)):
        with pytest.raises(error):
            texts.in_namespace("d").merge_namespaces("k", sources)
    with pytest.raises(TypeError, match="merge="):
        total_and_count(backend).in_namespace(3).merge_namespaces("k", [5])


def test_handles_of_one_state_take_turns(daemon, job):
    async def program():
        async with await dstl.aio.connect(daemon.socket) as client, await client.open(job, "op", attempt=1) as backend:
            sums = await backend.reducing_state("sums", dstl.STR, dstl.INT64, lambda one, other: one + other, namespace=dstl.INT64)
            # Registered twice, it is still one state.
            again = await backend.reducing_state("sums", dstl.STR, dstl.INT64, lambda one, other: one + other, namespace=dstl.INT64)
            async with await backend.session() as session:
                # A handle of its own for each, as a task makes it.
                before = session.acknowledged.applied_to
                await asyncio.gather(*((sums, again)[number % 2].in_namespace(number % 3).add(f"k{number % 5}", 1) for number in range(900)))
                assert session.acknowledged.applied_to - before < 100
                for window in range(3):
                    assert [await sums.in_namespace(window).get(f"k{key}") for key in range(5)] == [60] * 5
                await asyncio.gather(
                    *(sums.in_namespace(9).merge_namespaces("k0", [window]) for window in range(3)),
                    *(sums.in_namespace(number % 3).add("k0", 1) for number in range(90)),
                )
                await sums.in_namespace(9).merge_namespaces("k0", [0, 1, 2])
                assert await sums.in_namespace(9).get("k0") == 270

    asyncio.run(program())


def test_loops_of_several_threads_take_turns(daemon, job):
    made, errors = {}, []

    async def begin():
        client = made["client"] = await dstl.aio.connect(daemon.socket)
        backend = made["backend"] = await client.open(job, "op", attempt=1)
        made["sums"] = await backend.reducing_state("sums", dstl.STR, dstl.INT64, lambda one, other: one + other)
        await backend.session()

    def work():
        async def program():
            for _ in range(10):
                await asyncio.gather(*(made["sums"].add("k", 1) for _ in range(10)))

        try:
            asyncio.run(program())
        except BaseException as error:
            errors.append(error)

    def leave():
        """Loops that end while their tasks wait for a turn, or have it."""
        for _ in range(10):
            loop = asyncio.new_event_loop()
            tasks = [loop.create_task(made["sums"].add("left", 1)) for _ in range(3)]
            loop.call_later(0.005, loop.stop)
            loop.run_forever()
            loop.close()
            for task in tasks:
                task._log_destroy_pending = False

    async def end():
        assert await asyncio.wait_for(made["sums"].get("k"), 60) == 4 * 100
        await asyncio.wait_for(made["sums"].add("k", 1), 60)
        assert await made["sums"].get("k") == 401
        await made["backend"].close()
        await made["client"].close()

    asyncio.run(begin())
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not errors and not any(thread.is_alive() for thread in threads)
    leave()
    asyncio.run(end())


def test_only_the_input_to_blame_fails(daemon, job):
    async def program():
        async with await dstl.aio.connect(daemon.socket) as client, await client.open(job, "op", attempt=1) as backend:
            sums = await backend.reducing_state("sums", dstl.STR, dstl.INT64, lambda one, other: one + other)
            async with await backend.session():
                inputs = [("good", 1), ("bad", 2), ("good", "3"), (5, 1), ("bad", 1 << 63), ("", 1), ("fine", 1)]
                ends = await asyncio.gather(*(sums.add(key, value) for key, value in inputs), return_exceptions=True)
                # What cannot be written stays as it was, and all who added to it are told.
                kinds = [type(None), ValueError, TypeError, TypeError, ValueError, dstl.LimitExceededError, type(None)]
                assert [type(end) for end in ends] == kinds
                assert [await sums.get(key) for key in ("good", "bad", "fine")] == [1, None, 1]
                with pytest.raises(TypeError):
                    await sums.add_all([("good", 1), ("good", "x")])
                assert await sums.get("good") == 1

    asyncio.run(program())


def test_more_accumulators_than_fit_a_message(backend, session):
    longest = backend.reducing_state("longest", dstl.INT64, dstl.BYTES, max)
    longest.add_all([(number, bytes([number]) * 600_000) for number in range(20)])
    longest.add_all([(number, b"\xff") for number in range(20)])
    longest.add_all([(number, b"a") for number in range(20, 9000)])
    assert [longest.get(number) for number in (0, 19, 8999)] == [b"\xff", b"\xff", b"a"]
