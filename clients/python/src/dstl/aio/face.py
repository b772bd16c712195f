"""How the asyncio face waits: answers come from threads, and wake their event loop once for all that came meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from threading import Lock as ThreadLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from .._core import forks
from ..errors import DstlError, again

T = TypeVar("T")


class _Mailbox:
    """Answers on their way to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop's mailbox must not keep it alive.
        self._loop = ref(loop)
        self._lock = ThreadLock()
        self._answers: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_scheduled = False

    def post(self, future: asyncio.Future[Any], answer: Any) -> None:
        with self._lock:
            self._answers.append((future, answer))
            if self._is_scheduled:
                return
            self._is_scheduled = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
                return
        except RuntimeError:
            pass
        # The loop is closed: whoever waited there is gone.
        with self._lock:
            self._answers.clear()
            self._is_scheduled = False

    def _deliver(self) -> None:
        with self._lock:
            answers, self._answers = self._answers, deque()
            self._is_scheduled = False
        for future, answer in answers:
            if not future.done():
                future.set_result(answer)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = WeakKeyDictionary()


class Reply:
    """An answer that is awaited on the running event loop."""

    __slots__ = ("future", "_mailbox", "_forks")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        mailbox = _mailboxes.get(loop)
        if mailbox is None:
            mailbox = _mailboxes[loop] = _Mailbox(loop)
        self.future: asyncio.Future[Any] = loop.create_future()
        self._mailbox, self._forks = mailbox, forks.count()

    def settle(self, value: Any, error: DstlError | None = None) -> None:
        """See `Reply` of the core."""
        self._mailbox.post(self.future, (value, error))


async def finish(reply: Reply) -> Any:
    """Waits for an answer, and raises its error. It may be awaited again."""
    if not reply.future.done():
        forks.check(reply._forks, "what is waited for was asked")
    value, error = await asyncio.shield(reply.future)
    if error is not None:
        raise again(error)
    return value


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end, although the task that waits may be cancelled: others may depend on it."""
    return await asyncio.shield(asyncio.ensure_future(coroutine))


async def in_thread(function: Callable[[], T]) -> T:
    """Runs what blocks beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function)


class Lock:
    """A lock for tasks of several event loops, in several threads too. Where a loop is closed while a task has the lock, others go on."""

    def __init__(self) -> None:
        self._guard = ThreadLock()
        self._holder: asyncio.Task[Any] | None = None
        self._waiting: deque[tuple[asyncio.Task[Any], Reply]] = deque()

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "coroutines that wait run in a task"
        with self._guard:
            if self._holder is None or _is_gone(self._holder):
                self._holder = task
                return
            turn = (task, Reply())
            self._waiting.append(turn)
        try:
            await turn[1].future
        except BaseException:
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif self._holder is task:
                    self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            # The coroutine ends after its loop did: whoever comes next sees that.
            return
        with self._guard:
            if self._holder is task:
                self._pass_on()

    def _pass_on(self) -> None:
        self._holder = None
        while self._waiting and self._holder is None:
            task, reply = self._waiting.popleft()
            if not _is_gone(task):
                self._holder = task
                reply.settle(None)


def _is_gone(task: asyncio.Task[Any]) -> bool:
    return task.done() or task.get_loop().is_closed()
