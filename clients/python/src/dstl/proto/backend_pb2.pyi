from typing import Any as _Any
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackendId(_message.Message):
    __slots__ = ("job", "operator", "subtask")
    JOB_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    SUBTASK_FIELD_NUMBER: _ClassVar[int]
    job: str
    operator: str
    subtask: int
    def __init__(self, job: _Optional[str] = ..., operator: _Optional[str] = ..., subtask: _Optional[int] = ...) -> None: ...

class Epoch(_message.Message):
    __slots__ = ("number", "owner")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    number: int
    owner: bytes
    def __init__(self, number: _Optional[int] = ..., owner: _Optional[bytes] = ...) -> None: ...

class BackendRef(_message.Message):
    __slots__ = ("id", "epoch")
    ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    id: BackendId
    epoch: Epoch
    def __init__(self, id: _Optional[_Union[BackendId, _Mapping[_Any, _Any]]] = ..., epoch: _Optional[_Union[Epoch, _Mapping[_Any, _Any]]] = ...) -> None: ...

class KeyGroupRange(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...
