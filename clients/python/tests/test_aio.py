"""The asyncio face: the same, with `await`."""

import asyncio

import pytest

import dstl


def run(daemon, job, program):
    async def main():
        async with await dstl.aio.connect(daemon.socket) as client:
            async with await client.open(job, "op", attempt=1) as backend:
                async with await backend.session() as session:
                    await program(client, backend, session)

    asyncio.run(main())


def test_what_is_awaited_together_travels_in_few_batches(daemon, job):
    async def program(client, backend, session):
        counts = await backend.merging_state("counts", dstl.INT64, dstl.SUM_I64)
        await asyncio.gather(*(counts.merge(number % 10, 1) for number in range(2000)))
        assert session.acknowledged.applied_to <= 200
        assert await asyncio.gather(*(counts.get(number) for number in range(11))) == [200] * 10 + [None]

    run(daemon, job, program)


def test_all_kinds_of_state_work(daemon, job):
    async def program(client, backend, session):
        values = await backend.value_state("values", dstl.STR, dstl.STR)
        maps = await backend.map_state("maps", dstl.STR, dstl.ORDERED_INT64, dstl.STR)
        lists = await backend.list_state("lists", dstl.STR, dstl.STR)
        timers = await backend.timer_state("timers", dstl.STR)
        folded = await backend.reducing_state("folded", dstl.STR, dstl.INT64, lambda a, b: a + b)
        receipts = await values.put_many(["a", "b"], ["1", "2"])
        await receipts.applied()
        assert await values.get_many(["b", "a", "c"]) == ["2", "1", None]
        await asyncio.gather(*(maps.put("k", number, str(number)) for number in range(50)))
        assert [number async for number, _ in maps.entries("k", page=7)] == list(range(50))
        assert sorted([key async for key in values.keys(page=1)]) == ["a", "b"]
        await lists.add_all("k", ["x", "y"])
        assert [element async for element in lists.elements("k")] == await lists.get("k") == ["x", "y"]
        await timers.register("k", 3)
        assert [timer.time async for timer in timers.due(3)] == [3]
        await asyncio.gather(*(folded.add("k", number) for number in range(100)))
        assert await folded.get("k") == sum(range(100))
        batch = session.batch()
        slot = batch.get(values, "a")
        receipt = await session.send(batch)
        assert (await receipt.applied())[slot] == "1"
        assert (await session.checkpoint(1, b"x")).id == 1
        described = await backend.describe()
        assert len(described.states) == 5
        async with await client.query(job, "op") as query:
            read = query.value_state("values", dstl.STR, dstl.STR)
            assert await asyncio.gather(*(read.get(key) for key in ("a", "b", "c"))) == ["1", "2", None]

    run(daemon, job, program)


def test_a_cancelled_task_leaves_the_session_as_it_is(daemon, job):
    async def program(client, backend, session):
        counts = await backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
        tasks = [asyncio.ensure_future(counts.merge("k", 1)) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await session.flush()
        assert await counts.get("k") in range(50, 101)
        receipt = await session.send(session.batch())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.wait_job_completed(5), 0.05)
        await receipt.applied()

    run(daemon, job, program)


def test_a_cancelled_task_takes_nobody_with_it_who_folds_beside_it(daemon, job):
    async def program(client, backend, session):
        def total(before, value):
            if value == "wrong":
                raise ZeroDivisionError
            return before + value

        folded = await backend.reducing_state("folded", dstl.STR, dstl.INT64, total)
        tasks = [asyncio.ensure_future(folded.add("k", 1)) for _ in range(100)]
        for _ in range(5):
            await asyncio.sleep(0)
        # The first one folds for all.
        tasks[0].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ends[0], asyncio.CancelledError) and ends[1:] == [None] * 99
        assert await folded.get("k") == 100
        ends = await asyncio.gather(folded.add("k", "wrong"), folded.add("k", 1), return_exceptions=True)
        assert isinstance(ends[0], ZeroDivisionError) and ends[1] is None
        await folded.add_all([("k", 1), ("k", 1)])
        assert await folded.get("k") == 103

    run(daemon, job, program)


def test_errors_are_those_of_the_blocking_face(daemon, job):
    async def program(client, backend, session):
        values = await backend.value_state("values", dstl.STR, dstl.STR)
        with pytest.raises(TypeError):
            await values.put(5, "x")
        with pytest.raises(dstl.StateMismatchError):
            await backend.value_state("values", dstl.STR, dstl.INT64)
        async with await client.open(job, "op", attempt=2):
            with pytest.raises(dstl.FencedError):
                for _ in range(1000):
                    await values.put("k", "v")
        session.abort()
        with pytest.raises(dstl.FencedError):
            await values.get("k")

    with pytest.raises(dstl.FencedError):
        run(daemon, job, program)
