"""Whether this process is the one in which something began: threads, and so all answers, stay behind in the parent of a fork."""

from __future__ import annotations

import os

from ..errors import ForkedError

_forks = 0


def _in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_in_child)


def count() -> int:
    """How many forks lie between this process and the one that loaded this module."""
    return _forks


def check(before: int, what: str) -> None:
    """Raises `ForkedError` if `count` was another one when `what` began."""
    if _forks != before:
        raise ForkedError(f"{what} before a fork, by the parent process: connect again in the child")
