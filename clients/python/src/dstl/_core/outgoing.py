"""One batch on its way, and who waits for it."""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import AnswerLostError, DstlError
from ..proto import state_pb2
from . import wire

Result = state_pb2.OperationResult
_ASK_AGAIN = state_pb2.OUTCOME_ASK_AGAIN


class Reply(Protocol):
    """Where an answer goes: exactly one of value and error. Both faces have their own; settling one never blocks nor raises."""

    def settle(self, value: Any, error: DstlError | None = None) -> None:
        """Gives the answer. Only the first one counts."""


class Observed:
    """Whether somebody asked what became of a batch."""

    __slots__ = ("observed",)

    def __init__(self) -> None:
        self.observed = False


class Outgoing:
    """A batch, its place in the numbering aside.

    It has one waiter for all of it (`whole`), or one for each operation (`each`, with `parts` beside it). `again` is set for reads that are
    asked again: the number and the indexes that they had first.
    """

    __slots__ = (
        "operations",
        "count",
        "reads",
        "writes",
        "states",
        "accepted",
        "whole",
        "each",
        "parts",
        "again",
        "results",
        "answered",
        "observed",
    )

    def __init__(self, operations: bytes, count: int, *, reads: bool, writes: bool, states: frozenset[int]) -> None:
        self.operations, self.count, self.reads, self.writes, self.states = operations, count, reads, writes, states
        self.accepted: Reply | None = None
        self.whole: Reply | None = None
        self.each: list[Reply] | None = None
        self.parts: list[bytes] | None = None
        self.again: tuple[int, list[int]] | None = None
        self.results: list[Result] = []
        self.answered = False
        # Whether somebody looks at its receipt; else the session tells what became of it later.
        self.observed: Observed | None = None

    @classmethod
    def shared(cls, parts: list[bytes], replies: list[Reply], **facts: Any) -> Outgoing:
        """Operations of several callers."""
        made = cls(b"".join(parts), len(parts), **facts)
        made.parts, made.each = parts, replies
        return made

    def lacks_results(self) -> bool:
        """Whether an answer without results leaves somebody without what was read."""
        return self.reads and not self.answered

    def answer(self, number: int, results: list[Result]) -> Outgoing | None:
        """Takes in results. What the daemon left out, since the message was full, comes back as a batch to ask again."""
        left_out = {result.operation for result in results if result.outcome == _ASK_AGAIN}
        if not left_out:
            self.complete(number, results)
            return None
        self.results += self._translated([result for result in results if result.operation not in left_out])
        return self._part(number, sorted(left_out))

    def complete(self, number: int, results: list[Result]) -> None:
        """Answers whoever waits."""
        if self.answered:
            return
        self.answered = True
        number = self.again[0] if self.again else number
        results = self._translated(results)
        if self.results:
            results = sorted(self.results + results, key=lambda result: result.operation)
        if self.whole is not None:
            self.whole.settle((number, results))
        elif self.each is not None:
            found: dict[int, Result] = {result.operation: result for result in results}
            for index, reply in enumerate(self.each):
                reply.settle(found.get(index))

    def reject(self, error: DstlError) -> None:
        """Tells whoever waits that nothing of it was applied."""
        if self.answered:
            return
        self.answered = True
        for reply in [self.whole] if self.whole is not None else self.each or []:
            reply.settle(None, error)

    def _translated(self, results: list[Result]) -> list[Result]:
        """Results by the indexes that their operations had first."""
        if self.again is None:
            return results
        indexes, found = self.again[1], []
        for result in results:
            if result.operation < len(indexes):
                result.operation = indexes[result.operation]
                found.append(result)
        return found

    def reads_again(self, number: int) -> Outgoing | None:
        """A batch with the reads of this one, which was applied as `number`, for the same waiters; raises `AnswerLostError`."""
        operations = wire.split(self.operations)
        kinds = [wire.kind_of(operation) for operation in operations]
        if wire.FIRE in kinds:
            lost = AnswerLostError("the stream broke before the answer about fired timers came: restore the last checkpoint")
            self.reject(lost)
            raise lost
        wanted = [index for index, kind in enumerate(kinds) if kind in wire.READS]
        if not wanted or self.answered:
            self.complete(number, [])
            return None
        return self._part(number, wanted)

    def _part(self, number: int, wanted: list[int]) -> Outgoing:
        """The operations with these indexes, for the waiters of the whole batch."""
        operations = wire.split(self.operations)
        chosen = [operations[index] for index in wanted]
        fires = any(wire.kind_of(operation) == wire.FIRE for operation in chosen)
        part = Outgoing(b"".join(chosen), len(chosen), reads=True, writes=fires, states=wire.states_of(chosen))
        part.whole, part.each, part.results, part.observed = self.whole, self.each, self.results, self.observed
        first = self.again[0] if self.again else number
        part.again = (first, [self.again[1][index] for index in wanted] if self.again else wanted)
        self.answered = True
        return part
