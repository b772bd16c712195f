"""The writer's session of a backend."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._core.batch import Applied, Batch
from .._core.book import Barrier, Book, Flush, Notice, Persist
from .._core.outgoing import Observed, Outgoing
from .._core.worker import Worker
from ..checkpoints import Acknowledged, Checkpoint, CompletedCheckpoint, NoticeOutcome
from ..errors import LimitExceededError
from ..proto import checkpoint_pb2, service_pb2, state_pb2
from .face import Reply, finish
from .notices import Notices


if TYPE_CHECKING:
    from .backend import Backend


class Receipt(Observed):
    """A batch that was handed over."""

    __slots__ = ("_reply",)

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._reply = reply

    async def applied(self) -> Applied:
        """Waits until the batch is applied, and returns what it read.

        Raises why it was rejected, or why the session is over. If nobody calls this, a rejection is raised by the session's next
        `flush`, `barrier` or `close`, as `RejectedError`.
        """
        self.observed = True
        number, results = await finish(self._reply)
        return Applied(number, results)


class PendingCheckpoint:
    """A checkpoint on its way."""

    def __init__(self, id: int, reply: Reply) -> None:
        self.id, self._reply = id, reply

    async def completed(self) -> CompletedCheckpoint:
        """Waits until the checkpoint is restorable on any host.

        Raises `CheckpointTimeoutError`, `CheckpointAbortedError`, `TooManyCheckpointsError` (its changes go into the next one),
        `CheckpointInterruptedError` (trigger a new one with a higher id), or why the session is over.
        """
        return CompletedCheckpoint.of(await finish(self._reply))


class Session(Notices):
    """The writer's stream of a backend; made by `backend.session()`. Any thread of this process may use it.

    Batches, barriers and single operations are handled in the order in which they are handed in. Where a batch is rejected, the session
    goes on, and what was sent behind it (barriers included) is applied without it. A broken stream is opened again on the same daemon
    process, and every batch is applied once; reads whose answers were lost are asked again, so they may see later writes of this session.

    A context manager: leaving it closes it in order, an exception ends it at once.
    """

    def __init__(self, worker: Worker, limits: service_pb2.Limits, backend: Backend) -> None:
        self._worker, self._limits, self._backend = worker, limits, backend

    def batch(self) -> Batch:
        """An empty batch, for states of this session's backend."""
        return Batch(self._limits, self._backend)

    async def send(self, batch: Batch) -> Receipt:
        """Hands a batch over. Waits only where much is waiting for the daemon's write credit already.

        Raises `LimitExceededError` before anything is sent, or why the session is over.
        """
        if not isinstance(batch, Batch):
            raise TypeError(f"expected a batch (`session.batch()`), got {type(batch).__name__}")
        batch.check_backend(self._backend)
        return await self.hand_over(batch.seal())

    async def hand_over(self, outgoing: Outgoing) -> Receipt:
        """The same for a sealed batch."""
        whole, accepted = Reply(), Reply()
        receipt = Receipt(whole)
        outgoing.whole, outgoing.accepted, outgoing.observed = whole, accepted, receipt
        self._worker.tell(lambda book: book.add_batch(outgoing))
        await finish(accepted)
        return receipt

    async def operate(self, operation: bytes, reads: bool, writes: bool, state: int) -> state_pb2.OperationResult | None:
        """Runs one operation, in one batch with what others are waiting for at the same time."""
        if len(operation) > self._limits.max_message_bytes - 64:
            raise LimitExceededError(f"an operation of {len(operation)} bytes: the daemon takes {self._limits.max_message_bytes - 64}")
        reply = Reply()
        self._worker.tell(lambda book: book.add_operation(operation, reads, writes, state, reply))
        return await finish(reply)  # type: ignore[no-any-return]

    async def operate_all(
        self, batches: list[tuple[bytes, int]], reads: bool, writes: bool, state: int
    ) -> list[state_pb2.OperationResult]:
        """Runs batches of operations and returns the results of reads, in order."""
        receipts = [await self.hand_over(made) for made in self.sealed(batches, reads, writes, state)]
        results: list[state_pb2.OperationResult] = []
        for receipt in receipts:
            receipt.observed = True
            results += (await finish(receipt._reply))[1]
        return results

    @staticmethod
    def sealed(batches: list[tuple[bytes, int]], reads: bool, writes: bool, state: int) -> list[Outgoing]:
        """Batches that are ready to go out."""
        states = frozenset((state,))
        return [Outgoing(operations, count, reads=reads, writes=writes, states=states) for operations, count in batches]

    async def flush(self) -> None:
        """Waits until everything handed in so far is applied.

        Raises `RejectedError` if batches before were rejected and nobody looked at their receipts.
        """
        reply = Reply()
        self._worker.tell(lambda book: book.add(Flush(reply)))
        await finish(reply)
        self._raise_losses()

    def _raise_losses(self) -> None:
        losses = self._worker.take_losses()
        if losses is not None:
            raise losses

    async def barrier(
        self, id: int, attachment: bytes = b"", *, timeout: float | None = None, savepoint: str = ""
    ) -> PendingCheckpoint:
        """Triggers a checkpoint of everything handed in so far; `await (await session.barrier(…)).completed()` waits for it.

        `id` must be above every earlier one of this backend's owner. `attachment` comes back with a restore (source offsets, say; up to
        `limits.max_attachment_bytes`). `timeout` in seconds; by default the daemon's `checkpoint.timeout`.

        With `savepoint`, a name, it makes a savepoint of the whole job instead, exact here, while the session goes on: every subtask
        triggers it with the same id and name. `CompletedCheckpoint.savepoint` is its path; send no notice for it.

        Raises `RejectedError`, and triggers nothing, if a batch is known to be rejected and nobody looked at its receipt.
        """
        if not isinstance(attachment, (bytes, bytearray, memoryview)):
            raise TypeError(f"expected bytes as an attachment, got {type(attachment).__name__}")
        if len(attachment) > self._limits.max_attachment_bytes:
            most = self._limits.max_attachment_bytes
            raise LimitExceededError(f"an attachment of {len(attachment)} bytes: the daemon takes {most}")
        self._raise_losses()
        milliseconds = 0 if timeout is None else max(1, round(timeout * 1000))
        request = checkpoint_pb2.Barrier(
            checkpoint_id=id, attachment=bytes(attachment), timeout_ms=milliseconds, savepoint=savepoint
        )
        reply = Reply()
        self._worker.tell(lambda book: book.add(Barrier(request, reply)))
        return PendingCheckpoint(id, reply)

    async def checkpoint(self, id: int, attachment: bytes = b"", *, timeout: float | None = None) -> CompletedCheckpoint:
        """Triggers a checkpoint and waits for it."""
        return await (await self.barrier(id, attachment, timeout=timeout)).completed()

    def checkpoint_name(self, id: int) -> Checkpoint:
        """The name of a checkpoint of this owner whose UUID is not known, as one in flight."""
        return Checkpoint(self._backend.reference.epoch.number, id)

    async def _notify(self, notice: checkpoint_pb2.Notice) -> NoticeOutcome:
        reply = Reply()
        self._worker.tell(lambda book: book.notices.append(Notice(notice, reply)))
        return NoticeOutcome(await finish(reply))

    async def persist(self) -> int:
        """Makes everything handed in so far durable, without making a restore point; returns `persisted_to`."""
        reply = Reply()
        self._worker.tell(lambda book: book.add(Persist(reply)))
        return await finish(reply)  # type: ignore[no-any-return]

    @property
    def acknowledged(self) -> Acknowledged:
        """The latest acknowledgement."""
        book = self._worker.book
        # They rise meanwhile: the smallest is read first.
        confirmed_to, persisted_to = book.confirmed_to, book.persisted_to
        return Acknowledged(book.applied_to, persisted_to, confirmed_to)

    async def wait_applied(self, to: int) -> Acknowledged:
        """Waits until every batch below `to` is applied."""
        return await self._wait(lambda book: book.applied_to >= to)

    async def wait_persisted(self, to: int) -> Acknowledged:
        """Waits until every batch below `to` is durable; asks nothing of the daemon for it (see `persist`)."""
        return await self._wait(lambda book: book.persisted_to >= to)

    async def wait_confirmed(self, to: int) -> Acknowledged:
        """Waits until every batch below `to` is part of a completed checkpoint."""
        return await self._wait(lambda book: book.confirmed_to >= to)

    async def _wait(self, reached: Callable[[Book], Any]) -> Acknowledged:
        reply = Reply()
        self._worker.tell(lambda book: book.wait_for(reached, reply))
        await finish(reply)
        return self.acknowledged

    @property
    def job_completed(self) -> Checkpoint | None:
        """This backend's part of the newest checkpoint that is committed for the whole job, where that was declared."""
        completed = self._worker.book.job_completed
        return None if completed is None else Checkpoint.of(completed)

    async def wait_job_completed(self, id: int) -> Checkpoint:
        """Waits until the checkpoint `id`, or a newer one, is committed for the whole job; returns which."""

        def reached(book: Book) -> Any:
            return book.job_completed if book.job_completed is not None and book.job_completed.checkpoint_id >= id else None

        reply = Reply()
        self._worker.tell(lambda book: book.wait_for(reached, reply))
        return Checkpoint.of(await finish(reply))

    async def close(self) -> None:
        """Ends the session in order: sends what was handed in, and waits until it is applied and all that the daemon owes is answered.

        Raises why the session ended otherwise, or `RejectedError` as `flush` does. Closing it again does nothing.
        """
        reply = Reply()
        self._worker.close(reply)
        await finish(reply)
        self._raise_losses()

    def abort(self) -> None:
        """Ends the session at once. What is not acknowledged may be applied or not."""
        self._worker.abort()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()
