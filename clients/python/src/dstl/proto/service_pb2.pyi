from typing import Any as _Any
from dstl.proto import backend_pb2 as _backend_pb2
from dstl.proto import checkpoint_pb2 as _checkpoint_pb2
from dstl.proto import error_pb2 as _error_pb2
from dstl.proto import session_pb2 as _session_pb2
from dstl.proto import state_pb2 as _state_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClaimMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLAIM_MODE_UNSPECIFIED: _ClassVar[ClaimMode]
    CLAIM_MODE_CLAIM: _ClassVar[ClaimMode]
    CLAIM_MODE_NO_CLAIM: _ClassVar[ClaimMode]

class KeyGroupAssignment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_GROUP_ASSIGNMENT_UNSPECIFIED: _ClassVar[KeyGroupAssignment]
    KEY_GROUP_ASSIGNMENT_HASHED: _ClassVar[KeyGroupAssignment]
    KEY_GROUP_ASSIGNMENT_GIVEN: _ClassVar[KeyGroupAssignment]

class InnerBackend(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INNER_BACKEND_UNSPECIFIED: _ClassVar[InnerBackend]
    INNER_BACKEND_HASHMAP: _ClassVar[InnerBackend]
    INNER_BACKEND_ROCKSDB: _ClassVar[InnerBackend]

class ChangelogMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGELOG_MODE_UNSPECIFIED: _ClassVar[ChangelogMode]
    CHANGELOG_MODE_ENABLED: _ClassVar[ChangelogMode]
    CHANGELOG_MODE_DISABLED: _ClassVar[ChangelogMode]
CLAIM_MODE_UNSPECIFIED: ClaimMode
CLAIM_MODE_CLAIM: ClaimMode
CLAIM_MODE_NO_CLAIM: ClaimMode
KEY_GROUP_ASSIGNMENT_UNSPECIFIED: KeyGroupAssignment
KEY_GROUP_ASSIGNMENT_HASHED: KeyGroupAssignment
KEY_GROUP_ASSIGNMENT_GIVEN: KeyGroupAssignment
INNER_BACKEND_UNSPECIFIED: InnerBackend
INNER_BACKEND_HASHMAP: InnerBackend
INNER_BACKEND_ROCKSDB: InnerBackend
CHANGELOG_MODE_UNSPECIFIED: ChangelogMode
CHANGELOG_MODE_ENABLED: ChangelogMode
CHANGELOG_MODE_DISABLED: ChangelogMode

class HelloRequest(_message.Message):
    __slots__ = ("protocol_min", "protocol_max", "client")
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    protocol_min: int
    protocol_max: int
    client: str
    def __init__(self, protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., client: _Optional[str] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol", "protocol_min", "protocol_max", "daemon_instance", "version", "features", "limits")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    DAEMON_INSTANCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    protocol_min: int
    protocol_max: int
    daemon_instance: str
    version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    def __init__(self, protocol: _Optional[int] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., daemon_instance: _Optional[str] = ..., version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping[_Any, _Any]]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_key_bytes", "max_value_bytes", "max_attachment_bytes", "max_batch_operations", "max_concurrent_checkpoints", "max_states", "max_name_bytes")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTACHMENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    MAX_STATES_FIELD_NUMBER: _ClassVar[int]
    MAX_NAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_key_bytes: int
    max_value_bytes: int
    max_attachment_bytes: int
    max_batch_operations: int
    max_concurrent_checkpoints: int
    max_states: int
    max_name_bytes: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_key_bytes: _Optional[int] = ..., max_value_bytes: _Optional[int] = ..., max_attachment_bytes: _Optional[int] = ..., max_batch_operations: _Optional[int] = ..., max_concurrent_checkpoints: _Optional[int] = ..., max_states: _Optional[int] = ..., max_name_bytes: _Optional[int] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("backend", "parallelism", "max_parallelism", "key_groups", "key_group_assignment", "inner", "changelog", "attempt", "restore", "retention", "claim_mode", "attempt_token", "fresh", "linger_ms", "peer_group", "run")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    CHANGELOG_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    CLAIM_MODE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    LINGER_MS_FIELD_NUMBER: _ClassVar[int]
    PEER_GROUP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendId
    parallelism: int
    max_parallelism: int
    key_groups: _backend_pb2.KeyGroupRange
    key_group_assignment: KeyGroupAssignment
    inner: InnerBackend
    changelog: ChangelogMode
    attempt: int
    restore: Restore
    retention: Retention
    claim_mode: ClaimMode
    attempt_token: bytes
    fresh: bool
    linger_ms: int
    peer_group: bytes
    run: bytes
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendId, _Mapping[_Any, _Any]]] = ..., parallelism: _Optional[int] = ..., max_parallelism: _Optional[int] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., key_group_assignment: _Optional[_Union[KeyGroupAssignment, str]] = ..., inner: _Optional[_Union[InnerBackend, str]] = ..., changelog: _Optional[_Union[ChangelogMode, str]] = ..., attempt: _Optional[int] = ..., restore: _Optional[_Union[Restore, _Mapping[_Any, _Any]]] = ..., retention: _Optional[_Union[Retention, _Mapping[_Any, _Any]]] = ..., claim_mode: _Optional[_Union[ClaimMode, str]] = ..., attempt_token: _Optional[bytes] = ..., fresh: _Optional[bool] = ..., linger_ms: _Optional[int] = ..., peer_group: _Optional[bytes] = ..., run: _Optional[bytes] = ...) -> None: ...

