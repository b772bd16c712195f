from typing import Any as _Any
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StateKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_KIND_UNSPECIFIED: _ClassVar[StateKind]
    STATE_KIND_VALUE: _ClassVar[StateKind]
    STATE_KIND_LIST: _ClassVar[StateKind]
    STATE_KIND_MAP: _ClassVar[StateKind]
    STATE_KIND_TIMER: _ClassVar[StateKind]

class MergeFunction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGE_FUNCTION_UNSPECIFIED: _ClassVar[MergeFunction]
    MERGE_FUNCTION_SUM_I64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_MIN_I64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_MAX_I64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_SUM_F64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_MIN_F64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_MAX_F64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_APPEND: _ClassVar[MergeFunction]
    MERGE_FUNCTION_COUNT: _ClassVar[MergeFunction]
    MERGE_FUNCTION_AVERAGE_I64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_AVERAGE_F64: _ClassVar[MergeFunction]
    MERGE_FUNCTION_SET_UNION: _ClassVar[MergeFunction]
    MERGE_FUNCTION_HYPER_LOG_LOG: _ClassVar[MergeFunction]

class Redistribution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDISTRIBUTION_UNSPECIFIED: _ClassVar[Redistribution]
    REDISTRIBUTION_SPLIT: _ClassVar[Redistribution]
    REDISTRIBUTION_UNION: _ClassVar[Redistribution]
    REDISTRIBUTION_BROADCAST: _ClassVar[Redistribution]

class OperationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_KIND_UNSPECIFIED: _ClassVar[OperationKind]
    OPERATION_KIND_CLEAR: _ClassVar[OperationKind]
    OPERATION_KIND_MERGE_NAMESPACES: _ClassVar[OperationKind]
    OPERATION_KIND_PUT: _ClassVar[OperationKind]
    OPERATION_KIND_GET: _ClassVar[OperationKind]
    OPERATION_KIND_MERGE: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_PUT: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_GET: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_REMOVE: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_CONTAINS: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_MERGE: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_ENTRIES: _ClassVar[OperationKind]
    OPERATION_KIND_MAP_COUNT: _ClassVar[OperationKind]
    OPERATION_KIND_LIST_ADD: _ClassVar[OperationKind]
    OPERATION_KIND_LIST_ADD_ALL: _ClassVar[OperationKind]
    OPERATION_KIND_LIST_UPDATE: _ClassVar[OperationKind]
    OPERATION_KIND_LIST_GET: _ClassVar[OperationKind]
    OPERATION_KIND_LIST_COUNT: _ClassVar[OperationKind]
    OPERATION_KIND_KEYS: _ClassVar[OperationKind]
    OPERATION_KIND_TIMER_REGISTER: _ClassVar[OperationKind]
    OPERATION_KIND_TIMER_DELETE: _ClassVar[OperationKind]
    OPERATION_KIND_TIMERS: _ClassVar[OperationKind]
    OPERATION_KIND_TIMERS_FIRE: _ClassVar[OperationKind]
    OPERATION_KIND_TIMER_COUNT: _ClassVar[OperationKind]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_DONE: _ClassVar[Outcome]
    OUTCOME_LIMIT_REACHED: _ClassVar[Outcome]
    OUTCOME_ASK_AGAIN: _ClassVar[Outcome]
STATE_KIND_UNSPECIFIED: StateKind
STATE_KIND_VALUE: StateKind
STATE_KIND_LIST: StateKind
STATE_KIND_MAP: StateKind
STATE_KIND_TIMER: StateKind
MERGE_FUNCTION_UNSPECIFIED: MergeFunction
MERGE_FUNCTION_SUM_I64: MergeFunction
MERGE_FUNCTION_MIN_I64: MergeFunction
MERGE_FUNCTION_MAX_I64: MergeFunction
MERGE_FUNCTION_SUM_F64: MergeFunction
MERGE_FUNCTION_MIN_F64: MergeFunction
MERGE_FUNCTION_MAX_F64: MergeFunction
MERGE_FUNCTION_APPEND: MergeFunction
MERGE_FUNCTION_COUNT: MergeFunction
MERGE_FUNCTION_AVERAGE_I64: MergeFunction
MERGE_FUNCTION_AVERAGE_F64: MergeFunction
MERGE_FUNCTION_SET_UNION: MergeFunction
MERGE_FUNCTION_HYPER_LOG_LOG: MergeFunction
REDISTRIBUTION_UNSPECIFIED: Redistribution
REDISTRIBUTION_SPLIT: Redistribution
REDISTRIBUTION_UNION: Redistribution
REDISTRIBUTION_BROADCAST: Redistribution
OPERATION_KIND_UNSPECIFIED: OperationKind
OPERATION_KIND_CLEAR: OperationKind
OPERATION_KIND_MERGE_NAMESPACES: OperationKind
OPERATION_KIND_PUT: OperationKind
OPERATION_KIND_GET: OperationKind
OPERATION_KIND_MERGE: OperationKind
OPERATION_KIND_MAP_PUT: OperationKind
OPERATION_KIND_MAP_GET: OperationKind
OPERATION_KIND_MAP_REMOVE: OperationKind
OPERATION_KIND_MAP_CONTAINS: OperationKind
OPERATION_KIND_MAP_MERGE: OperationKind
OPERATION_KIND_MAP_ENTRIES: OperationKind
OPERATION_KIND_MAP_COUNT: OperationKind
OPERATION_KIND_LIST_ADD: OperationKind
OPERATION_KIND_LIST_ADD_ALL: OperationKind
OPERATION_KIND_LIST_UPDATE: OperationKind
OPERATION_KIND_LIST_GET: OperationKind
OPERATION_KIND_LIST_COUNT: OperationKind
OPERATION_KIND_KEYS: OperationKind
OPERATION_KIND_TIMER_REGISTER: OperationKind
OPERATION_KIND_TIMER_DELETE: OperationKind
OPERATION_KIND_TIMERS: OperationKind
OPERATION_KIND_TIMERS_FIRE: OperationKind
OPERATION_KIND_TIMER_COUNT: OperationKind
OUTCOME_DONE: Outcome
OUTCOME_LIMIT_REACHED: Outcome
OUTCOME_ASK_AGAIN: Outcome

