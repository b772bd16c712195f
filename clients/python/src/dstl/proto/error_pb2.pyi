from typing import Any as _Any
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCOPE_UNSPECIFIED: _ClassVar[Scope]
    SCOPE_BATCH: _ClassVar[Scope]
    SCOPE_SESSION: _ClassVar[Scope]
    SCOPE_BACKEND: _ClassVar[Scope]
    SCOPE_DAEMON: _ClassVar[Scope]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_INVALID_ARGUMENT: _ClassVar[Reason]
    REASON_INCOMPATIBLE_PROTOCOL: _ClassVar[Reason]
    REASON_UNKNOWN_STATE: _ClassVar[Reason]
    REASON_WRONG_KIND: _ClassVar[Reason]
    REASON_WRONG_KEY_GROUP: _ClassVar[Reason]
    REASON_STATE_MISMATCH: _ClassVar[Reason]
    REASON_BACKEND_MISMATCH: _ClassVar[Reason]
    REASON_BATCH_OUT_OF_ORDER: _ClassVar[Reason]
    REASON_CREDIT_EXCEEDED: _ClassVar[Reason]
    REASON_CHECKPOINT_OUT_OF_ORDER: _ClassVar[Reason]
    REASON_MESSAGE_TOO_LARGE: _ClassVar[Reason]
    REASON_LIMIT_EXCEEDED: _ClassVar[Reason]
    REASON_UNSUPPORTED: _ClassVar[Reason]
    REASON_SESSION_HALTED: _ClassVar[Reason]
    REASON_IN_USE: _ClassVar[Reason]
    REASON_DECLARATION_MISMATCH: _ClassVar[Reason]
    REASON_NOT_ALLOWED: _ClassVar[Reason]
    REASON_BACKEND_NOT_OPEN: _ClassVar[Reason]
    REASON_CHECKPOINT_NOT_FOUND: _ClassVar[Reason]
    REASON_NO_CONSISTENT_CHECKPOINT: _ClassVar[Reason]
    REASON_FENCED: _ClassVar[Reason]
    REASON_SESSION_REPLACED: _ClassVar[Reason]
    REASON_STORE_UNAVAILABLE: _ClassVar[Reason]
    REASON_DRAINING: _ClassVar[Reason]
    REASON_CHECKPOINT_TIMEOUT: _ClassVar[Reason]
    REASON_CHECKPOINT_ABORTED: _ClassVar[Reason]
    REASON_BACKEND_CLOSED: _ClassVar[Reason]
    REASON_PIN_EXPIRED: _ClassVar[Reason]
    REASON_TOO_SLOW: _ClassVar[Reason]
    REASON_STATE_MEMORY: _ClassVar[Reason]
    REASON_CHANGE_MEMORY: _ClassVar[Reason]
    REASON_TOO_MANY_CHECKPOINTS: _ClassVar[Reason]
    REASON_TOO_MANY_STATES: _ClassVar[Reason]
    REASON_TOO_MANY_CALLS: _ClassVar[Reason]
    REASON_LOCAL_RESOURCES: _ClassVar[Reason]
    REASON_CORRUPT_OBJECT: _ClassVar[Reason]
    REASON_MISSING_OBJECT: _ClassVar[Reason]
    REASON_INTERNAL: _ClassVar[Reason]
    REASON_FAILSAFE: _ClassVar[Reason]
SCOPE_UNSPECIFIED: Scope
SCOPE_BATCH: Scope
SCOPE_SESSION: Scope
SCOPE_BACKEND: Scope
SCOPE_DAEMON: Scope
REASON_UNSPECIFIED: Reason
REASON_INVALID_ARGUMENT: Reason
REASON_INCOMPATIBLE_PROTOCOL: Reason
REASON_UNKNOWN_STATE: Reason
REASON_WRONG_KIND: Reason
REASON_WRONG_KEY_GROUP: Reason
REASON_STATE_MISMATCH: Reason
REASON_BACKEND_MISMATCH: Reason
REASON_BATCH_OUT_OF_ORDER: Reason
REASON_CREDIT_EXCEEDED: Reason
REASON_CHECKPOINT_OUT_OF_ORDER: Reason
REASON_MESSAGE_TOO_LARGE: Reason
REASON_LIMIT_EXCEEDED: Reason
REASON_UNSUPPORTED: Reason
REASON_SESSION_HALTED: Reason
REASON_IN_USE: Reason
REASON_DECLARATION_MISMATCH: Reason
REASON_NOT_ALLOWED: Reason
REASON_BACKEND_NOT_OPEN: Reason
REASON_CHECKPOINT_NOT_FOUND: Reason
REASON_NO_CONSISTENT_CHECKPOINT: Reason
REASON_FENCED: Reason
REASON_SESSION_REPLACED: Reason
REASON_STORE_UNAVAILABLE: Reason
REASON_DRAINING: Reason
REASON_CHECKPOINT_TIMEOUT: Reason
REASON_CHECKPOINT_ABORTED: Reason
REASON_BACKEND_CLOSED: Reason
REASON_PIN_EXPIRED: Reason
REASON_TOO_SLOW: Reason
REASON_STATE_MEMORY: Reason
REASON_CHANGE_MEMORY: Reason
REASON_TOO_MANY_CHECKPOINTS: Reason
REASON_TOO_MANY_STATES: Reason
REASON_TOO_MANY_CALLS: Reason
REASON_LOCAL_RESOURCES: Reason
REASON_CORRUPT_OBJECT: Reason
REASON_MISSING_OBJECT: Reason
REASON_INTERNAL: Reason
REASON_FAILSAFE: Reason

class Error(_message.Message):
    __slots__ = ("reason", "scope", "retryable", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    scope: Scope
    retryable: bool
    message: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., scope: _Optional[_Union[Scope, str]] = ..., retryable: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...