class Restore(_message.Message):
    __slots__ = ("empty", "id", "handles", "savepoint", "latest", "fallback")
    class Empty(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Handles(_message.Message):
        __slots__ = ("handles", "vouched")
        HANDLES_FIELD_NUMBER: _ClassVar[int]
        VOUCHED_FIELD_NUMBER: _ClassVar[int]
        handles: _containers.RepeatedScalarFieldContainer[bytes]
        vouched: bool
        def __init__(self, handles: _Optional[_Iterable[bytes]] = ..., vouched: _Optional[bool] = ...) -> None: ...
    class Latest(_message.Message):
        __slots__ = ("or_empty",)
        OR_EMPTY_FIELD_NUMBER: _ClassVar[int]
        or_empty: bool
        def __init__(self, or_empty: _Optional[bool] = ...) -> None: ...
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    SAVEPOINT_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    empty: Restore.Empty
    id: int
    handles: Restore.Handles
    savepoint: str
    latest: Restore.Latest
    fallback: bool
    def __init__(self, empty: _Optional[_Union[Restore.Empty, _Mapping[_Any, _Any]]] = ..., id: _Optional[int] = ..., handles: _Optional[_Union[Restore.Handles, _Mapping[_Any, _Any]]] = ..., savepoint: _Optional[str] = ..., latest: _Optional[_Union[Restore.Latest, _Mapping[_Any, _Any]]] = ..., fallback: _Optional[bool] = ...) -> None: ...

class Retention(_message.Message):
    __slots__ = ("count", "explicit")
    class Explicit(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXPLICIT_FIELD_NUMBER: _ClassVar[int]
    count: int
    explicit: Retention.Explicit
    def __init__(self, count: _Optional[int] = ..., explicit: _Optional[_Union[Retention.Explicit, _Mapping[_Any, _Any]]] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("restoring", "opened", "part")
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    restoring: Restoring
    opened: Opened
    part: OpenedPart
    def __init__(self, restoring: _Optional[_Union[Restoring, _Mapping[_Any, _Any]]] = ..., opened: _Optional[_Union[Opened, _Mapping[_Any, _Any]]] = ..., part: _Optional[_Union[OpenedPart, _Mapping[_Any, _Any]]] = ...) -> None: ...

class OpenedPart(_message.Message):
    __slots__ = ("states", "parts", "skipped")
    STATES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    parts: _containers.RepeatedCompositeFieldContainer[RestoredPart]
    skipped: _containers.RepeatedCompositeFieldContainer[DamagedCheckpoint]
    def __init__(self, states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ..., parts: _Optional[_Iterable[_Union[RestoredPart, _Mapping[_Any, _Any]]]] = ..., skipped: _Optional[_Iterable[_Union[DamagedCheckpoint, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class Restoring(_message.Message):
    __slots__ = ("bytes_done", "bytes_total", "changes", "eta_ms")
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    ETA_MS_FIELD_NUMBER: _ClassVar[int]
    bytes_done: int
    bytes_total: int
    changes: int
    eta_ms: int
    def __init__(self, bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., changes: _Optional[int] = ..., eta_ms: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("backend", "checkpoint", "applied_to", "states", "attachment", "reconnected", "key_groups", "max_parallelism", "key_group_assignment", "restored_changes", "restored_bytes", "last_checkpoint_id", "parts", "warm", "not_warm", "skipped", "self_sustained_since", "coordinated", "attempt")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_TO_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    RECONNECTED_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    RESTORED_CHANGES_FIELD_NUMBER: _ClassVar[int]
    RESTORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    NOT_WARM_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SELF_SUSTAINED_SINCE_FIELD_NUMBER: _ClassVar[int]
    COORDINATED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    applied_to: int
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    attachment: bytes
    reconnected: bool
    key_groups: _backend_pb2.KeyGroupRange
    max_parallelism: int
    key_group_assignment: KeyGroupAssignment
    restored_changes: int
    restored_bytes: int
    last_checkpoint_id: int
    parts: _containers.RepeatedCompositeFieldContainer[RestoredPart]
    warm: bool
    not_warm: str
    skipped: _containers.RepeatedCompositeFieldContainer[DamagedCheckpoint]
    self_sustained_since: int
    coordinated: bool
    attempt: int
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ..., applied_to: _Optional[int] = ..., states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ..., attachment: _Optional[bytes] = ..., reconnected: _Optional[bool] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., max_parallelism: _Optional[int] = ..., key_group_assignment: _Optional[_Union[KeyGroupAssignment, str]] = ..., restored_changes: _Optional[int] = ..., restored_bytes: _Optional[int] = ..., last_checkpoint_id: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[RestoredPart, _Mapping[_Any, _Any]]]] = ..., warm: _Optional[bool] = ..., not_warm: _Optional[str] = ..., skipped: _Optional[_Iterable[_Union[DamagedCheckpoint, _Mapping[_Any, _Any]]]] = ..., self_sustained_since: _Optional[int] = ..., coordinated: _Optional[bool] = ..., attempt: _Optional[int] = ...) -> None: ...

class RestoredPart(_message.Message):
    __slots__ = ("subtask", "checkpoint", "key_groups", "attachment")
    SUBTASK_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    subtask: int
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    key_groups: _backend_pb2.KeyGroupRange
    attachment: bytes
    def __init__(self, subtask: _Optional[int] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., attachment: _Optional[bytes] = ...) -> None: ...

class RegisterStatesRequest(_message.Message):
    __slots__ = ("backend", "states", "changes")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.StateDescriptor]
    changes: _containers.RepeatedCompositeFieldContainer[_state_pb2.SchemaChange]
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., states: _Optional[_Iterable[_Union[_state_pb2.StateDescriptor, _Mapping[_Any, _Any]]]] = ..., changes: _Optional[_Iterable[_Union[_state_pb2.SchemaChange, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class RegisterStatesResponse(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    def __init__(self, states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class ApplyBatchRequest(_message.Message):
    __slots__ = ("backend", "batch", "numbered")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    NUMBERED_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    batch: _session_pb2.Batch
    numbered: bool
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., batch: _Optional[_Union[_session_pb2.Batch, _Mapping[_Any, _Any]]] = ..., numbered: _Optional[bool] = ...) -> None: ...

class ApplyBatchResponse(_message.Message):
    __slots__ = ("result", "acknowledgement")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    result: _session_pb2.BatchResult
    acknowledgement: _session_pb2.Acknowledgement
    def __init__(self, result: _Optional[_Union[_session_pb2.BatchResult, _Mapping[_Any, _Any]]] = ..., acknowledgement: _Optional[_Union[_session_pb2.Acknowledgement, _Mapping[_Any, _Any]]] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ("backend", "barrier")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    barrier: _checkpoint_pb2.Barrier
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., barrier: _Optional[_Union[_checkpoint_pb2.Barrier, _Mapping[_Any, _Any]]] = ...) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.CheckpointCompleted
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointCompleted, _Mapping[_Any, _Any]]] = ...) -> None: ...

class NotifyRequest(_message.Message):
    __slots__ = ("backend", "notice")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    notice: _checkpoint_pb2.Notice
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., notice: _Optional[_Union[_checkpoint_pb2.Notice, _Mapping[_Any, _Any]]] = ...) -> None: ...

class NotifyResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: _checkpoint_pb2.NoticeOutcome
    def __init__(self, outcome: _Optional[_Union[_checkpoint_pb2.NoticeOutcome, str]] = ...) -> None: ...

class PersistRequest(_message.Message):
    __slots__ = ("backend",)
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ...) -> None: ...

class PersistResponse(_message.Message):
    __slots__ = ("persisted_to",)
    PERSISTED_TO_FIELD_NUMBER: _ClassVar[int]
    persisted_to: int
    def __init__(self, persisted_to: _Optional[int] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("backend", "checkpoint")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ...) -> None: ...

class PinResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("backend", "checkpoint")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: bool
    def __init__(self, released: _Optional[bool] = ...) -> None: ...

class DiscardRequest(_message.Message):
    __slots__ = ("job", "handle", "checkpoint", "force")
    class NamedCheckpoint(_message.Message):
        __slots__ = ("backend", "checkpoint")
        BACKEND_FIELD_NUMBER: _ClassVar[int]
        CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
        backend: _backend_pb2.BackendId
        checkpoint: _checkpoint_pb2.CheckpointIdentity
        def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendId, _Mapping[_Any, _Any]]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    job: str
    handle: bytes
    checkpoint: DiscardRequest.NamedCheckpoint
    force: bool
    def __init__(self, job: _Optional[str] = ..., handle: _Optional[bytes] = ..., checkpoint: _Optional[_Union[DiscardRequest.NamedCheckpoint, _Mapping[_Any, _Any]]] = ..., force: _Optional[bool] = ...) -> None: ...

class DiscardResponse(_message.Message):
    __slots__ = ("checkpoints", "objects", "bytes")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    checkpoints: int
    objects: int
    bytes: int
    def __init__(self, checkpoints: _Optional[int] = ..., objects: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class MaterializeRequest(_message.Message):
    __slots__ = ("backend",)
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ...) -> None: ...

class MaterializeResponse(_message.Message):
    __slots__ = ("stored_bytes", "changes")
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    stored_bytes: int
    changes: int
    def __init__(self, stored_bytes: _Optional[int] = ..., changes: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("backend", "page_token")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    page_token: bytes
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., page_token: _Optional[bytes] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("backends", "next_page_token")
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    backends: _containers.RepeatedCompositeFieldContainer[BackendDescription]
    next_page_token: bytes
    def __init__(self, backends: _Optional[_Iterable[_Union[BackendDescription, _Mapping[_Any, _Any]]]] = ..., next_page_token: _Optional[bytes] = ...) -> None: ...

class DescribeJobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class DescribeJobResponse(_message.Message):
    __slots__ = ("operators", "checkpoints", "damaged", "generation", "commits")
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    operators: _containers.RepeatedCompositeFieldContainer[OperatorDescription]
    checkpoints: _containers.RepeatedCompositeFieldContainer[JobCheckpoint]
    damaged: _containers.RepeatedCompositeFieldContainer[DamagedCheckpoint]
    generation: JobGeneration
    commits: _containers.RepeatedCompositeFieldContainer[JobCheckpoint]
    def __init__(self, operators: _Optional[_Iterable[_Union[OperatorDescription, _Mapping[_Any, _Any]]]] = ..., checkpoints: _Optional[_Iterable[_Union[JobCheckpoint, _Mapping[_Any, _Any]]]] = ..., damaged: _Optional[_Iterable[_Union[DamagedCheckpoint, _Mapping[_Any, _Any]]]] = ..., generation: _Optional[_Union[JobGeneration, _Mapping[_Any, _Any]]] = ..., commits: _Optional[_Iterable[_Union[JobCheckpoint, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class JobGeneration(_message.Message):
    __slots__ = ("attempt", "restore", "tasks", "reported")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    REPORTED_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    restore: JobCheckpoint
    tasks: _containers.RepeatedCompositeFieldContainer[JobTasks]
    reported: _containers.RepeatedCompositeFieldContainer[ReportedCheckpoint]
    def __init__(self, attempt: _Optional[int] = ..., restore: _Optional[_Union[JobCheckpoint, _Mapping[_Any, _Any]]] = ..., tasks: _Optional[_Iterable[_Union[JobTasks, _Mapping[_Any, _Any]]]] = ..., reported: _Optional[_Iterable[_Union[ReportedCheckpoint, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class ReportedCheckpoint(_message.Message):
    __slots__ = ("checkpoint", "reports", "tasks")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    checkpoint: JobCheckpoint
    reports: int
    tasks: int
    def __init__(self, checkpoint: _Optional[_Union[JobCheckpoint, _Mapping[_Any, _Any]]] = ..., reports: _Optional[int] = ..., tasks: _Optional[int] = ...) -> None: ...

class JobTasks(_message.Message):
    __slots__ = ("operator", "parallelism")
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    operator: str
    parallelism: int
    def __init__(self, operator: _Optional[str] = ..., parallelism: _Optional[int] = ...) -> None: ...

class DeclareJobRequest(_message.Message):
    __slots__ = ("job", "attempt", "tasks", "latest", "checkpoint", "empty")
    class Latest(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Empty(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Given(_message.Message):
        __slots__ = ("id", "attempt")
        ID_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        id: int
        attempt: int
        def __init__(self, id: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    EMPTY_FIELD_NUMBER: _ClassVar[int]
    job: str
    attempt: int
    tasks: _containers.RepeatedCompositeFieldContainer[JobTasks]
    latest: DeclareJobRequest.Latest
    checkpoint: DeclareJobRequest.Given
    empty: DeclareJobRequest.Empty
    def __init__(self, job: _Optional[str] = ..., attempt: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[JobTasks, _Mapping[_Any, _Any]]]] = ..., latest: _Optional[_Union[DeclareJobRequest.Latest, _Mapping[_Any, _Any]]] = ..., checkpoint: _Optional[_Union[DeclareJobRequest.Given, _Mapping[_Any, _Any]]] = ..., empty: _Optional[_Union[DeclareJobRequest.Empty, _Mapping[_Any, _Any]]] = ...) -> None: ...

class DeclareJobResponse(_message.Message):
    __slots__ = ("restore", "new_operators", "number")
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    NEW_OPERATORS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    restore: JobCheckpoint
    new_operators: _containers.RepeatedScalarFieldContainer[str]
    number: int
    def __init__(self, restore: _Optional[_Union[JobCheckpoint, _Mapping[_Any, _Any]]] = ..., new_operators: _Optional[_Iterable[str]] = ..., number: _Optional[int] = ...) -> None: ...

class OperatorDescription(_message.Message):
    __slots__ = ("operator", "checkpoints")
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    operator: str
    checkpoints: _containers.RepeatedCompositeFieldContainer[OperatorCheckpoint]
    def __init__(self, operator: _Optional[str] = ..., checkpoints: _Optional[_Iterable[_Union[OperatorCheckpoint, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class OperatorCheckpoint(_message.Message):
    __slots__ = ("checkpoint", "parallelism", "missing_subtasks", "restorable", "completed")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    MISSING_SUBTASKS_FIELD_NUMBER: _ClassVar[int]
    RESTORABLE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    checkpoint: JobCheckpoint
    parallelism: int
    missing_subtasks: _containers.RepeatedScalarFieldContainer[int]
    restorable: bool
    completed: bool
    def __init__(self, checkpoint: _Optional[_Union[JobCheckpoint, _Mapping[_Any, _Any]]] = ..., parallelism: _Optional[int] = ..., missing_subtasks: _Optional[_Iterable[int]] = ..., restorable: _Optional[bool] = ..., completed: _Optional[bool] = ...) -> None: ...

class JobCheckpoint(_message.Message):
    __slots__ = ("attempt", "id")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    id: int
    def __init__(self, attempt: _Optional[int] = ..., id: _Optional[int] = ...) -> None: ...

class DamagedCheckpoint(_message.Message):
    __slots__ = ("checkpoint", "what")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: JobCheckpoint
    what: str
    def __init__(self, checkpoint: _Optional[_Union[JobCheckpoint, _Mapping[_Any, _Any]]] = ..., what: _Optional[str] = ...) -> None: ...

class BackendDescription(_message.Message):
    __slots__ = ("backend", "parallelism", "max_parallelism", "key_groups", "key_group_assignment", "inner", "attempt", "states", "checkpoints", "acknowledgement", "state_bytes", "pending_bytes", "log_bytes", "log_change_sets", "failsafe", "self_sustained_since")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PENDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_CHANGE_SETS_FIELD_NUMBER: _ClassVar[int]
    FAILSAFE_FIELD_NUMBER: _ClassVar[int]
    SELF_SUSTAINED_SINCE_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    parallelism: int
    max_parallelism: int
    key_groups: _backend_pb2.KeyGroupRange
    key_group_assignment: KeyGroupAssignment
    inner: InnerBackend
    attempt: int
    states: _containers.RepeatedCompositeFieldContainer[StateDescription]
    checkpoints: _containers.RepeatedCompositeFieldContainer[CheckpointDescription]
    acknowledgement: _session_pb2.Acknowledgement
    state_bytes: int
    pending_bytes: int
    log_bytes: int
    log_change_sets: int
    failsafe: str
    self_sustained_since: int
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ..., parallelism: _Optional[int] = ..., max_parallelism: _Optional[int] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., key_group_assignment: _Optional[_Union[KeyGroupAssignment, str]] = ..., inner: _Optional[_Union[InnerBackend, str]] = ..., attempt: _Optional[int] = ..., states: _Optional[_Iterable[_Union[StateDescription, _Mapping[_Any, _Any]]]] = ..., checkpoints: _Optional[_Iterable[_Union[CheckpointDescription, _Mapping[_Any, _Any]]]] = ..., acknowledgement: _Optional[_Union[_session_pb2.Acknowledgement, _Mapping[_Any, _Any]]] = ..., state_bytes: _Optional[int] = ..., pending_bytes: _Optional[int] = ..., log_bytes: _Optional[int] = ..., log_change_sets: _Optional[int] = ..., failsafe: _Optional[str] = ..., self_sustained_since: _Optional[int] = ...) -> None: ...

class StateDescription(_message.Message):
    __slots__ = ("state", "entries", "entries_at_least")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    state: _state_pb2.RegisteredState
    entries: int
    entries_at_least: bool
    def __init__(self, state: _Optional[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]] = ..., entries: _Optional[int] = ..., entries_at_least: _Optional[bool] = ...) -> None: ...

class CheckpointDescription(_message.Message):
    __slots__ = ("checkpoint", "handle", "completed", "pinned", "triggered_at_ms", "incremental_bytes")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    TRIGGERED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    INCREMENTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    handle: bytes
    completed: bool
    pinned: bool
    triggered_at_ms: int
    incremental_bytes: int
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ..., handle: _Optional[bytes] = ..., completed: _Optional[bool] = ..., pinned: _Optional[bool] = ..., triggered_at_ms: _Optional[int] = ..., incremental_bytes: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("start", "batch")
    START_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    start: QueryStart
    batch: QueryBatch
    def __init__(self, start: _Optional[_Union[QueryStart, _Mapping[_Any, _Any]]] = ..., batch: _Optional[_Union[QueryBatch, _Mapping[_Any, _Any]]] = ...) -> None: ...

class QueryStart(_message.Message):
    __slots__ = ("backend", "view")
    class View(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VIEW_UNSPECIFIED: _ClassVar[QueryStart.View]
        VIEW_APPLIED: _ClassVar[QueryStart.View]
        VIEW_COMPLETED: _ClassVar[QueryStart.View]
    VIEW_UNSPECIFIED: QueryStart.View
    VIEW_APPLIED: QueryStart.View
    VIEW_COMPLETED: QueryStart.View
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendId
    view: QueryStart.View
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendId, _Mapping[_Any, _Any]]] = ..., view: _Optional[_Union[QueryStart.View, str]] = ...) -> None: ...

class QueryBatch(_message.Message):
    __slots__ = ("number", "operations")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    number: int
    operations: _containers.RepeatedCompositeFieldContainer[_state_pb2.Operation]
    def __init__(self, number: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[_state_pb2.Operation, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("started", "result", "failed", "states")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    started: QueryStarted
    result: QueryResult
    failed: QueryFailed
    states: QueryStates
    def __init__(self, started: _Optional[_Union[QueryStarted, _Mapping[_Any, _Any]]] = ..., result: _Optional[_Union[QueryResult, _Mapping[_Any, _Any]]] = ..., failed: _Optional[_Union[QueryFailed, _Mapping[_Any, _Any]]] = ..., states: _Optional[_Union[QueryStates, _Mapping[_Any, _Any]]] = ...) -> None: ...

class QueryStates(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    def __init__(self, states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ...) -> None: ...

class QueryStarted(_message.Message):
    __slots__ = ("states", "key_groups", "max_parallelism", "key_group_assignment")
    STATES_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUP_ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    key_groups: _backend_pb2.KeyGroupRange
    max_parallelism: int
    key_group_assignment: KeyGroupAssignment
    def __init__(self, states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., max_parallelism: _Optional[int] = ..., key_group_assignment: _Optional[_Union[KeyGroupAssignment, str]] = ...) -> None: ...

class QueryResult(_message.Message):
    __slots__ = ("number", "results", "checkpoint", "applied_to")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_TO_FIELD_NUMBER: _ClassVar[int]
    number: int
    results: _containers.RepeatedCompositeFieldContainer[_state_pb2.OperationResult]
    checkpoint: _checkpoint_pb2.CheckpointIdentity
    applied_to: int
    def __init__(self, number: _Optional[int] = ..., results: _Optional[_Iterable[_Union[_state_pb2.OperationResult, _Mapping[_Any, _Any]]]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.CheckpointIdentity, _Mapping[_Any, _Any]]] = ..., applied_to: _Optional[int] = ...) -> None: ...

class QueryFailed(_message.Message):
    __slots__ = ("number", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: _error_pb2.Error
    def __init__(self, number: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping[_Any, _Any]]] = ...) -> None: ...

class ReadCheckpointRequest(_message.Message):
    __slots__ = ("handle", "key_groups", "states")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    handle: bytes
    key_groups: _backend_pb2.KeyGroupRange
    states: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, handle: _Optional[bytes] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., states: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadCheckpointResponse(_message.Message):
    __slots__ = ("header", "page")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    header: CheckpointHeader
    page: CheckpointPage
    def __init__(self, header: _Optional[_Union[CheckpointHeader, _Mapping[_Any, _Any]]] = ..., page: _Optional[_Union[CheckpointPage, _Mapping[_Any, _Any]]] = ...) -> None: ...

class CheckpointHeader(_message.Message):
    __slots__ = ("states", "key_groups", "attachment", "max_parallelism")
    STATES_FIELD_NUMBER: _ClassVar[int]
    KEY_GROUPS_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLELISM_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_state_pb2.RegisteredState]
    key_groups: _backend_pb2.KeyGroupRange
    attachment: bytes
    max_parallelism: int
    def __init__(self, states: _Optional[_Iterable[_Union[_state_pb2.RegisteredState, _Mapping[_Any, _Any]]]] = ..., key_groups: _Optional[_Union[_backend_pb2.KeyGroupRange, _Mapping[_Any, _Any]]] = ..., attachment: _Optional[bytes] = ..., max_parallelism: _Optional[int] = ...) -> None: ...

class CheckpointPage(_message.Message):
    __slots__ = ("key_group", "state", "entries", "continued")
    KEY_GROUP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CONTINUED_FIELD_NUMBER: _ClassVar[int]
    key_group: int
    state: int
    entries: _containers.RepeatedCompositeFieldContainer[StoredEntry]
    continued: bool
    def __init__(self, key_group: _Optional[int] = ..., state: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[StoredEntry, _Mapping[_Any, _Any]]]] = ..., continued: _Optional[bool] = ...) -> None: ...

class StoredEntry(_message.Message):
    __slots__ = ("key", "namespace", "value", "entries", "elements", "times", "touched_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    namespace: bytes
    value: bytes
    entries: _containers.RepeatedCompositeFieldContainer[StoredMapEntry]
    elements: _containers.RepeatedScalarFieldContainer[bytes]
    times: _containers.RepeatedScalarFieldContainer[int]
    touched_ms: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, key: _Optional[bytes] = ..., namespace: _Optional[bytes] = ..., value: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[StoredMapEntry, _Mapping[_Any, _Any]]]] = ..., elements: _Optional[_Iterable[bytes]] = ..., times: _Optional[_Iterable[int]] = ..., touched_ms: _Optional[_Iterable[int]] = ...) -> None: ...

class StoredMapEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("backend",)
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    backend: _backend_pb2.BackendRef
    def __init__(self, backend: _Optional[_Union[_backend_pb2.BackendRef, _Mapping[_Any, _Any]]] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ("closed",)
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    closed: bool
    def __init__(self, closed: _Optional[bool] = ...) -> None: ...