class StateDescriptor(_message.Message):
    __slots__ = ("name", "kind", "merge", "key_serializer", "namespace_serializer", "value_serializer", "ttl", "redistribution", "default_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    KEY_SERIALIZER_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_SERIALIZER_FIELD_NUMBER: _ClassVar[int]
    VALUE_SERIALIZER_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REDISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: StateKind
    merge: MergeFunction
    key_serializer: Serializer
    namespace_serializer: Serializer
    value_serializer: Serializer
    ttl: Ttl
    redistribution: Redistribution
    default_value: bytes
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[StateKind, str]] = ..., merge: _Optional[_Union[MergeFunction, str]] = ..., key_serializer: _Optional[_Union[Serializer, _Mapping[_Any, _Any]]] = ..., namespace_serializer: _Optional[_Union[Serializer, _Mapping[_Any, _Any]]] = ..., value_serializer: _Optional[_Union[Serializer, _Mapping[_Any, _Any]]] = ..., ttl: _Optional[_Union[Ttl, _Mapping[_Any, _Any]]] = ..., redistribution: _Optional[_Union[Redistribution, str]] = ..., default_value: _Optional[bytes] = ...) -> None: ...

class Serializer(_message.Message):
    __slots__ = ("id", "version")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Ttl(_message.Message):
    __slots__ = ("duration_ms", "update", "visibility", "cleanup")
    class Update(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UPDATE_UNSPECIFIED: _ClassVar[Ttl.Update]
        UPDATE_ON_CREATE_AND_WRITE: _ClassVar[Ttl.Update]
        UPDATE_ON_READ_AND_WRITE: _ClassVar[Ttl.Update]
    UPDATE_UNSPECIFIED: Ttl.Update
    UPDATE_ON_CREATE_AND_WRITE: Ttl.Update
    UPDATE_ON_READ_AND_WRITE: Ttl.Update
    class Visibility(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VISIBILITY_UNSPECIFIED: _ClassVar[Ttl.Visibility]
        VISIBILITY_NEVER_RETURN_EXPIRED: _ClassVar[Ttl.Visibility]
        VISIBILITY_RETURN_EXPIRED_IF_NOT_CLEANED_UP: _ClassVar[Ttl.Visibility]
    VISIBILITY_UNSPECIFIED: Ttl.Visibility
    VISIBILITY_NEVER_RETURN_EXPIRED: Ttl.Visibility
    VISIBILITY_RETURN_EXPIRED_IF_NOT_CLEANED_UP: Ttl.Visibility
    class Cleanup(_message.Message):
        __slots__ = ("at_materialization", "incremental", "compaction_filter")
        AT_MATERIALIZATION_FIELD_NUMBER: _ClassVar[int]
        INCREMENTAL_FIELD_NUMBER: _ClassVar[int]
        COMPACTION_FILTER_FIELD_NUMBER: _ClassVar[int]
        at_materialization: bool
        incremental: Ttl.Incremental
        compaction_filter: Ttl.CompactionFilter
        def __init__(self, at_materialization: _Optional[bool] = ..., incremental: _Optional[_Union[Ttl.Incremental, _Mapping[_Any, _Any]]] = ..., compaction_filter: _Optional[_Union[Ttl.CompactionFilter, _Mapping[_Any, _Any]]] = ...) -> None: ...
    class Incremental(_message.Message):
        __slots__ = ("entries", "every_batch")
        ENTRIES_FIELD_NUMBER: _ClassVar[int]
        EVERY_BATCH_FIELD_NUMBER: _ClassVar[int]
        entries: int
        every_batch: bool
        def __init__(self, entries: _Optional[int] = ..., every_batch: _Optional[bool] = ...) -> None: ...
    class CompactionFilter(_message.Message):
        __slots__ = ("time_every_entries", "periodic_compaction_ms")
        TIME_EVERY_ENTRIES_FIELD_NUMBER: _ClassVar[int]
        PERIODIC_COMPACTION_MS_FIELD_NUMBER: _ClassVar[int]
        time_every_entries: int
        periodic_compaction_ms: int
        def __init__(self, time_every_entries: _Optional[int] = ..., periodic_compaction_ms: _Optional[int] = ...) -> None: ...
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_FIELD_NUMBER: _ClassVar[int]
    CLEANUP_FIELD_NUMBER: _ClassVar[int]
    duration_ms: int
    update: Ttl.Update
    visibility: Ttl.Visibility
    cleanup: Ttl.Cleanup
    def __init__(self, duration_ms: _Optional[int] = ..., update: _Optional[_Union[Ttl.Update, str]] = ..., visibility: _Optional[_Union[Ttl.Visibility, str]] = ..., cleanup: _Optional[_Union[Ttl.Cleanup, _Mapping[_Any, _Any]]] = ...) -> None: ...

class RegisteredState(_message.Message):
    __slots__ = ("id", "descriptor", "migrating_from")
    ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    MIGRATING_FROM_FIELD_NUMBER: _ClassVar[int]
    id: int
    descriptor: StateDescriptor
    migrating_from: int
    def __init__(self, id: _Optional[int] = ..., descriptor: _Optional[_Union[StateDescriptor, _Mapping[_Any, _Any]]] = ..., migrating_from: _Optional[int] = ...) -> None: ...

class SchemaChange(_message.Message):
    __slots__ = ("state", "mode")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MODE_UNSPECIFIED: _ClassVar[SchemaChange.Mode]
        MODE_COMPATIBLE: _ClassVar[SchemaChange.Mode]
        MODE_MIGRATE: _ClassVar[SchemaChange.Mode]
    MODE_UNSPECIFIED: SchemaChange.Mode
    MODE_COMPATIBLE: SchemaChange.Mode
    MODE_MIGRATE: SchemaChange.Mode
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    state: str
    mode: SchemaChange.Mode
    def __init__(self, state: _Optional[str] = ..., mode: _Optional[_Union[SchemaChange.Mode, str]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("kind", "state", "key", "namespace", "map_key", "value", "values", "start", "limit", "key_group", "all_namespaces", "token", "time", "map_key_to", "map_prefix")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MAP_KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_FIELD_NUMBER: _ClassVar[int]
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MAP_KEY_TO_FIELD_NUMBER: _ClassVar[int]
    MAP_PREFIX_FIELD_NUMBER: _ClassVar[int]
    kind: OperationKind
    state: int
    key: bytes
    namespace: bytes
    map_key: bytes
    value: bytes
    values: _containers.RepeatedScalarFieldContainer[bytes]
    start: int
    limit: int
    key_group: int
    all_namespaces: bool
    token: bytes
    time: int
    map_key_to: bytes
    map_prefix: bytes
    def __init__(self, kind: _Optional[_Union[OperationKind, str]] = ..., state: _Optional[int] = ..., key: _Optional[bytes] = ..., namespace: _Optional[bytes] = ..., map_key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., values: _Optional[_Iterable[bytes]] = ..., start: _Optional[int] = ..., limit: _Optional[int] = ..., key_group: _Optional[int] = ..., all_namespaces: _Optional[bool] = ..., token: _Optional[bytes] = ..., time: _Optional[int] = ..., map_key_to: _Optional[bytes] = ..., map_prefix: _Optional[bytes] = ...) -> None: ...

class OperationResult(_message.Message):
    __slots__ = ("operation", "found", "value", "entries", "elements", "more", "count", "outcome", "keys", "token", "timers")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TIMERS_FIELD_NUMBER: _ClassVar[int]
    operation: int
    found: bool
    value: bytes
    entries: _containers.RepeatedCompositeFieldContainer[MapEntry]
    elements: _containers.RepeatedScalarFieldContainer[bytes]
    more: bool
    count: int
    outcome: Outcome
    keys: _containers.RepeatedCompositeFieldContainer[StoredKey]
    token: bytes
    timers: _containers.RepeatedCompositeFieldContainer[Timer]
    def __init__(self, operation: _Optional[int] = ..., found: _Optional[bool] = ..., value: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[MapEntry, _Mapping[_Any, _Any]]]] = ..., elements: _Optional[_Iterable[bytes]] = ..., more: _Optional[bool] = ..., count: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., keys: _Optional[_Iterable[_Union[StoredKey, _Mapping[_Any, _Any]]]] = ..., token: _Optional[bytes] = ..., timers: _Optional[_Iterable[_Union[Timer, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class Timer(_message.Message):
    __slots__ = ("time", "key", "namespace", "key_group")
    TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_FIELD_NUMBER: _ClassVar[int]
    time: int
    key: bytes
    namespace: bytes
    key_group: int
    def __init__(self, time: _Optional[int] = ..., key: _Optional[bytes] = ..., namespace: _Optional[bytes] = ..., key_group: _Optional[int] = ...) -> None: ...

class StoredKey(_message.Message):
    __slots__ = ("key", "namespace", "key_group")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    namespace: bytes
    key_group: int
    def __init__(self, key: _Optional[bytes] = ..., namespace: _Optional[bytes] = ..., key_group: _Optional[int] = ...) -> None: ...

class MapEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...
