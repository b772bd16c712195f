"""States whose values a function of the task makes: read, folded here, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from ..errors import AnswerLostError
from .face import Lock, to_its_end
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
        await to_its_end(self._take_turn(added))
        if added.error is not None:
            raise added.error

    async def _take_turn(self, added: _Added) -> None:
        """Folds all that waits, unless somebody did meanwhile."""
        async with self._lock:
            if added.is_done:
                return
            waiting, self._waiting = self._waiting, []
            try:
                await self._fold([(key, value) for key, value, _ in waiting])
            except Exception as error:
                for _, _, one in waiting:
                    one.error = error
            except BaseException:
                lost = "the caller that folded for several was interrupted, so nobody knows what was applied: restore the last checkpoint"
                for _, _, one in waiting:
                    one.error = AnswerLostError(lost)
                raise
            finally:
                for _, _, one in waiting:
                    one.is_done = True

    async def add_all(self, inputs: Iterable[tuple[K, I]]) -> None:
        """Folds inputs, in order, into the accumulators of their keys; a key may come several times."""
        await to_its_end(self._fold_alone(list(inputs)))

    async def _fold_alone(self, inputs: list[tuple[K, I]]) -> None:
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
