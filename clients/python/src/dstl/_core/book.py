"""The book of a session: what waits, what is in flight, what is owed. No I/O and no threads: the worker executes it, under its lock.

```text
  callers ─▶ collector ─▶ queue ──(credit)──▶ sent ──(acknowledged)──▶ done
                            ▲                  │
                            └── halt, break ───┘
```

Invariants:
* `queue` and `sent` together are the order in which the task sent; `sent` comes first.
* A batch gets its number when it moves to `sent`, so numbers in `sent` are consecutive and end before `next`.
* `used <= granted` on every stream.
* A batch leaves `sent` only when it is applied, rejected, or put back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import (
    CheckpointInterruptedError,
    DstlError,
    LimitReachedError,
    ProtocolError,
    RejectedError,
    from_message,
)
from ..proto import checkpoint_pb2, service_pb2, session_pb2, state_pb2
from . import wire
from .outgoing import Observed, Outgoing, Reply

_LIMIT_REACHED = state_pb2.OUTCOME_LIMIT_REACHED

MAX_SENT_BATCHES = 4096
"""Most batches in flight; reads cost no credit, so credit does not bound them."""
MAX_COLLECTED_OPERATIONS = 4096
MAX_COLLECTED_BYTES = 256 << 10
"""At which collected operations become a batch."""
FREE_QUEUE_BYTES = 1 << 20
"""Bytes that may wait in the queue before whoever sends waits until its batch goes out."""


class Barrier:
    """A checkpoint that was asked for."""

    __slots__ = ("request", "reply")

    def __init__(self, request: checkpoint_pb2.Barrier, reply: Reply) -> None:
        self.request, self.reply = request, reply


class Persist:
    """A request to make everything before it durable."""

    __slots__ = ("token", "reply")

    def __init__(self, reply: Reply) -> None:
        self.token, self.reply = 0, reply


class Flush:
    """Answered once everything before it is applied; asks nothing of the daemon."""

    __slots__ = ("reply",)

    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class Resume:
    """Ends a halt."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Notice:
    """What became of a checkpoint; it has no place in the order of batches."""

    __slots__ = ("request", "reply")

    def __init__(self, request: checkpoint_pb2.Notice, reply: Reply) -> None:
        self.request, self.reply = request, reply

    def is_answered_by(self, other: checkpoint_pb2.Notice) -> bool:
        """Whether the notice of a reply is this one; the daemon may fill in a missing UUID."""
        own, its = self.request.checkpoint, other.checkpoint
        same = (own.epoch, own.checkpoint_id) == (its.epoch, its.checkpoint_id)
        return same and self.request.kind == other.kind


