"""Notices: what the task tells of its checkpoints."""

from __future__ import annotations

from typing import Any

from ..checkpoints import Checkpoint, CompletedCheckpoint, NoticeOutcome
from ..proto import checkpoint_pb2


class Notices:
    """Tells the daemon what became of checkpoints. Each notice is idempotent; it may come late."""

    async def complete(self, checkpoint: Checkpoint | CompletedCheckpoint) -> NoticeOutcome:
        """Tells that the whole job has this checkpoint: retention counts it."""
        return await self._tell_of(checkpoint_pb2.NOTICE_KIND_COMPLETE, checkpoint)

    async def abort_checkpoint(self, checkpoint: Checkpoint | CompletedCheckpoint) -> NoticeOutcome:
        """Tells that a checkpoint, in flight or published, will not complete."""
        return await self._tell_of(checkpoint_pb2.NOTICE_KIND_ABORT, checkpoint)

    async def subsume(self, checkpoint: Checkpoint | CompletedCheckpoint) -> NoticeOutcome:
        """Lets a checkpoint and every older one of its epoch go."""
        return await self._tell_of(checkpoint_pb2.NOTICE_KIND_SUBSUME, checkpoint)

    async def discard(self, checkpoint: Checkpoint | CompletedCheckpoint) -> NoticeOutcome:
        """Lets this one checkpoint go."""
        return await self._tell_of(checkpoint_pb2.NOTICE_KIND_DISCARD, checkpoint)

    async def _tell_of(self, kind: Any, checkpoint: Checkpoint | CompletedCheckpoint) -> NoticeOutcome:
        return await self._notify(checkpoint_pb2.Notice(kind=kind, checkpoint=named(checkpoint).to_proto()))

    async def _notify(self, notice: checkpoint_pb2.Notice) -> NoticeOutcome:
        """How a notice goes out."""
        raise NotImplementedError


def named(checkpoint: Checkpoint | CompletedCheckpoint) -> Checkpoint:
    """The name of a checkpoint; `TypeError` for what is none."""
    name = checkpoint.checkpoint if isinstance(checkpoint, CompletedCheckpoint) else checkpoint
    if not isinstance(name, Checkpoint):
        raise TypeError(f"expected a checkpoint, got {type(name).__name__}")
    return name
