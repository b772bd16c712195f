"""What may be said when a backend is opened, a state registered, or a job declared. What is not said is the daemon's default."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .proto import backend_pb2, service_pb2, state_pb2


def need(value: Any, kind: type, what: str) -> None:
    """Raises `TypeError` unless a value is of its kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {kind.__name__}, got {type(value).__name__}: {value!r:.60}")


def expect(value: Any, kind: type, what: str) -> None:
    """The same for what need not be given."""
    if value is not None:
        need(value, kind, what)


class Restore:
    """What a backend contains when it has opened: made by the functions of this class."""

    def __init__(self, message: service_pb2.Restore) -> None:
        self.message = message

    @staticmethod
    def latest(*, or_empty: bool = True, fallback: bool = False) -> Restore:
        """The newest checkpoint that the whole job can restore; where there is none, nothing (`or_empty`) or a `NotFoundError`.

        With `fallback`, damaged checkpoints are skipped: `backend.skipped` tells which.
        """
        latest = service_pb2.Restore.Latest(or_empty=or_empty)
        return Restore(service_pb2.Restore(latest=latest, fallback=fallback))

    @staticmethod
    def empty() -> Restore:
        """Nothing; checkpoints of before stay restorable until retention lets them go."""
        return Restore(service_pb2.Restore(empty=service_pb2.Restore.Empty()))

    @staticmethod
    def id(checkpoint_id: int, *, fallback: bool = False) -> Restore:
        """The checkpoint with this id."""
        return Restore(service_pb2.Restore(id=checkpoint_id, fallback=fallback))

    @staticmethod
    def handles(handles: Sequence[bytes], *, vouched: bool = False) -> Restore:
        """The checkpoint that these handles (`CompletedCheckpoint.handle`) name: after a rescale those of all subtasks of before.

        Handles of another job or operator make a clone. With `vouched`, they may be of different checkpoints, as long as no key group is in
        two of them; key groups that are in none begin empty.
        """
        if isinstance(handles, (bytes, str)):
            raise TypeError("expected a sequence of handles, got one")
        made = service_pb2.Restore.Handles(handles=list(handles), vouched=vouched)
        return Restore(service_pb2.Restore(handles=made))

    @staticmethod
    def savepoint(url: str) -> Restore:
        """A savepoint in the daemon's store (`dstl savepoint create`): any path or URL that ends with `<job>/savepoints/<name>`."""
        return Restore(service_pb2.Restore(savepoint=url))


class ClaimMode(enum.Enum):
    """Who owns what is restored from then on."""

    DEFAULT = service_pb2.CLAIM_MODE_UNSPECIFIED
    """As the daemon is configured; by default the new owner, and nobody for a clone."""
    CLAIM = service_pb2.CLAIM_MODE_CLAIM
    """The new owner: it builds on the checkpoint, and retention lets it go as any other."""
    NO_CLAIM = service_pb2.CLAIM_MODE_NO_CLAIM
    """Nobody: it is pinned, and opening takes as long as copying the whole state takes."""


class Inner(enum.Enum):
    """Where the daemon keeps the state."""

    DEFAULT = service_pb2.INNER_BACKEND_UNSPECIFIED
    HASHMAP = service_pb2.INNER_BACKEND_HASHMAP
    """In memory."""
    ROCKSDB = service_pb2.INNER_BACKEND_ROCKSDB
    """On local disk."""


class KeyGroups(enum.Enum):
    """Who computes the key group of a key; fixed for the life of the state."""

    DEFAULT = service_pb2.KEY_GROUP_ASSIGNMENT_UNSPECIFIED
    HASHED = service_pb2.KEY_GROUP_ASSIGNMENT_HASHED
    """The daemon."""
    GIVEN = service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN
    """The task: every handle needs `in_key_group`."""


class Redistribution(enum.Enum):
    """How a restore gives operator state to subtasks of another parallelism."""

    SPLIT = state_pb2.REDISTRIBUTION_SPLIT
    """Lists: the elements of all subtasks are cut evenly."""
    UNION = state_pb2.REDISTRIBUTION_UNION
    """Lists: every subtask gets the elements of all."""
    BROADCAST = state_pb2.REDISTRIBUTION_BROADCAST
    """Maps: the same in every subtask."""


