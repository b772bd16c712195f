"""Bad input to every kind of state, and misuse of the asyncio face: the same clear exceptions, no hang, and nothing acknowledged is lost."""

import asyncio
import multiprocessing
import threading

import pytest

import dstl


@pytest.fixture
def inner():
    return dstl.Inner.HASHMAP


def test_wrong_types_are_type_errors_in_every_kind_of_state(backend, session):
    maps = backend.map_state("maps", dstl.STR, dstl.ORDERED_INT64, dstl.STR)
    lists = backend.list_state("lists", dstl.STR, dstl.INT64)
    counts = backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
    timers = backend.timer_state("timers", dstl.STR)
    folded = backend.reducing_state("folded", dstl.STR, dstl.INT64, lambda one, other: one + other)
    floats = backend.value_state("floats", dstl.STR, dstl.FLOAT64)
    for call in (
        lambda: maps.put(5, 1, "x"),
        lambda: maps.put("k", "1", "x"),
        lambda: maps.put("k", 1, 5),
        lambda: maps.get("k", None),
        lambda: maps.remove("k", 1.5),
        lambda: lists.add("k", "1"),
        lambda: lists.add_all("k", [1, None]),
        lambda: lists.update("k", [b"1"]),
        lambda: counts.merge("k", "1"),
        lambda: counts.merge_many(["k"], [1.5]),
        lambda: counts.get(b"k"),
        lambda: timers.register("k", "5"),
        lambda: timers.register(5, 5),
        lambda: timers.register("k", None),
        lambda: floats.put("k", "1.0"),
        lambda: floats.put("k", None),
        lambda: session.barrier("1"),
        lambda: session.barrier(1, "text"),
    ):
        with pytest.raises(TypeError):
            call()
    for call in (lambda: timers.register("k", 1 << 63), lambda: counts.merge("k", 1 << 63), lambda: maps.put("k", -(1 << 63) - 1, "x")):
        with pytest.raises(ValueError):
            call()
    # Nothing of it was sent, and the session goes on.
    assert session.acknowledged.applied_to == 0
    # This one reads before it finds out.
    with pytest.raises(TypeError):
        folded.add("k", "1")
    assert folded.get("k") is None
    floats.put("k", 1)
    lists.add_all("k", [1, 2])
    assert (floats.get("k"), lists.get("k"), counts.get("k"), session.acknowledged.applied_to > 0) == (1.0, [1, 2], None, True)


def test_use_after_close_is_a_closed_error_with_asyncio(daemon, job):
    async def program():
        client = await dstl.aio.connect(daemon.socket)
        backend = await client.open(job, "op", attempt=1)
        numbers = await backend.value_state("numbers", dstl.STR, dstl.INT64)
        with pytest.raises(dstl.ClosedError):
            await numbers.put("k", 1)
        session = await backend.session()
        await numbers.put("k", 1)
        await session.close()
        for call in (lambda: numbers.put("k", 1), lambda: session.barrier(1), lambda: session.send(session.batch()), session.flush):
            with pytest.raises(dstl.ClosedError):
                await call()
        await client.close()
        for call in (client.hello, backend.session, lambda: client.open(job, "op")):
            with pytest.raises(dstl.ClosedError):
                await call()
        # What waits when its session is closed is told.
        async with await dstl.aio.connect(daemon.socket) as client, await client.open(job, "op", attempt=2) as backend:
            session = await backend.session()
            waiting = asyncio.ensure_future(session.wait_job_completed(7))
            await asyncio.sleep(0.05)
            await session.close()
            with pytest.raises(dstl.DstlError):
                await asyncio.wait_for(waiting, 30)

    asyncio.run(program())


def test_loops_of_several_threads_may_use_one_session(daemon, job):
    made, errors = {}, []

    async def open_all():
        client = made["client"] = await dstl.aio.connect(daemon.socket)
        backend = made["backend"] = await client.open(job, "op", attempt=1)
        made["counts"] = await backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
        made["session"] = await backend.session()

    def work():
        async def program():
            for _ in range(5):
                await asyncio.gather(*(made["counts"].merge("shared", 1) for _ in range(100)))
            await made["session"].flush()

        try:
            asyncio.run(program())
        except Exception as error:
            errors.append(error)

    async def end():
        assert await made["counts"].get("shared") == 4 * 500
        await made["backend"].close()
        await made["client"].close()

    asyncio.run(open_all())
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors and not any(thread.is_alive() for thread in threads)
    asyncio.run(end())


def _in_child(made, results):
    async def program():
        for call in (lambda: made["numbers"].put("k", 2), made["client"].hello):
            try:
                await asyncio.wait_for(call(), 30)
                results.put("nothing")
            except Exception as error:
                results.put(type(error).__name__)

    asyncio.run(program())


def test_a_fork_must_connect_again_with_asyncio(daemon, job):
    made = {}

    async def before():
        client = made["client"] = await dstl.aio.connect(daemon.socket)
        backend = made["backend"] = await client.open(job, "op", attempt=1)
        made["numbers"] = await backend.value_state("numbers", dstl.STR, dstl.INT64)
        await backend.session()
        await made["numbers"].put("k", 1)

    async def after():
        assert await made["numbers"].get("k") == 1
        await made["backend"].close()
        await made["client"].close()

    asyncio.run(before())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(made, results))
    child.start()
    assert [results.get(timeout=90) for _ in range(2)] == ["ForkedError", "ForkedError"]
    child.join(60)
    assert child.exitcode == 0
    asyncio.run(after())


def test_1000_tasks_go_on_though_the_connection_breaks(relay, job):
    """Each merge is applied once, whether or not its answer was lost."""

    async def program():
        async with await dstl.aio.connect(relay.path) as client, await client.open(job, "op", attempt=1) as backend:
            counts = await backend.merging_state("counts", dstl.INT64, dstl.SUM_I64)
            async with await backend.session() as session:
                tasks, done = 1000, [0] * 1000

                async def work(number):
                    for _ in range(20):
                        await counts.merge(number, 1)
                        done[number] += 1
                        await asyncio.sleep(0.01)

                running = [asyncio.ensure_future(work(number)) for number in range(tasks)]
                for way in ("answers lost", "away", "cut"):
                    await asyncio.sleep(0.2)
                    if way == "answers lost":
                        relay.holds_answers.set()
                        await asyncio.sleep(0.1)
                    if way == "away":
                        relay.is_away.set()
                    relay.cut()
                    if way == "away":
                        await asyncio.sleep(3)
                        relay.is_away.clear()
                assert not all(task.done() for task in running)
                await asyncio.wait_for(asyncio.gather(*running), 120)
                assert await counts.get_many(list(range(tasks))) == done == [20] * tasks
                assert (await session.checkpoint(1)).id == 1

    asyncio.run(program())