class Book:
    """See the front of the file."""

    def __init__(self, limits: service_pb2.Limits, touched: set[int], started: session_pb2.SessionStarted) -> None:
        self.limits, self.touched = limits, touched
        self.collected: list[bytes] = []
        self.callers: list[Reply] = []
        self.collected_bytes = 0
        self.collected_facts: list[tuple[bool, bool, int]] = []
        self.queue: deque[Any] = deque()
        self.queued_bytes = 0
        self.notices: deque[Notice] = deque()
        self.sent: deque[tuple[int, Any]] = deque()
        self.sent_batches = 0
        # Applied batches whose results have not come, by number.
        self.unanswered: dict[int, Outgoing] = {}
        self.barriers: dict[int, Barrier] = {}
        self.asked: deque[Any] = deque()
        self.next = started.applied_to
        self.next_token = 1
        self.applied_to, self.persisted_to, self.confirmed_to = started.applied_to, 0, 0
        self.granted, self.used = started.credit, 0
        self.job_completed: Any = None
        self.waiters: list[tuple[Callable[[Book], Any], Reply]] = []
        # Of batches that may have nobody who looks at their receipts.
        self.losses: list[tuple[Observed, DstlError]] = []

    # What callers hand in.

    def add_operation(self, operation: bytes, reads: bool, writes: bool, state: int, reply: Reply) -> None:
        """Adds one operation to those that are collected."""
        if self.collected_bytes + len(operation) + 16 > self.limits.max_message_bytes:
            self.seal_collected()
        self.collected.append(operation)
        self.callers.append(reply)
        self.collected_facts.append((reads, writes, state))
        self.collected_bytes += len(operation)
        most = min(MAX_COLLECTED_OPERATIONS, self.limits.max_batch_operations)
        if len(self.collected) >= most or self.collected_bytes >= MAX_COLLECTED_BYTES:
            self.seal_collected()

    def seal_collected(self) -> None:
        """Moves collected operations into the queue."""
        if not self.collected:
            return
        self._enqueue(self._shared(self.collected, self.callers, self.collected_facts))
        self.collected, self.callers, self.collected_facts, self.collected_bytes = [], [], [], 0

    @staticmethod
    def _shared(parts: list[bytes], replies: list[Reply], facts: list[tuple[bool, bool, int]]) -> Outgoing:
        reads, writes = any(fact[0] for fact in facts), any(fact[1] for fact in facts)
        return Outgoing.shared(parts, replies, reads=reads, writes=writes, states=frozenset(fact[2] for fact in facts))

    def add_batch(self, batch: Outgoing) -> None:
        """Queues a batch; its `accepted` is settled now, or, where much waits, once it goes out."""
        self.seal_collected()
        if self.queued_bytes < FREE_QUEUE_BYTES and batch.accepted is not None:
            batch.accepted.settle(None)
            batch.accepted = None
        self._enqueue(batch)

    def add(self, item: Barrier | Persist | Flush) -> None:
        """Queues what is not a batch, behind everything before it."""
        self.seal_collected()
        self.queue.append(item)

    def _enqueue(self, batch: Outgoing) -> None:
        if batch.states & self.touched:
            batch.writes = True
        self.queue.append(batch)
        self.queued_bytes += len(batch.operations)

    def _put_first(self, batch: Outgoing) -> None:
        if batch.states & self.touched:
            batch.writes = True
        self.queue.appendleft(batch)
        self.queued_bytes += len(batch.operations)

    def wait_for(self, reached: Callable[[Book], Any], reply: Reply) -> None:
        """Settles `reply` with what `reached` says once that is true."""
        value = reached(self)
        if value:
            reply.settle(value)
        else:
            self.waiters.append((reached, reply))

    def take_losses(self) -> RejectedError | None:
        """What happened to batches that nobody asked about, told once."""
        losses = [error for observed, error in self.losses if not observed.observed]
        self.losses = []
        if not losses:
            return None
        text = f"{len(losses)} earlier batches were rejected, or did not do all that they should; the first: {losses[0]}"
        return RejectedError(text, losses)

    # What goes out.

    def is_settled(self) -> bool:
        """Whether nothing waits and no batch is in flight."""
        waits = self.queue or self.notices or self.collected
        return not (waits or self.sent_batches or self.unanswered)

    def is_owed(self) -> bool:
        """Whether somebody still waits for a checkpoint, a notice or a persist request."""
        return bool(self.barriers or self.asked)

    def take_next(self) -> bytes | None:
        """The next message to send; `None` if there is none, or credit does not cover it."""
        if self.notices:
            notice = self.notices.popleft()
            self.asked.append(notice)
            return session_pb2.SessionRequest(notice=notice.request).SerializeToString()
        while True:
            if not self.queue:
                if self.sent_batches >= MAX_SENT_BATCHES:
                    return None
                self.seal_collected()
            if not self.queue or not self._fits(self.queue[0]):
                return None
            item = self.queue.popleft()
            if not isinstance(item, Flush):
                return self._send(item)
            self.sent.append((-1, item))
            self._settle_sent()

    def _fits(self, item: Any) -> bool:
        if isinstance(item, Outgoing):
            if self.sent_batches >= MAX_SENT_BATCHES:
                return False
            return not item.writes or self.used + wire.batch_length(self.next, len(item.operations)) <= self.granted
        # A checkpoint id is in flight once; a second barrier with it waits for the first one's answer.
        return not isinstance(item, Barrier) or item.request.checkpoint_id not in self.barriers

    def _send(self, item: Any) -> bytes:
        if isinstance(item, Outgoing):
            return self._send_batch(item)
        if isinstance(item, Barrier):
            self.sent.append((-1, item))
            self.barriers[item.request.checkpoint_id] = item
            request = session_pb2.SessionRequest(barrier=item.request)
        elif isinstance(item, Persist):
            item.token, self.next_token = self.next_token, self.next_token + 1
            self.asked.append(item)
            request = session_pb2.SessionRequest(persist=session_pb2.PersistMark(token=item.token))
        else:
            request = session_pb2.SessionRequest(resume=session_pb2.Resume(number=item.number))
        return request.SerializeToString()

    def _send_batch(self, batch: Outgoing) -> bytes:
        number = self.next
        if batch.writes:
            self.used += wire.batch_length(number, len(batch.operations))
        self.next += 1
        self.queued_bytes -= len(batch.operations)
        if batch.accepted is not None:
            batch.accepted.settle(None)
            batch.accepted = None
        self.sent.append((number, batch))
        self.sent_batches += 1
        return wire.batch_request(number, batch.operations)

    # What comes in.

    def on_response(self, response: session_pb2.SessionResponse) -> None:
        """Takes in one message of the daemon."""
        kind = response.WhichOneof("response")
        handler = _HANDLERS.get(kind or "")
        if handler is None:
            raise ProtocolError(f"an unexpected message of the daemon: {kind}")
        handler(self, getattr(response, kind or ""))

    def on_acknowledgement(self, new: session_pb2.Acknowledgement) -> None:
        """Settles every batch below `applied_to`."""
        if new.applied_to > self.next:
            raise ProtocolError(f"batches below {new.applied_to} are acknowledged, {self.next} comes next")
        self.applied_to = max(self.applied_to, new.applied_to)
        self.persisted_to = max(self.persisted_to, new.persisted_to)
        self.confirmed_to = max(self.confirmed_to, new.confirmed_to)
        self.granted = max(self.granted, new.credit)
        self._settle_sent()
        self._tell_waiters()

    def _settle_sent(self) -> None:
        while self.sent:
            number, item = self.sent[0]
            if number >= self.applied_to:
                return
            self.sent.popleft()
            if isinstance(item, Flush):
                item.reply.settle(None)
            elif isinstance(item, Outgoing):
                self.sent_batches -= 1
                if item.lacks_results():
                    self.unanswered[number] = item
                else:
                    item.complete(number, [])

    def _tell_waiters(self) -> None:
        if self.waiters:
            waiters, self.waiters = self.waiters, []
            for reached, reply in waiters:
                self.wait_for(reached, reply)

    def on_result(self, result: session_pb2.BatchResult) -> None:
        """Answers a batch. Reads of one that had been applied before are asked again, and those that the message had no room for."""
        number = result.number
        batch = self.unanswered.pop(number, None)
        if batch is None and self.sent:
            first = next((number for number, _ in self.sent if number >= 0), number + 1)
            if number >= first:
                batch = next((item for sent, item in self.sent if sent == number), None)
        if batch is None:
            return
        limited = next((at.operation for at in result.results if at.outcome == _LIMIT_REACHED), None)
        if limited is not None:
            text = f"operation {limited} of batch {number} would have made a value longer than `max_value_bytes`; it changed nothing"
            self._remember_loss(batch, LimitReachedError(text))
        rest = batch.reads_again(number) if result.repeated_batch else batch.answer(number, list(result.results))
        if rest is not None:
            self._ask_first(rest)

    def _ask_first(self, reads: Outgoing) -> None:
        """Puts reads first in the queue, but behind a pending Resume."""
        resume = self.queue.popleft() if self.queue and isinstance(self.queue[0], Resume) else None
        self._put_first(reads)
        if resume is not None:
            self.queue.appendleft(resume)

    def on_checkpoint_completed(self, completed: checkpoint_pb2.CheckpointCompleted) -> None:
        """Answers a barrier."""
        barrier = self.barriers.pop(completed.checkpoint.checkpoint_id, None)
        if barrier is not None:
            barrier.reply.settle(completed)

    def on_checkpoint_failed(self, failed: checkpoint_pb2.CheckpointFailed) -> None:
        """Answers a barrier with an error."""
        barrier = self.barriers.pop(failed.checkpoint_id, None)
        if barrier is not None:
            barrier.reply.settle(None, from_message(failed.error))

    def on_job_completed(self, completed: session_pb2.JobCheckpointCompleted) -> None:
        """Remembers the newest checkpoint of the whole job."""
        self.job_completed = completed.checkpoint
        self._tell_waiters()

    def on_notice(self, answer: session_pb2.NoticeReply) -> None:
        """Answers a notice."""
        for asked in self.asked:
            if isinstance(asked, Notice) and asked.is_answered_by(answer.notice):
                self.asked.remove(asked)
                asked.reply.settle(answer.outcome)
                return

    def on_persisted(self, answer: session_pb2.PersistReply) -> None:
        """Answers a persist request."""
        for asked in self.asked:
            if isinstance(asked, Persist) and asked.token == answer.token:
                self.asked.remove(asked)
                asked.reply.settle(answer.persisted_to)
                return

    def on_error(self, error: Any) -> None:
        """An error that names no request answers the oldest notice or persist request."""
        if self.asked:
            self.asked.popleft().reply.settle(None, from_message(error))

    # Recovery.

    def on_halted(self, halted: session_pb2.SessionHalted) -> None:
        """Fails the rejected batch and puts everything behind it back, in order, behind a Resume.

        The daemon refuses everything until it reads that Resume, and by then all that was in flight has been read and refused; so only
        the refusal of the rejected batch itself matters, the others are its echoes.
        """
        first = halted.first_failed
        if halted.WhichOneof("refused") != "batch" or halted.batch != first:
            return
        behind: list[tuple[int, Any]] = []
        while self.sent and self.sent[-1][0] != first:
            behind.append(self.sent.pop())
        if not self.sent:
            raise ProtocolError(f"batch {first} is rejected but not in flight")
        failed = self.sent.pop()[1]
        self.sent_batches -= 1
        self._put_back(behind)
        self.next = first
        self._reject_or_split(failed, from_message(halted.error))
        self.queue.appendleft(Resume(first))

    def _reject_or_split(self, failed: Outgoing, error: DstlError) -> None:
        """Rejects a batch. One with operations of several callers is halved and tried again, so that only the one to blame fails."""
        if failed.each is None or len(failed.each) < 2 or failed.again is not None or failed.parts is None:
            failed.reject(error)
            self._remember_loss(failed, error)
            return
        half = len(failed.each) // 2
        for part in (slice(half, None), slice(0, half)):
            kinds = set(map(wire.kind_of, failed.parts[part]))
            piece = Outgoing.shared(
                failed.parts[part],
                failed.each[part],
                reads=bool(kinds & (wire.READS | {wire.FIRE})),
                writes=bool(kinds - wire.READS),
                states=wire.states_of(failed.parts[part]),
            )
            self._put_first(piece)

    def _remember_loss(self, batch: Outgoing, error: DstlError) -> None:
        if batch.observed is not None:
            self.losses.append((batch.observed, error))

    def _put_back(self, behind: list[tuple[int, Any]]) -> None:
        """Moves what was in flight (the last one first) to the front of the queue; barriers that were answered meanwhile stay away."""
        for _, item in behind:
            if isinstance(item, Outgoing):
                self.sent_batches -= 1
                self._put_first(item)
            elif isinstance(item, Flush):
                self.queue.appendleft(item)
            elif self.barriers.pop(item.request.checkpoint_id, None) is item:
                self.queue.appendleft(item)

    def on_break(self) -> None:
        """Nothing more will come from the old stream: checkpoints in flight are lost, notices and persist requests are asked again."""
        for number, barrier in self.barriers.items():
            text = f"the stream broke while checkpoint {number} was in flight; trigger a new one with a higher id"
            barrier.reply.settle(None, CheckpointInterruptedError(text))
        self.barriers = {}
        if self.queue and isinstance(self.queue[0], Resume):
            self.queue.popleft()
        for asked in reversed(self.asked):
            (self.notices if isinstance(asked, Notice) else self.queue).appendleft(asked)
        self.asked.clear()

    def on_started(self, started: session_pb2.SessionStarted) -> None:
        """A new stream has begun: what the daemon has applied is settled, the rest goes out again."""
        applied_to = started.applied_to
        if not self.applied_to <= applied_to <= self.next:
            raise ProtocolError(f"the next batch is {applied_to}, yet {self.applied_to} were acknowledged and {self.next} sent")
        self.granted, self.used = started.credit, 0
        self.on_acknowledgement(session_pb2.Acknowledgement(applied_to=applied_to))
        rest = list(self.sent)[::-1]
        self.sent.clear()
        self._put_back(rest)
        self.next = applied_to
        unanswered, self.unanswered = self.unanswered, {}
        for number in sorted(unanswered, reverse=True):
            again = unanswered[number].reads_again(number)
            if again is not None:
                self._ask_first(again)

    def fail(self, error: DstlError) -> None:
        """The session is over: everybody who waits gets the error."""
        self.seal_collected()
        batches = [item for _, item in self.sent] + list(self.queue) + list(self.unanswered.values())
        for item in batches:
            if isinstance(item, Outgoing):
                if item.accepted is not None:
                    item.accepted.settle(None, error)
                item.reject(error)
            elif not isinstance(item, Resume):
                item.reply.settle(None, error)
        for waiter in [*self.barriers.values(), *self.asked, *self.notices]:
            waiter.reply.settle(None, error)
        for _, reply in self.waiters:
            reply.settle(None, error)


_HANDLERS: dict[str, Callable[[Book, Any], None]] = {
    "acknowledgement": Book.on_acknowledgement,
    "result": Book.on_result,
    "checkpoint_completed": Book.on_checkpoint_completed,
    "checkpoint_failed": Book.on_checkpoint_failed,
    "halted": Book.on_halted,
    "notice": Book.on_notice,
    "persisted": Book.on_persisted,
    "error": Book.on_error,
    "job_checkpoint_completed": Book.on_job_completed,
}
