"""What can go wrong, and by that what to do.

Every exception of this package is a `DstlError`. What the daemon refuses has one class per reason of the protocol, below one of
eight families that say what to do. `reason` is the protocol's name (`"WRONG_KIND"`), `scope` says what is spoilt ("BATCH", "SESSION",
"BACKEND", "DAEMON"), `retryable` whether the same call may succeed later, unchanged.

```text
DstlError
├─ InvalidRequestError   change the request         ├─ FencedError       another owner took over: stop
├─ LimitError            beyond a limit             ├─ UnavailableError  try again
├─ NotFoundError         open it, or look again     ├─ ExhaustedError    free something first
├─ CorruptError          the store is damaged       ├─ InternalError     a fault of the daemon
└─ of this client:       ConnectionLostError, SessionLostError, ClosedError, ForkedError, RejectedError, AnswerLostError,
                         CheckpointInterruptedError, MalformedError, ProtocolError
```

Wrong types are plain `TypeError`s; they are raised before anything is sent.
"""

from __future__ import annotations

from typing import ClassVar

import grpc

from .proto import error_pb2

__all__ = [
    "AnswerLostError",
    "BackendClosedError",
    "BackendMismatchError",
    "BackendNotOpenError",
    "BatchOutOfOrderError",
    "ChangeMemoryError",
    "CheckpointAbortedError",
    "CheckpointInterruptedError",
    "CheckpointNotFoundError",
    "CheckpointOutOfOrderError",
    "CheckpointTimeoutError",
    "ClosedError",
    "ConnectionLostError",
    "CorruptError",
    "CorruptObjectError",
    "CreditExceededError",
    "DaemonBugError",
    "DaemonRestartedError",
    "DeclarationMismatchError",
    "DrainingError",
    "DstlError",
    "ExhaustedError",
    "FailsafeError",
    "FencedError",
    "ForkedError",
    "InUseError",
    "IncompatibleProtocolError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "LimitError",
    "LimitExceededError",
    "LimitReachedError",
    "LocalResourcesError",
    "MalformedError",
    "MessageTooLargeError",
    "MissingObjectError",
    "NewerOwnerError",
    "NoConsistentCheckpointError",
    "NotAllowedError",
    "NotFoundError",
    "PinExpiredError",
    "ProtocolError",
    "RejectedError",
    "SessionHaltedError",
    "SessionLostError",
    "SessionReplacedError",
    "StateMemoryError",
    "StateMismatchError",
    "StoreUnavailableError",
    "TooManyCallsError",
    "TooManyCheckpointsError",
    "TooManyStatesError",
    "TooSlowError",
    "UnavailableError",
    "UnknownStateError",
    "UnreachableError",
    "UnsupportedError",
    "WrongKeyGroupError",
    "WrongKindError",
]


