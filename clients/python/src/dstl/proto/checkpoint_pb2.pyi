from typing import Any as _Any
from dstl.proto import error_pb2 as _error_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NoticeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOTICE_KIND_UNSPECIFIED: _ClassVar[NoticeKind]
    NOTICE_KIND_COMPLETE: _ClassVar[NoticeKind]
    NOTICE_KIND_ABORT: _ClassVar[NoticeKind]
    NOTICE_KIND_SUBSUME: _ClassVar[NoticeKind]
    NOTICE_KIND_DISCARD: _ClassVar[NoticeKind]

class NoticeOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOTICE_OUTCOME_UNSPECIFIED: _ClassVar[NoticeOutcome]
    NOTICE_OUTCOME_DONE: _ClassVar[NoticeOutcome]
    NOTICE_OUTCOME_UNCHANGED: _ClassVar[NoticeOutcome]
    NOTICE_OUTCOME_UNKNOWN: _ClassVar[NoticeOutcome]
    NOTICE_OUTCOME_PINNED: _ClassVar[NoticeOutcome]
    NOTICE_OUTCOME_COORDINATED: _ClassVar[NoticeOutcome]
NOTICE_KIND_UNSPECIFIED: NoticeKind
NOTICE_KIND_COMPLETE: NoticeKind
NOTICE_KIND_ABORT: NoticeKind
NOTICE_KIND_SUBSUME: NoticeKind
NOTICE_KIND_DISCARD: NoticeKind
NOTICE_OUTCOME_UNSPECIFIED: NoticeOutcome
NOTICE_OUTCOME_DONE: NoticeOutcome
NOTICE_OUTCOME_UNCHANGED: NoticeOutcome
NOTICE_OUTCOME_UNKNOWN: NoticeOutcome
NOTICE_OUTCOME_PINNED: NoticeOutcome
NOTICE_OUTCOME_COORDINATED: NoticeOutcome

class Barrier(_message.Message):
    __slots__ = ("checkpoint_id", "attachment", "timeout_ms", "readable", "savepoint")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    READABLE_FIELD_NUMBER: _ClassVar[int]
    SAVEPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: int
    attachment: bytes
    timeout_ms: int
    readable: bool
    savepoint: str
    def __init__(self, checkpoint_id: _Optional[int] = ..., attachment: _Optional[bytes] = ..., timeout_ms: _Optional[int] = ..., readable: _Optional[bool] = ..., savepoint: _Optional[str] = ...) -> None: ...

class CheckpointIdentity(_message.Message):
    __slots__ = ("epoch", "checkpoint_id", "handle_uuid")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLE_UUID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    checkpoint_id: int
    handle_uuid: bytes
    def __init__(self, epoch: _Optional[int] = ..., checkpoint_id: _Optional[int] = ..., handle_uuid: _Optional[bytes] = ...) -> None: ...

class CheckpointCompleted(_message.Message):
    __slots__ = ("checkpoint", "handle", "applied_to", "incremental_bytes", "full_bytes", "changes", "sync_ms", "persist_ms", "publish_ms", "total_ms", "self_sustained_since", "savepoint")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_TO_FIELD_NUMBER: _ClassVar[int]
    INCREMENTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FULL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    SYNC_MS_FIELD_NUMBER: _ClassVar[int]
    PERSIST_MS_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    SELF_SUSTAINED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SAVEPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: CheckpointIdentity
    handle: bytes
    applied_to: int
    incremental_bytes: int
    full_bytes: int
    changes: int
    sync_ms: float
    persist_ms: float
    publish_ms: float
    total_ms: float
    self_sustained_since: int
    savepoint: SavepointMade
    def __init__(self, checkpoint: _Optional[_Union[CheckpointIdentity, _Mapping[_Any, _Any]]] = ..., handle: _Optional[bytes] = ..., applied_to: _Optional[int] = ..., incremental_bytes: _Optional[int] = ..., full_bytes: _Optional[int] = ..., changes: _Optional[int] = ..., sync_ms: _Optional[float] = ..., persist_ms: _Optional[float] = ..., publish_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., self_sustained_since: _Optional[int] = ..., savepoint: _Optional[_Union[SavepointMade, _Mapping[_Any, _Any]]] = ...) -> None: ...

class SavepointMade(_message.Message):
    __slots__ = ("path", "files", "rows", "bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    files: int
    rows: int
    bytes: int
    def __init__(self, path: _Optional[str] = ..., files: _Optional[int] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class CheckpointFailed(_message.Message):
    __slots__ = ("checkpoint_id", "error")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: int
    error: _error_pb2.Error
    def __init__(self, checkpoint_id: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping[_Any, _Any]]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("kind", "checkpoint")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    kind: NoticeKind
    checkpoint: CheckpointIdentity
    def __init__(self, kind: _Optional[_Union[NoticeKind, str]] = ..., checkpoint: _Optional[_Union[CheckpointIdentity, _Mapping[_Any, _Any]]] = ...) -> None: ...
