"""A user's program, for `mypy --strict`: whatever is wrong in it must be found, and nothing else (see `test_package.py`)."""

import asyncio

import dstl


def collect(numbers: list[float], number: float) -> list[float]:
    return [*numbers, number]


def mean_of(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def count(client: dstl.Client, words: list[str]) -> dict[str, int]:
    with client.open("job", "op", attempt=1) as backend:
        counts = backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
        seen = backend.map_state("seen", dstl.STR, dstl.ORDERED_INT64, dstl.JSON)
        means = backend.aggregating_state("means", dstl.STR, dstl.JSON, start=list, add=collect, result=mean_of)
        timers = backend.timer_state("timers", dstl.STR, namespace=dstl.INT64)
        alarms = backend.timer_state("alarms", dstl.STR)
        with backend.session() as session:
            batch = session.batch()
            slot = batch.get(counts, "word")
            found: int | None = session.send(batch).applied()[slot]
            session.complete(session.checkpoint(1, b"offset"))
            entries: list[tuple[int, object]] = list(seen.entries("k", first=3))
            windows: list[int] = [timer.namespace for timer in timers.due(5)]
            fired, more = alarms.fire(9)
            alarm: bytes = fired[0].namespace if fired and not more else b""
            means.add("k", 5)
            means.add("k", "5")  # wrong: input
            mean: float | None = means.get("k")
            print(found, entries, windows, mean, alarm)
            return {word: counts.get(word) or 0 for word in words}


async def task() -> None:
    async with await dstl.aio.connect() as client, await client.open("job", "op", attempt=2) as backend:
        names = await backend.value_state("names", dstl.INT64, dstl.STR, ttl=dstl.Ttl(60))
        async with await backend.session():
            name: str | None = await names.get(5)
            keys: list[int] = [key async for key in names.keys()]
            print(name, keys)
            await names.put("five", "x")  # wrong: key
            await names.put(5, 5)  # wrong: value
    try:
        pass
    except dstl.SessionLostError as error:
        print(error.reason, error.retryable)


asyncio.run(task())
count(dstl.connect(), ["a"]).get(5)  # wrong: key
