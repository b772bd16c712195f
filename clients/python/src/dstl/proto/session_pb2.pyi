from typing import Any as _Any
from dstl.proto import backend_pb2 as _backend_pb2
from dstl.proto import checkpoint_pb2 as _checkpoint_pb2
from dstl.proto import error_pb2 as _error_pb2
from dstl.proto import state_pb2 as _state_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("start", "batch", "barrier", "notice", "resume", "persist")
    START_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    PERSIST_FIELD_NUMBER: _ClassVar[int]
    start: SessionStart
    batch: Batch
    barrier: _checkpoint_pb2.Barrier
    notice: _checkpoint_pb2.Notice
    resume: Resume
    persist: PersistMark
    def __init__(self, start: _Optional[_Union[SessionStart, _Mapping[_Any, _Any]]] = ..., batch: _Optional[_Union[Batch, _Mapping[_Any, _Any]]] = ..., barrier: _Optional[_Union[_checkpoint_pb2.Barrier, _Mapping[_Any, _Any]]] = ..., notice: _Optional[_Union[_checkpoint_pb2.Notice, _Mapping[_Any, _Any]]] = ..., resume: _Optional[_Union[Resume, _Mapping[_Any, _Any]]] = ..., persist: _Optional[_Union[PersistMark, _Mapping[_Any, _Any]]] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("started", "acknowledgement", "result", "checkpoint_completed", "checkpoint_failed", "halted", "notice", "persisted", "error", "job_checkpoint_completed")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FAILED_FIELD_NUMBER: _ClassVar[int]
    HALTED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    JOB_CHECKPOINT_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    started: SessionStarted
    acknowledgement: Acknowledgement
    result: BatchResult
    checkpoint_completed: _checkpoint_pb2.CheckpointCompleted
    checkpoint_failed: _checkpoint_pb2.CheckpointFailed
    halted: SessionHalted
    notice: NoticeReply
    persisted: PersistReply
    error: _error_pb2.Error
    job_checkpoint_completed: JobCheckpointCompleted
    def __init__(self, started: _Optional[_Union[SessionStarted, _Mapping[_Any, _Any]]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping[_Any, _Any]]] = ..., result: _Optional[_Union[BatchResult, _Mapping[_Any, _Any]]] = ..., checkpoint_completed: _Optional[_Union[_checkpoint_pb2.CheckpointCompleted, _Mapping[_Any, _Any]]] = ..., checkpoint_failed: _Optional[_Union[_checkpoint_pb2.CheckpointFailed, _Mapping[_Any, _Any]]] = ..., halted: _Optional[_Union[SessionHalted, _Mapping[_Any, _Any]]] = ..., notice: _Optional[_Union[NoticeReply, _Mapping[_Any, _Any]]] = ..., persisted: _Optional[_Union[PersistReply, _Mapping[_Any, _Any]]] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping[_Any, _Any]]] = ..., job_checkpoint_completed: _Optional[_Union[JobCheckpointCompleted, _Mapping[_Any, _Any]]] = ...) -> None: ...

class SessionStart(_message.Message):
    __slots__ = ("backend",)
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ...) -> None: ...

class SessionStarted(_message.Message):
    __slots__ = ("applied_to", "credit")
    APPLIED_TO_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    applied_to: int
    credit: int
    def __init__(self, applied_to: _Optional[int] = ..., credit: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("number", "operations")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    number: int
    operations: _containers.RepeatedCompositeFieldContainer[_state_pb2.Operation]
    def __init__(self, number: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[_state_pb2.Operation, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("applied_to", "persisted_to", "confirmed_to", "credit")
    APPLIED_TO_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_TO_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_TO_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    applied_to: int
    persisted_to: int
    confirmed_to: int
    credit: int
    def __init__(self, applied_to: _Optional[int] = ..., persisted_to: _Optional[int] = ..., confirmed_to: _Optional[int] = ..., credit: _Optional[int] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("number", "results", "repeated_batch")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REPEATED_BATCH_FIELD_NUMBER: _ClassVar[int]
    number: int
    results: _containers.RepeatedCompositeFieldContainer[_state_pb2.OperationResult]
    repeated_batch: bool
    def __init__(self, number: _Optional[int] = ..., results: _Optional[_Iterable[_Union[_state_pb2.OperationResult, _Mapping[_Any, _Any]]]] = ..., repeated_batch: _Optional[bool] = ...) -> None: ...

class SessionHalted(_message.Message):
    __slots__ = ("first_failed", "error", "batch", "checkpoint_id")
    FIRST_FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    first_failed: int
    error: _error_pb2.Error
    batch: int
    checkpoint_id: int
    def __init__(self, first_failed: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping[_Any, _Any]]] = ..., batch: _Optional[int] = ..., checkpoint_id: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class PersistMark(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: int
    def __init__(self, token: _Optional[int] = ...) -> None: ...

class PersistReply(_message.Message):
    __slots__ = ("token", "persisted_to")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PERSISTED_TO_FIELD_NUMBER: _ClassVar[int]
    token: int
    persisted_to: int
    def __init__(self, token: _Optional[int] = ..., persisted_to: _Optional[int] = ...) -> None: ...

class JobCheckpointCompleted(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ...) -> None: ...

class NoticeReply(_message.Message):
    __slots__ = ("notice", "outcome")
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    notice: _checkpoint_pb2.Notice
    outcome: _checkpoint_pb2.NoticeOutcome
    def __init__(self, notice: _Optional[_Union[_checkpoint_pb2.Notice, _Mapping[_Any, _Any]]] = ..., outcome: _Optional[_Union[_checkpoint_pb2.NoticeOutcome, str]] = ...) -> None: ...