@dataclass(frozen=True)
class Ttl:
    """How long entries live: a value, a map entry, a list element, each by itself.

    `seconds` is at least 0.001. With `update_on_read`, reads of a session touch entries too (they cost write credit then). With
    `return_expired`, reads see expired entries until something has cleaned them up. The rest says what cleans up besides reads; if none
    of it is given, everything does, with the daemon's defaults.
    """

    seconds: float
    update_on_read: bool = False
    return_expired: bool = False
    cleanup_at_materialization: bool | None = None
    """Materializations of the hash map leave expired entries out."""
    cleanup_entries: int | None = None
    """Batches look at so many entries per operation on the state."""
    cleanup_every_batch: bool = False
    """Batches that do not touch the state do so, too."""
    compaction_entries: int | None = None
    """Compactions of RocksDB leave expired entries out, and read the time anew after so many entries."""
    periodic_compaction_seconds: float | None = None

    def to_proto(self) -> state_pb2.Ttl:
        """As the protocol has it."""
        duration = round(self.seconds * 1000)
        if duration < 1:
            raise ValueError(f"a time to live of {self.seconds} s: at least a millisecond")
        kind = state_pb2.Ttl
        update = kind.UPDATE_ON_READ_AND_WRITE if self.update_on_read else kind.UPDATE_ON_CREATE_AND_WRITE
        seen = kind.VISIBILITY_RETURN_EXPIRED_IF_NOT_CLEANED_UP if self.return_expired else kind.VISIBILITY_NEVER_RETURN_EXPIRED
        ttl = kind(duration_ms=duration, update=update, visibility=seen)
        if self.cleanup_at_materialization is not None:
            ttl.cleanup.at_materialization = self.cleanup_at_materialization
        if self.cleanup_entries is not None or self.cleanup_every_batch:
            ttl.cleanup.incremental.entries = self.cleanup_entries or 0
            ttl.cleanup.incremental.every_batch = self.cleanup_every_batch
        if self.compaction_entries is not None or self.periodic_compaction_seconds is not None:
            ttl.cleanup.compaction_filter.time_every_entries = self.compaction_entries or 0
            periodic = round((self.periodic_compaction_seconds or 0) * 1000)
            ttl.cleanup.compaction_filter.periodic_compaction_ms = periodic
        return ttl


@dataclass(frozen=True)
class OpenOptions:
    """How to open a backend; `client.open` takes these as keywords, with the meaning that is told there."""

    subtask: int = 0
    parallelism: int = 1
    max_parallelism: int = 0
    key_groups: tuple[int, int] | None = None
    key_group_assignment: KeyGroups = KeyGroups.DEFAULT
    inner: Inner = Inner.DEFAULT
    changelog: bool | None = None
    attempt: int = 0
    attempt_token: bytes = b""
    fresh: bool = False
    peer_group: bytes = b""
    run: bytes = b""
    linger: float = 0.0
    restore: Restore | None = None
    claim: ClaimMode = ClaimMode.DEFAULT
    retain: int | None = None
    retain_explicitly: bool = False

    def to_proto(self, job: str, operator: str) -> service_pb2.OpenRequest:
        """As the protocol has it."""
        need(job, str, "`job`")
        need(operator, str, "`operator`")
        need(self.key_group_assignment, KeyGroups, "`key_group_assignment`")
        need(self.inner, Inner, "`inner`")
        need(self.claim, ClaimMode, "`claim`")
        expect(self.restore, Restore, "`restore`")
        expect(self.changelog, bool, "`changelog`")
        if self.retain is not None and self.retain_explicitly:
            raise ValueError("either `retain` or `retain_explicitly`")
        request = service_pb2.OpenRequest(
            backend=backend_pb2.BackendId(job=job, operator=operator, subtask=self.subtask),
            parallelism=self.parallelism,
            max_parallelism=self.max_parallelism,
            key_group_assignment=self.key_group_assignment.value,
            inner=self.inner.value,
            attempt=self.attempt,
            attempt_token=self.attempt_token,
            fresh=self.fresh,
            peer_group=self.peer_group,
            run=self.run,
            linger_ms=round(self.linger * 1000),
            restore=(self.restore or Restore.latest()).message,
            claim_mode=self.claim.value,
        )
        if self.key_groups is not None:
            first, last = self.key_groups
            request.key_groups.CopyFrom(backend_pb2.KeyGroupRange(first=first, last=last))
        if self.changelog is not None:
            enabled, disabled = service_pb2.CHANGELOG_MODE_ENABLED, service_pb2.CHANGELOG_MODE_DISABLED
            request.changelog = enabled if self.changelog else disabled
        if self.retain is not None:
            request.retention.count = self.retain
        if self.retain_explicitly:
            request.retention.explicit.SetInParent()
        return request


def declaration(
    job: str, attempt: int, tasks: Mapping[str, int], restore: Restore | None, restore_attempt: int | None
) -> service_pb2.DeclareJobRequest:
    """A declaration as the protocol has it."""
    need(job, str, "`job`")
    expect(restore, Restore, "`restore`")
    request = service_pb2.DeclareJobRequest(
        job=job,
        attempt=attempt,
        tasks=[service_pb2.JobTasks(operator=name, parallelism=count) for name, count in tasks.items()],
    )
    kind = (restore or Restore.latest()).message
    chosen = kind.WhichOneof("restore")
    if chosen == "latest":
        request.latest.SetInParent()
    elif chosen == "empty":
        request.empty.SetInParent()
    elif chosen == "id":
        request.checkpoint.id = kind.id
        if restore_attempt is not None:
            request.checkpoint.attempt = restore_attempt
    else:
        raise ValueError("a declared job begins with the latest checkpoint, one by its id, or empty")
    return request
