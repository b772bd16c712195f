"""States whose values a function of the task makes: read, folded here, and written."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Generic, TypeVar

from .._core.columns import gathered
from ..errors import AnswerLostError
from .face import Lock, to_its_end
from .states import PAGE, Receipts, StoredKey, ValueState

K = TypeVar("K")
I = TypeVar("I")  # noqa: E741
A = TypeVar("A")
R = TypeVar("R")


class Folds:
    """What all handles of one state share, whatever their namespaces: one of them at a time reads and writes accumulators."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._waiting: deque[_Input] = deque()

    def add(self, one: _Input) -> None:
        """Lets an input wait for whoever has the lock next."""
        self._waiting.append(one)

    def take(self) -> list[_Input]:
        """All that wait. Threads add without the lock, so that the queue is never another one."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class _Input:
    """An input on its way into the accumulator of a key, and what became of it, by whoever took it."""

    __slots__ = ("values", "key", "value", "read", "is_done", "error")

    def __init__(self, values: ValueState[Any, Any], key: Any, value: Any) -> None:
        self.values, self.key, self.value = values, key, value
        # It names the place, too. Keys need not be hashable, and equal ones need not have equal bytes.
        self.read = values.op_get(key)
        self.is_done = False
        self.error: BaseException | None = None


class AggregatingState(Generic[K, I, A, R]):
    """One accumulator per key and namespace, which a function of the task folds inputs into.

    What is added at the same time, to whatever keys and namespaces, shares two round trips. Nobody else may write the accumulators
    meanwhile. Where one of the daemon's merge functions does, `merging_state` saves the reading.
    """

    def __init__(
        self,
        values: ValueState[K, A],
        folds: Folds,
        start: Callable[[], A],
        add: Callable[[A, I], A],
        result: Callable[[A], R],
        merge: Callable[[A, A], A] | None,
    ) -> None:
        self.values = values
        self._folds = folds
        self._start, self._add, self._result, self._merge = start, add, result, merge

    async def get(self, key: K) -> R | None:
        """The result of a key; `None` if nothing was added."""
        accumulator = await self.values.get(key)
        return None if accumulator is None else self._result(accumulator)

    async def add(self, key: K, value: I) -> None:
        """Folds an input into the accumulator of a key; it is applied when this returns.

        Raises what the state's function raised on this input. An accumulator that cannot be written (its type, its length) is left as it
        was, and whoever added to it at the same time is told.
        """
        self.values._runner.writer()
        added = _Input(self.values, key, value)
        self._folds.add(added)
        await to_its_end(self._take_turn(added))
        if added.error is not None:
            raise added.error

    async def _take_turn(self, added: _Input) -> None:
        """Folds all that waits, unless somebody did meanwhile."""
        async with self._folds.lock:
            if added.is_done:
                return
            waiting = self._folds.take()
            try:
                await self._write(await self._folded(waiting))
            except Exception as error:
                for one in waiting:
                    one.error = one.error or error
            except BaseException:
                lost = "the caller that folded for several was interrupted, so nobody knows what was applied: restore the last checkpoint"
                for one in waiting:
                    one.error = one.error or AnswerLostError(lost)
                raise
            finally:
                for one in waiting:
                    one.is_done = True

    async def add_all(self, inputs: Iterable[tuple[K, I]]) -> None:
        """Folds inputs, in order, into the accumulators of their keys; a key may come several times. Nothing is written if one fails."""
        self.values._runner.writer()
        await to_its_end(self._fold_alone([_Input(self.values, key, value) for key, value in inputs]))

    async def _fold_alone(self, inputs: list[_Input]) -> None:
        async with self._folds.lock:
            writes = await self._folded(inputs)
            for one in inputs:
                if one.error is not None:
                    raise one.error
            await self._write(writes)

    async def _folded(self, inputs: list[_Input]) -> list[bytes]:
        """The writes of the new accumulators; an input that cannot be added has its error."""
        places: dict[bytes, list[_Input]] = {}
        for one in inputs:
            places.setdefault(one.read, []).append(one)
        writes = []
        for together, before in zip(places.values(), await self._read([of[0] for of in places.values()])):
            accumulator: Any = before
            for one in together:
                try:
                    accumulator = self._add(self._start() if accumulator is None else accumulator, one.value)
                except Exception as error:
                    one.error = error
            try:
                if accumulator is not None:
                    writes.append(together[0].values.op_put(together[0].key, accumulator))
            except Exception as error:
                for one in together:
                    one.error = one.error or error
        return writes

    async def _read(self, inputs: list[_Input]) -> list[A | None]:
        """The accumulators at the places of these inputs."""
        reads = gathered([one.read for one in inputs], self.values._limits)
        return self.values.values_of(await self.values._runner.operate_all(list(reads), True, False, self.values.id))

    async def _write(self, writes: list[bytes]) -> None:
        """Writes, and waits until that is applied."""
        receipts: Receipts = await self.values._send_all(list(gathered(writes, self.values._limits)))
        await receipts.applied()

    async def clear(self, key: K) -> None:
        """Removes the accumulator of a key."""
        self.values._runner.writer()
        async with self._folds.lock:
            await self.values.clear(key)

    async def merge_namespaces(self, key: K, sources: Iterable[Any]) -> None:
        """Merges, by the state's function, the accumulators that other namespaces have of a key into that of this one, in the given
        order, and clears them there, all in one batch: what session windows need.

        Raises `TypeError` if the state was registered without `merge=`, and `ValueError` if the namespaces are not distinct.
        """
        if self._merge is None:
            raise TypeError(f"state `{self.values.name}` cannot merge namespaces: register it with `merge=`")
        if isinstance(sources, (str, bytes)):
            raise TypeError(f"expected namespaces, got {type(sources).__name__}")
        self.values._runner.writer()
        others = [self.values.in_namespace(source) for source in sources]
        self.values.check_distinct([other._target.namespace for other in others])
        await to_its_end(self._merge_alone(key, others, self._merge))

    async def _merge_alone(self, key: K, others: list[ValueState[K, A]], merge: Callable[[A, A], A]) -> None:
        async with self._folds.lock:
            found = await self._read([_Input(values, key, None) for values in (self.values, *others)])
            merged: Any = None
            for accumulator in found:
                if accumulator is not None:
                    merged = accumulator if merged is None else merge(merged, accumulator)
            if merged is None:
                return
            session = self.values._runner.writer()
            batch = session.batch()
            batch.put(self.values, key, merged)
            for other in others:
                batch.clear(other, key)
            await (await session.send(batch)).applied()

    def keys(self, *, page: int = PAGE) -> AsyncIterator[K]:
        """Keys of this namespace to which something was added; see `ValueState.keys`."""
        return self.values.keys(page=page)

    def all_keys(self, *, page: int = PAGE) -> AsyncIterator[StoredKey[K]]:
        """Keys of every namespace."""
        return self.values.all_keys(page=page)

    def in_namespace(self, namespace: Any) -> AggregatingState[K, I, A, R]:
        """The same state in another namespace."""
        return self._over(self.values.in_namespace(namespace))

    def in_key_group(self, key_group: int) -> AggregatingState[K, I, A, R]:
        """The same state for keys of this key group."""
        return self._over(self.values.in_key_group(key_group))

    def _over(self, values: ValueState[K, A]) -> AggregatingState[K, I, A, R]:
        return type(self)(values, self._folds, self._start, self._add, self._result, self._merge)
