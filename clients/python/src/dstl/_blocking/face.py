"""How the blocking face waits: the calling thread sleeps until a thread of the session has its answer."""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

from .._core import forks
from ..errors import DstlError, again

T = TypeVar("T")

__all__ = ["Lock", "Reply", "finish", "in_thread", "to_its_end"]


class Reply:
    """An answer that a thread waits for."""

    __slots__ = ("_is_settled", "_answer", "_forks")

    def __init__(self) -> None:
        self._forks = forks.count()
        self._is_settled = allocate_lock()
        self._is_settled.acquire()
        self._answer: tuple[Any, DstlError | None] | None = None

    def settle(self, value: Any, error: DstlError | None = None) -> None:
        """See `Reply` of the core."""
        if self._answer is None:
            self._answer = (value, error)
            self._is_settled.release()

    def wait(self) -> tuple[Any, DstlError | None]:
        """Waits for the answer; again and by several threads, too."""
        if self._answer is None:
            forks.check(self._forks, "what is waited for was asked")
            with self._is_settled:
                pass
        assert self._answer is not None, "the lock is held until there is an answer"
        return self._answer


def finish(reply: Reply) -> Any:
    """Waits for an answer, and raises its error. It may be called again."""
    value, error = reply.wait()
    if error is not None:
        raise again(error)
    return value


def in_thread(function: Callable[[], T]) -> T:
    """Runs it."""
    return function()


def to_its_end(result: T) -> T:
    """What ran already."""
    return result
