"""States whose values a function of the task makes: read, folded here, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from .face import Lock
from .states import ValueState

K = TypeVar("K")
I = TypeVar("I")  # noqa: E741
A = TypeVar("A")
R = TypeVar("R")


class AggregatingState(Generic[K, I, A, R]):
    """One accumulator per key and namespace, which a function of the task folds inputs into.

    What is added at the same time shares two round trips. Nobody else may write the accumulators meanwhile. Where one of the daemon's
    merge functions does, `merging_state` saves the reading.
    """

    def __init__(
        self, values: ValueState[K, A], start: Callable[[], A], add: Callable[[A, I], A], result: Callable[[A], R]
    ) -> None:
        self.values = values
        self._start, self._add, self._result = start, add, result
        self._lock = Lock()
        self._waiting: list[tuple[K, I, _Added]] = []

    async def get(self, key: K) -> R | None:
        """The result of a key; `None` if nothing was added."""
        accumulator = await self.values.get(key)
        return None if accumulator is None else self._result(accumulator)

    async def add(self, key: K, value: I) -> None:
        """Folds an input into the accumulator of a key; it is applied when this returns."""
        added = _Added()
        self._waiting.append((key, value, added))
        async with self._lock:
            if not added.is_done:
                waiting, self._waiting = self._waiting, []
                try:
                    await self._fold([(key, value) for key, value, _ in waiting])
                except BaseException as error:
                    for _, _, one in waiting:
                        one.is_done, one.error = True, error
                    raise
                for _, _, one in waiting:
                    one.is_done = True
        if added.error is not None:
            raise added.error

    async def add_all(self, inputs: Iterable[tuple[K, I]]) -> None:
        """Folds inputs, in order, into the accumulators of their keys; a key may come several times."""
        inputs = list(inputs)
        async with self._lock:
            await self._fold(inputs)

    async def _fold(self, inputs: list[tuple[K, I]]) -> None:
        # Keys need not be hashable, and equal ones need not have equal bytes: their bytes are what counts.
        encode = self.values._keys.encode
        places = [encode(key) for key, _ in inputs]
        keys = dict(zip(places, (key for key, _ in inputs)))
        found = await self.values.get_many(list(keys.values()))
        accumulators: dict[bytes, Any] = dict(zip(keys, found))
        for place, (_, value) in zip(places, inputs):
            before = accumulators[place]
            accumulators[place] = self._add(self._start() if before is None else before, value)
        receipts = await self.values.put_many(list(keys.values()), list(accumulators.values()))
        await receipts.applied()

    async def clear(self, key: K) -> None:
        """Removes the accumulator of a key."""
        async with self._lock:
            await self.values.clear(key)

    def in_namespace(self, namespace: Any) -> AggregatingState[K, I, A, R]:
        """The same state in another namespace."""
        return type(self)(self.values.in_namespace(namespace), self._start, self._add, self._result)

    def in_key_group(self, key_group: int) -> AggregatingState[K, I, A, R]:
        """The same state for keys of this key group."""
        return type(self)(self.values.in_key_group(key_group), self._start, self._add, self._result)


class _Added:
    """Whether an input is folded, by whoever took it."""

    __slots__ = ("is_done", "error")

    def __init__(self) -> None:
        self.is_done = False
        self.error: BaseException | None = None
