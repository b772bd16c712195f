"""What a checkpoint is called and what it contains, and how far batches have come."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .proto import checkpoint_pb2, service_pb2


@dataclass(frozen=True)
class Checkpoint:
    """The name of one checkpoint of one backend. Ids may be used again by a later epoch, so all three belong together."""

    epoch: int
    id: int
    uuid: bytes = b""

    @classmethod
    def of(cls, message: checkpoint_pb2.CheckpointIdentity) -> Checkpoint:
        """From the protocol."""
        return cls(message.epoch, message.checkpoint_id, message.handle_uuid)

    def to_proto(self) -> checkpoint_pb2.CheckpointIdentity:
        """As the protocol has it."""
        return checkpoint_pb2.CheckpointIdentity(epoch=self.epoch, checkpoint_id=self.id, handle_uuid=self.uuid)


@dataclass(frozen=True)
class CompletedCheckpoint:
    """A checkpoint that can be restored on any host which reaches the store."""

    checkpoint: Checkpoint
    handle: bytes
    """Restores it: `Restore.handles([handle])`. At most 1 KiB."""
    applied_to: int
    """It contains all batches of its epoch below this number."""
    incremental_bytes: int
    """Bytes of changelog since the checkpoint before."""
    full_bytes: int
    """Bytes that a restore would read."""
    changes: int
    """Changes since the checkpoint before."""
    sync_ms: float
    persist_ms: float
    publish_ms: float
    total_ms: float
    self_sustained_since: int
    """The first checkpoint of this owner that needs nothing of one that was restored with `NO_CLAIM`; 0: none yet, or not needed."""
    savepoint: str = ""
    """Path of the savepoint that its barrier made, for `Restore.savepoint`; then it is no checkpoint, and has no handle."""

    @property
    def id(self) -> int:
        """The id that the task gave it."""
        return self.checkpoint.id

    @classmethod
    def of(cls, message: checkpoint_pb2.CheckpointCompleted) -> CompletedCheckpoint:
        """From the protocol."""
        return cls(
            Checkpoint.of(message.checkpoint),
            message.handle,
            message.applied_to,
            message.incremental_bytes,
            message.full_bytes,
            message.changes,
            message.sync_ms,
            message.persist_ms,
            message.publish_ms,
            message.total_ms,
            message.self_sustained_since,
            message.savepoint.path,
        )


@dataclass(frozen=True)
class Acknowledged:
    """How far batches have come. Each number holds for all batches below it; `confirmed_to <= persisted_to <= applied_to`."""

    applied_to: int
    """In the daemon's memory."""
    persisted_to: int
    """Durable in the object store."""
    confirmed_to: int
    """Part of a completed checkpoint."""


class NoticeOutcome(enum.Enum):
    """What a notice did."""

    DONE = checkpoint_pb2.NOTICE_OUTCOME_DONE
    UNCHANGED = checkpoint_pb2.NOTICE_OUTCOME_UNCHANGED
    """It was so already."""
    UNKNOWN = checkpoint_pb2.NOTICE_OUTCOME_UNKNOWN
    """No such checkpoint, or no longer: normal for late notices."""
    PINNED = checkpoint_pb2.NOTICE_OUTCOME_PINNED
    """Refused, since the checkpoint is pinned: it goes once that is released."""
    COORDINATED = checkpoint_pb2.NOTICE_OUTCOME_COORDINATED
    """Refused, since the job was declared: dstl completes its checkpoints."""


@dataclass(frozen=True)
class Progress:
    """How far a restore is."""

    bytes_done: int
    bytes_total: int
    changes: int
    """State changes replayed so far."""
    eta_ms: int
    """Estimated milliseconds to the end; 0 while unknown."""

    @classmethod
    def of(cls, message: service_pb2.Restoring) -> Progress:
        """From the protocol."""
        return cls(message.bytes_done, message.bytes_total, message.changes, message.eta_ms)


@dataclass(frozen=True)
class RestoredPart:
    """What one subtask had of a checkpoint that was restored."""

    subtask: int
    checkpoint: Checkpoint
    key_groups: tuple[int, int]
    """First and last, both inclusive."""
    attachment: bytes

    @classmethod
    def of(cls, message: service_pb2.RestoredPart) -> RestoredPart:
        """From the protocol."""
        groups = (message.key_groups.first, message.key_groups.last)
        return cls(message.subtask, Checkpoint.of(message.checkpoint), groups, message.attachment)