class DstlError(Exception):
    """Every error of this package."""

    reason: str = "UNSPECIFIED"
    scope: str = "UNSPECIFIED"
    retryable: bool = False

    def __init__(self, message: str, *, scope: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        if scope is not None:
            self.scope = scope
        if retryable is not None:
            self.retryable = retryable


class InvalidRequestError(DstlError):
    """The caller must change the request."""


class InvalidArgumentError(InvalidRequestError):
    """A field is missing, malformed or outside its range."""

    reason = "INVALID_ARGUMENT"


class IncompatibleProtocolError(InvalidRequestError):
    """Client and daemon have no protocol version in common: upgrade the older one."""

    reason = "INCOMPATIBLE_PROTOCOL"


class UnknownStateError(InvalidRequestError):
    """An operation names a state that is not registered."""

    reason = "UNKNOWN_STATE"


class WrongKindError(InvalidRequestError):
    """An operation does not fit the kind of its state, or merges where the state has no merge function."""

    reason = "WRONG_KIND"


class WrongKeyGroupError(InvalidRequestError):
    """A key group that this backend does not own, or one given or missing against the assignment."""

    reason = "WRONG_KEY_GROUP"


class StateMismatchError(InvalidRequestError):
    """A state is registered with another kind, merge function or serializer than before."""

    reason = "STATE_MISMATCH"


class BackendMismatchError(InvalidRequestError):
    """The backend was made with another max parallelism, key-group assignment or range."""

    reason = "BACKEND_MISMATCH"


class BatchOutOfOrderError(InvalidRequestError):
    """A write without a number beside a session, or a batch number that is not the next one."""

    reason = "BATCH_OUT_OF_ORDER"


class CreditExceededError(InvalidRequestError):
    """More was written than the daemon allowed."""

    reason = "CREDIT_EXCEEDED"


class CheckpointOutOfOrderError(InvalidRequestError):
    """A checkpoint id that is not above the last one of this attempt."""

    reason = "CHECKPOINT_OUT_OF_ORDER"


class UnsupportedError(InvalidRequestError):
    """This daemon does not offer it: see `client.features`."""

    reason = "UNSUPPORTED"


class SessionHaltedError(InvalidRequestError):
    """The session is halted."""

    reason = "SESSION_HALTED"


class InUseError(InvalidRequestError):
    """The checkpoint or job is open on this daemon (close it first) or pinned (release it, or use `force`)."""

    reason = "IN_USE"


class DeclarationMismatchError(InvalidRequestError):
    """Not what was declared for this attempt."""

    reason = "DECLARATION_MISMATCH"


class NotAllowedError(InvalidRequestError):
    """The job is not this peer's (`rpc.allowed-jobs` of the daemon)."""

    reason = "NOT_ALLOWED"


class LimitError(DstlError, ValueError):
    """Beyond a limit of the daemon: see `client.limits`. Also a ValueError."""


class MessageTooLargeError(LimitError):
    """A message is longer than `max_message_bytes`."""

    reason = "MESSAGE_TOO_LARGE"


class LimitExceededError(LimitError):
    """A key, value, attachment, batch or name is beyond its limit."""

    reason = "LIMIT_EXCEEDED"


class NotFoundError(DstlError):
    """Nothing there."""


class BackendNotOpenError(NotFoundError):
    """This daemon does not have the backend open: open it."""

    reason = "BACKEND_NOT_OPEN"


class CheckpointNotFoundError(NotFoundError):
    """No such checkpoint: never completed, subsumed, or discarded."""

    reason = "CHECKPOINT_NOT_FOUND"


class NoConsistentCheckpointError(NotFoundError):
    """There are checkpoints, but none that all subtasks can restore."""

    reason = "NO_CONSISTENT_CHECKPOINT"


class FencedError(DstlError):
    """Another owner took over: stop."""


class NewerOwnerError(FencedError):
    """A newer owner has the backend, or this attempt is too low."""

    reason = "FENCED"


class SessionReplacedError(FencedError):
    """The same owner opened a newer session."""

    reason = "SESSION_REPLACED"


class UnavailableError(DstlError):
    """Try again."""


class StoreUnavailableError(UnavailableError):
    """The object store does not answer."""

    reason = "STORE_UNAVAILABLE"


class DrainingError(UnavailableError):
    """The daemon is draining or stopping: use another one."""

    reason = "DRAINING"


class CheckpointTimeoutError(UnavailableError):
    """A checkpoint was not durable in time; its changes go into the next one."""

    reason = "CHECKPOINT_TIMEOUT"


class CheckpointAbortedError(UnavailableError):
    """A checkpoint was aborted."""

    reason = "CHECKPOINT_ABORTED"


class BackendClosedError(UnavailableError):
    """The backend closed while the call waited: open it again."""

    reason = "BACKEND_CLOSED"


class PinExpiredError(UnavailableError):
    """A clone lost the lease on the checkpoint that it reads."""

    reason = "PIN_EXPIRED"


class TooSlowError(UnavailableError):
    """A request was not sent, or an answer not taken, in time."""

    reason = "TOO_SLOW"


class ExhaustedError(DstlError):
    """Something is full: free it first."""


class StateMemoryError(ExhaustedError):
    """State would grow beyond its share of memory; deletes and reads still work."""

    reason = "STATE_MEMORY"


class ChangeMemoryError(ExhaustedError):
    """The memory for changes that are not yet durable cannot hold another backend."""

    reason = "CHANGE_MEMORY"


class TooManyCheckpointsError(ExhaustedError):
    """Too many checkpoints are retained (complete, subsume or discard some) or in flight."""

    reason = "TOO_MANY_CHECKPOINTS"


class TooManyStatesError(ExhaustedError):
    """Too many states."""

    reason = "TOO_MANY_STATES"


class TooManyCallsError(ExhaustedError):
    """Too many calls at once (`rpc.max-calls` of the daemon)."""

    reason = "TOO_MANY_CALLS"


class LocalResourcesError(ExhaustedError):
    """The daemon's host has no room on its disk, or no more files."""

    reason = "LOCAL_RESOURCES"


class CorruptError(DstlError):
    """The store's contents are damaged; the message names object, checkpoint and what still restores."""


class CorruptObjectError(CorruptError):
    """An object fails its checks."""

    reason = "CORRUPT_OBJECT"


class MissingObjectError(CorruptError):
    """An object that a checkpoint names is missing."""

    reason = "MISSING_OBJECT"


class InternalError(DstlError):
    """A fault of the daemon."""


class DaemonBugError(InternalError):
    """A bug of the daemon: please report it."""

    reason = "INTERNAL"


class FailsafeError(InternalError):
    """The backend met a fatal fault and serves only reads: open it again."""

    reason = "FAILSAFE"


class ConnectionLostError(DstlError, ConnectionError):
    """No connection to the daemon, or a call that broke off without a word of it."""

    retryable = True


class SessionLostError(DstlError):
    """The session is over although it was not closed. Batches that were not acknowledged may be applied or not: open the backend again."""


class DaemonRestartedError(SessionLostError):
    """The daemon is another process now; what was applied since the last checkpoint is gone: open again, from a checkpoint."""


class UnreachableError(SessionLostError):
    """The daemon did not come back within `reconnect_timeout`."""


class ClosedError(DstlError):
    """The client, backend, session or query was closed before."""


class ForkedError(DstlError):
    """A connection was used in a child of the process that made it: connect again in the child."""


class RejectedError(DstlError):
    """Batches that were handed over earlier were rejected, and nobody looked at their receipts; `errors` has their errors."""

    def __init__(self, message: str, errors: list[DstlError] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class LimitReachedError(LimitError):
    """A merge would have made a value longer than `max_value_bytes`; all was left as it was."""


class AnswerLostError(DstlError):
    """Timers were fired and their answer was lost with a broken stream: restore the last checkpoint."""


class CheckpointInterruptedError(DstlError):
    """The stream broke while the checkpoint was in flight, so nobody knows what became of it: trigger a new one with a higher id."""


class MalformedError(DstlError):
    """Stored bytes are not what the serializer expects."""


class ProtocolError(DstlError):
    """The daemon said what the protocol does not allow."""


def _classes(base: type[DstlError]) -> dict[str, type[DstlError]]:
    found = {base.reason: base} if "reason" in vars(base) else {}
    for child in base.__subclasses__():
        found.update(_classes(child))
    return found


class _Reasons:
    classes: ClassVar[dict[str, type[DstlError]]] = _classes(DstlError)


def from_message(error: error_pb2.Error) -> DstlError:
    """The exception for an error of the daemon."""
    try:
        reason = error_pb2.Reason.Name(error.reason).removeprefix("REASON_")
        scope = error_pb2.Scope.Name(error.scope).removeprefix("SCOPE_")
    except ValueError:
        # A newer daemon has reasons that this client does not know.
        reason, scope = "UNSPECIFIED", "UNSPECIFIED"
    made = _Reasons.classes.get(reason, DstlError)(error.message, scope=scope, retryable=error.retryable)
    return made


def from_rpc(error: grpc.RpcError) -> DstlError:
    """The exception for a call that failed."""
    found = _details(dict(error.trailing_metadata() or ()).get("grpc-status-details-bin"))
    if found is not None:
        return from_message(found)
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnsupportedError(f"the daemon does not know this call: {text}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ConnectionLostError(f"the daemon did not answer in time: {text}")
    if code is grpc.StatusCode.CANCELLED:
        return ClosedError("the call was cancelled, or its client closed")
    return ConnectionLostError(f"no connection to the daemon, or it broke: {text}")


def _details(status: bytes | None) -> error_pb2.Error | None:
    """The `Error` in `google.rpc.Status`: field 3 is a list of `Any`, whose field 1 is a type's URL and field 2 its bytes."""
    for number, value in _fields(status or b""):
        if number == 3:
            content = dict(_fields(value))
            if content.get(1, b"").endswith(b"dstl.v1.Error"):
                return error_pb2.Error.FromString(content.get(2, b""))
    return None


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Fields of a protobuf message that have a length; others are left out."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 2:
            found.append((tag >> 3, data[at : at + value]))
            at += value
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def again(error: DstlError) -> DstlError:
    """A copy to raise, as one exception must not be raised by several threads."""
    copy = error.__class__.__new__(error.__class__)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
