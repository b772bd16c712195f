"""An opened backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .._core.worker import Worker
from ..checkpoints import Checkpoint, CompletedCheckpoint, NoticeOutcome, RestoredPart
from ..errors import ClosedError, ProtocolError
from ..merging import Merge
from ..options import Redistribution, Ttl, expect, need
from ..proto import backend_pb2, checkpoint_pb2, service_pb2, session_pb2, state_pb2 as s
from ..serializers import BYTES, NONE, Serializer
from . import migration
from .face import Reply, finish
from .folds import AggregatingState, Folds
from .notices import Notices, named
from .session import Session
from .states import ListState, MapState, MergingState, TimerState, ValueState

if TYPE_CHECKING:
    from .client import Client

K = TypeVar("K")
N = TypeVar("N")
M = TypeVar("M")
V = TypeVar("V")
O = TypeVar("O")  # noqa: E741
I = TypeVar("I")  # noqa: E741
A = TypeVar("A")
R = TypeVar("R")


class Backend(Notices):
    """A backend as its owner has it; made by `client.open`.

    A context manager: leaving it closes it (`close`). States are registered once, at best before the session begins; all of them work
    through the backend's open session. Its notices need no session.
    """

    def __init__(self, client: Client, opened: service_pb2.Opened) -> None:
        self._client, self.opened, self._reference = client, opened, opened.backend
        self._touched: set[int] = set()
        self._session: Session | None = None
        self._folds: dict[int, Folds] = {}
        self._learn(list(opened.states))

    # What the restore told.

    @property
    def reference(self) -> backend_pb2.BackendRef:
        """Name and epoch."""
        return self._reference

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The restored checkpoint; `None` if it began empty or was found running."""
        return Checkpoint.of(self.opened.checkpoint) if self.opened.HasField("checkpoint") else None

    @property
    def attachment(self) -> bytes:
        """The attachment of the restored checkpoint, byte for byte; empty if it had none, or has several `parts`."""
        return self.opened.attachment

    @property
    def parts(self) -> list[RestoredPart]:
        """What subtasks had of the restored checkpoint, each with its attachment: one part, unless the operator was rescaled."""
        return [RestoredPart.of(part) for part in self.opened.parts]

    @property
    def reconnected(self) -> bool:
        """Whether the running backend of this very attempt was found: nothing was restored."""
        return self.opened.reconnected

    @property
    def attempt(self) -> int:
        """The attempt that it is open with: that of `open`, or the one that was taken for its `attempt_token`."""
        return self.opened.attempt

    @property
    def last_checkpoint_id(self) -> int:
        """The highest checkpoint id of this owner so far: the next barrier needs a higher one."""
        return self.opened.last_checkpoint_id

    @property
    def applied_to(self) -> int:
        """The batch number that was expected when it opened: 0, or more if it was found running."""
        return self.opened.applied_to

    @property
    def key_groups(self) -> tuple[int, int]:
        """First and last, both inclusive."""
        return self.opened.key_groups.first, self.opened.key_groups.last

    @property
    def max_parallelism(self) -> int:
        """The number of key groups."""
        return self.opened.max_parallelism

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """With `fallback`: ids of newer checkpoints that were skipped, newest first, and the damage."""
        return [(damaged.checkpoint.id, damaged.what) for damaged in self.opened.skipped]

    @property
    def state_names(self) -> list[str]:
        """The states that it had when it opened."""
        return list(dict.fromkeys(state.descriptor.name for state in self.opened.states))

    # States.

    async def value_state(
        self,
        name: str,
        key: Serializer[K],
        value: Serializer[V],
        *,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        default: V | None = None,
        compatible: bool = False,
    ) -> ValueState[K, V]:
        """Registers a state with one value per key. Idempotent, as every registration.

        `namespace` is the serializer of `in_namespace`. `ttl` is how long entries live. `default` is what `get_or_default` answers where
        there is no value. Raises `StateMismatchError` if the state was registered otherwise before: `compatible` says that these
        serializers read what the earlier ones wrote; else migrate (`migrate_values`).
        """
        descriptor = described(name, s.STATE_KIND_VALUE, key, namespace, value, ttl)
        if default is not None:
            descriptor.default_value = value.encode(default)
        registered = await self._register(descriptor, compatible)
        arguments = (registered, self._client.limits, key, namespace)
        return ValueState[K, V](*arguments, values=value, default=default).bind(self)

    async def merging_state(
        self,
        name: str,
        key: Serializer[K],
        merge: Merge[V, O],
        *,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        compatible: bool = False,
    ) -> MergingState[K, V, O]:
        """Registers a state with one value per key that the daemon merges operands into: `dstl.SUM_I64`, say."""
        need(merge, Merge, f"`merge` of state `{name}`")
        descriptor = described(name, s.STATE_KIND_VALUE, key, namespace, merge.value, ttl)
        descriptor.merge = merge.function  # type: ignore[assignment]
        registered = await self._register(descriptor, compatible)
        return MergingState[K, V, O](registered, self._client.limits, key, namespace, merge=merge).bind(self)

    async def map_state(
        self,
        name: str,
        key: Serializer[K],
        map_key: Serializer[M],
        value: Serializer[V],
        *,
        merge: Merge[V, Any] | None = None,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        compatible: bool = False,
    ) -> MapState[K, M, V]:
        """Registers a state with a map per key; with `merge`, the daemon merges operands into its entries."""
        descriptor = described(name, s.STATE_KIND_MAP, key, namespace, pair(map_key, value), ttl)
        expect(merge, Merge, f"`merge` of state `{name}`")
        if merge is not None:
            descriptor.merge = merge.function  # type: ignore[assignment]
        registered = await self._register(descriptor, compatible)
        return self._map(registered, key, map_key, value, namespace, merge)

    def _map(
        self, registered: s.RegisteredState, key: Any, map_key: Any, value: Any, namespace: Any, merge: Merge[Any, Any] | None
    ) -> MapState[Any, Any, Any]:
        limits, operands = self._client.limits, merge.operand if merge else None
        made = MapState[Any, Any, Any](registered, limits, key, namespace, map_keys=map_key, values=value, operands=operands)
        return made.bind(self)

    async def list_state(
        self,
        name: str,
        key: Serializer[K],
        value: Serializer[V],
        *,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        compatible: bool = False,
    ) -> ListState[K, V]:
        """Registers a state with a list per key."""
        registered = await self._register(described(name, s.STATE_KIND_LIST, key, namespace, value, ttl), compatible)
        return ListState[K, V](registered, self._client.limits, key, namespace, values=value).bind(self)

    @overload
    async def timer_state(self, name: str, key: Serializer[K], *, compatible: bool = False) -> TimerState[K, bytes]: ...

    @overload
    async def timer_state(
        self, name: str, key: Serializer[K], *, namespace: Serializer[N], compatible: bool = False
    ) -> TimerState[K, N]: ...

    async def timer_state(
        self, name: str, key: Serializer[K], *, namespace: Serializer[Any] = BYTES, compatible: bool = False
    ) -> TimerState[K, Any]:
        """Registers timers. Event time and processing time are two states; what a time means is the task's affair."""
        registered = await self._register(described(name, s.STATE_KIND_TIMER, key, namespace, NONE, None), compatible)
        return TimerState[K, Any](registered, self._client.limits, key, namespace).bind(self)

    async def reducing_state(
        self,
        name: str,
        key: Serializer[K],
        value: Serializer[V],
        function: Callable[[V, V], V],
        *,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        compatible: bool = False,
    ) -> AggregatingState[K, V, V, V]:
        """Registers a state with one value per key that `function` makes of the value before and each input, here in the client."""
        values = await self.value_state(name, key, value, namespace=namespace, ttl=ttl, compatible=compatible)
        missing: Any = object()

        def add(before: V, value: V) -> V:
            return value if before is missing else function(before, value)

        return AggregatingState(values, self._folds_of(values), lambda: missing, add, lambda accumulator: accumulator, function)

    async def aggregating_state(
        self,
        name: str,
        key: Serializer[K],
        accumulator: Serializer[A],
        *,
        start: Callable[[], A],
        add: Callable[[A, I], A],
        result: Callable[[A], R],
        merge: Callable[[A, A], A] | None = None,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
        compatible: bool = False,
    ) -> AggregatingState[K, I, A, R]:
        """Registers a state with one accumulator per key: `start` makes it, `add` folds an input into it, `result` reads it.

        `merge` makes one accumulator of two: `merge_namespaces` needs it.
        """
        values = await self.value_state(name, key, accumulator, namespace=namespace, ttl=ttl, compatible=compatible)
        return AggregatingState(values, self._folds_of(values), start, add, result, merge)

    def _folds_of(self, values: ValueState[Any, Any]) -> Folds:
        """One for each state, however often it is registered."""
        return self._folds.setdefault(values.id, Folds())

    async def operator_list(
        self, name: str, value: Serializer[V], redistribution: Redistribution = Redistribution.SPLIT, *, compatible: bool = False
    ) -> ListState[None, V]:
        """Registers operator state: a list of the subtask, with the key `None`. `SPLIT` or `UNION` says what a rescale does with it."""
        descriptor = described(name, s.STATE_KIND_LIST, NONE, NONE, value, None)
        need(redistribution, Redistribution, f"`redistribution` of state `{name}`")
        descriptor.redistribution = redistribution.value
        registered = await self._register(descriptor, compatible)
        return ListState[None, V](registered, self._client.limits, NONE, NONE, values=value).bind(self)

    async def broadcast_map(
        self, name: str, map_key: Serializer[M], value: Serializer[V], *, merge: Merge[V, Any] | None = None, compatible: bool = False
    ) -> MapState[None, M, V]:
        """Registers operator state: a map with the key `None` that is the same in every subtask."""
        descriptor = described(name, s.STATE_KIND_MAP, NONE, NONE, pair(map_key, value), None)
        descriptor.redistribution = s.REDISTRIBUTION_BROADCAST
        expect(merge, Merge, f"`merge` of state `{name}`")
        if merge is not None:
            descriptor.merge = merge.function  # type: ignore[assignment]
        return self._map(await self._register(descriptor, compatible), NONE, map_key, value, NONE, merge)

    async def migrate_values(
        self,
        name: str,
        key: Serializer[K],
        value: Serializer[V],
        *,
        old_key: Serializer[Any],
        old_value: Serializer[Any],
        rewrite: Callable[[Any, Any], tuple[K, V]],
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
    ) -> ValueState[K, V]:
        """Registers a state of values of which there may be entries in an older schema, and rewrites those.

        `rewrite` makes the new key and value of each old one. Before a session begins; it takes as long as reading and writing all old
        entries. After a crash, calling it again goes on. Each entry is in exactly one of both schemas at any time.
        """
        descriptor = described(name, s.STATE_KIND_VALUE, key, namespace, value, ttl)

        def put(state: Any, old: migration.OldKey, batch: Any) -> None:
            new_key, new_value = rewrite(old_key.decode(old.key), old_value.decode(old.values[0]))
            batch.put(state, new_key, new_value)

        def handle(registered: s.RegisteredState) -> ValueState[K, V]:
            return ValueState[K, V](registered, self._client.limits, key, namespace, values=value).bind(self)

        return handle(await migration.migrate(self, descriptor, handle, put))

    async def migrate_merging(
        self,
        name: str,
        key: Serializer[K],
        merge: Merge[V, O],
        *,
        old_key: Serializer[Any],
        old_value: Serializer[Any],
        rewrite: Callable[[Any, Any], tuple[K, V]],
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
    ) -> MergingState[K, V, O]:
        """The same for values that the daemon merges operands into; the function stays the one that it was."""
        need(merge, Merge, f"`merge` of state `{name}`")
        descriptor = described(name, s.STATE_KIND_VALUE, key, namespace, merge.value, ttl)
        descriptor.merge = merge.function  # type: ignore[assignment]

        def put(state: Any, old: migration.OldKey, batch: Any) -> None:
            new_key, new_value = rewrite(old_key.decode(old.key), old_value.decode(old.values[0]))
            batch.put(state, new_key, new_value)

        def handle(registered: s.RegisteredState) -> MergingState[K, V, O]:
            return MergingState[K, V, O](registered, self._client.limits, key, namespace, merge=merge).bind(self)

        return handle(await migration.migrate(self, descriptor, handle, put))

    async def migrate_maps(
        self,
        name: str,
        key: Serializer[K],
        map_key: Serializer[M],
        value: Serializer[V],
        *,
        old_key: Serializer[Any],
        old_map_key: Serializer[Any],
        old_value: Serializer[Any],
        rewrite: Callable[[Any, Any, Any], tuple[K, M, V]],
        merge: Merge[V, Any] | None = None,
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
    ) -> MapState[K, M, V]:
        """The same for maps: `rewrite` makes key, map key and value of those of each old entry."""
        expect(merge, Merge, f"`merge` of state `{name}`")
        descriptor = described(name, s.STATE_KIND_MAP, key, namespace, pair(map_key, value), ttl)
        if merge is not None:
            descriptor.merge = merge.function  # type: ignore[assignment]

        def put(state: Any, old: migration.OldKey, batch: Any) -> None:
            for entry_key, entry in old.entries:
                batch.map_put(state, *rewrite(old_key.decode(old.key), old_map_key.decode(entry_key), old_value.decode(entry)))

        def handle(registered: s.RegisteredState) -> MapState[K, M, V]:
            return self._map(registered, key, map_key, value, namespace, merge)

        return handle(await migration.migrate(self, descriptor, handle, put))

    async def migrate_lists(
        self,
        name: str,
        key: Serializer[K],
        value: Serializer[V],
        *,
        old_key: Serializer[Any],
        old_value: Serializer[Any],
        rewrite: Callable[[Any, list[Any]], tuple[K, list[V]]],
        namespace: Serializer[Any] = BYTES,
        ttl: Ttl | None = None,
    ) -> ListState[K, V]:
        """The same for lists: `rewrite` makes the new key and elements of each old list, which must fit one batch."""
        descriptor = described(name, s.STATE_KIND_LIST, key, namespace, value, ttl)

        def put(state: Any, old: migration.OldKey, batch: Any) -> None:
            new_key, elements = rewrite(old_key.decode(old.key), [old_value.decode(element) for element in old.values])
            batch.list_add_all(state, new_key, elements)

        def handle(registered: s.RegisteredState) -> ListState[K, V]:
            return ListState[K, V](registered, self._client.limits, key, namespace, values=value).bind(self)

        return handle(await migration.migrate(self, descriptor, handle, put))

    async def _register(self, descriptor: s.StateDescriptor, compatible: bool) -> s.RegisteredState:
        mode = s.SchemaChange.MODE_COMPATIBLE if compatible else None
        return await self.register(descriptor, mode)

    async def register(self, descriptor: s.StateDescriptor, mode: s.SchemaChange.Mode | None = None) -> s.RegisteredState:
        """Registers a state by its descriptor in the protocol, with what becomes of a different schema."""
        request = service_pb2.RegisterStatesRequest(backend=self._reference, states=[descriptor])
        if mode is not None:
            request.changes.append(s.SchemaChange(state=descriptor.name, mode=mode))
        answer: service_pb2.RegisterStatesResponse = await self._client._call("RegisterStates", request)
        if len(answer.states) != 1:
            raise ProtocolError(f"{len(answer.states)} registered states in answer to one")
        self._learn(list(answer.states))
        return answer.states[0]

    def _learn(self, states: list[s.RegisteredState]) -> None:
        """Reads of states with `update_on_read` cost write credit."""
        for state in states:
            if state.descriptor.ttl.update == s.Ttl.UPDATE_ON_READ_AND_WRITE:
                self._touched.add(state.id)
            else:
                self._touched.discard(state.id)

    # The session.

    async def session(self, *, reconnect_timeout: float = 30.0) -> Session:
        """Opens the writer's session; an older session of this backend ends.

        `reconnect_timeout` is for how many seconds a broken stream is tried again, on the same daemon process. After that, and when the
        daemon is another process, everything that waits fails with `SessionLostError`.
        """
        start = session_pb2.SessionStart(backend=self._reference)
        frame = session_pb2.SessionRequest(start=start).SerializeToString()
        connection, hello = self._client._connection, self._client._hello
        connection.guard()
        if not isinstance(reconnect_timeout, (int, float)):
            raise TypeError(f"`reconnect_timeout`: expected seconds, got {reconnect_timeout!r:.60}")
        worker = Worker(connection, hello, frame, self._touched, reconnect_timeout)
        reply = Reply()
        worker.start(reply)
        try:
            await finish(reply)
        except BaseException:
            worker.abort()
            raise
        self._session = Session(worker, self._client.limits, self)
        return self._session

    def writer(self) -> Session:
        """The open session."""
        self._client._connection.guard()
        if self._session is None:
            raise ClosedError("no session is open: states work through `backend.session()`")
        return self._session

    async def operate(self, operation: bytes, reads: bool, writes: bool, state: int) -> s.OperationResult | None:
        """Runs one operation through the session."""
        return await self.writer().operate(operation, reads, writes, state)

    async def operate_all(
        self, batches: list[tuple[bytes, int]], reads: bool, writes: bool, state: int
    ) -> list[s.OperationResult]:
        """Runs batches through the session."""
        return await self.writer().operate_all(batches, reads, writes, state)

    # Without a session.

    async def apply(self, batch: session_pb2.Batch, *, numbered: bool = False) -> service_pb2.ApplyBatchResponse:
        """Applies one batch of the protocol without a session, and waits for it; `numbered` checks its number."""
        request = service_pb2.ApplyBatchRequest(backend=self._reference, batch=batch, numbered=numbered)
        return await self._client._call("ApplyBatch", request)  # type: ignore[no-any-return]

    async def _notify(self, notice: checkpoint_pb2.Notice) -> NoticeOutcome:
        request = service_pb2.NotifyRequest(backend=self._reference, notice=notice)
        return NoticeOutcome((await self._client._call("Notify", request)).outcome)

    async def persist(self) -> int:
        """Makes everything that is applied durable, without making a restore point; returns `persisted_to`."""
        request = service_pb2.PersistRequest(backend=self._reference)
        return int((await self._client._call("Persist", request)).persisted_to)

    async def pin(self, checkpoint: Checkpoint | CompletedCheckpoint) -> None:
        """Keeps a checkpoint, whatever its retention says and under later owners too, until `release`. Idempotent."""
        request = service_pb2.PinRequest(backend=self._reference, checkpoint=named(checkpoint).to_proto())
        await self._client._call("Pin", request)

    async def release(self, checkpoint: Checkpoint | CompletedCheckpoint) -> bool:
        """Ends a pin; returns whether there was one."""
        request = service_pb2.ReleaseRequest(backend=self._reference, checkpoint=named(checkpoint).to_proto())
        return bool((await self._client._call("Release", request)).released)

    async def materialize(self) -> int:
        """Makes a snapshot of the state now, so that the changelog before it is no longer needed; returns its bytes on the store."""
        request = service_pb2.MaterializeRequest(backend=self._reference)
        return int((await self._client._call("Materialize", request)).stored_bytes)

    async def checkpoint_now(self, id: int, attachment: bytes = b"") -> CompletedCheckpoint:
        """One checkpoint without a session, of everything applied before."""
        request = service_pb2.CheckpointRequest(backend=self._reference)
        request.barrier.checkpoint_id, request.barrier.attachment = id, attachment
        return CompletedCheckpoint.of((await self._client._call("Checkpoint", request)).checkpoint)

    async def describe(self) -> service_pb2.BackendDescription:
        """What the backend consists of: states with their numbers of entries, checkpoints, sizes."""
        found = await describe(self._client, service_pb2.DescribeRequest(backend=self._reference))
        return found[0]

    async def close(self) -> bool:
        """Ends this owner: published checkpoints stay, all else is dropped. Returns whether the daemon had the backend."""
        if self._session is not None:
            self._session.abort()
        request = service_pb2.CloseRequest(backend=self._reference)
        return bool((await self._client._call("Close", request)).closed)

    async def __aenter__(self) -> Backend:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            await self.close()
        except Exception:
            # An error of the block says more than that its backend cannot be closed any more.
            if kind is None:
                raise


def described(
    name: str, kind: Any, key: Serializer[Any], namespace: Serializer[Any], value: Serializer[Any], ttl: Ttl | None
) -> s.StateDescriptor:
    """The descriptor of a state."""
    need(name, str, "the name of a state")
    for serializer in (key, namespace, value):
        if not isinstance(serializer, Serializer):
            raise TypeError(f"state `{name}`: expected a Serializer (as dstl.STR), got {serializer!r:.60}")
    descriptor = s.StateDescriptor(name=name, kind=kind)
    fields = (descriptor.key_serializer, descriptor.namespace_serializer, descriptor.value_serializer)
    for field, serializer in zip(fields, (key, namespace, value)):
        if serializer.id:
            field.id, field.version = serializer.id, serializer.version
    expect(ttl, Ttl, f"`ttl` of state `{name}`")
    if ttl is not None:
        descriptor.ttl.CopyFrom(ttl.to_proto())
    return descriptor


def pair(map_key: Serializer[Any], value: Serializer[Any]) -> Serializer[Any]:
    """The name of what a map holds: serializers of its keys and values together."""
    for serializer in (map_key, value):
        need(serializer, Serializer, "the keys and values of a map")
    version = map_key.version << 16 | value.version
    return Serializer(f"{map_key.id},{value.id}", value.encode, value.decode, version)


async def describe(client: Client, request: service_pb2.DescribeRequest) -> list[service_pb2.BackendDescription]:
    """All pages of a description."""
    described: list[service_pb2.BackendDescription] = []
    while True:
        page: service_pb2.DescribeResponse = await client._call("Describe", request)
        for description in page.backends:
            if described and described[-1].backend == description.backend:
                described[-1].states.extend(description.states)
            else:
                described.append(description)
        if not page.next_page_token:
            return described
        if page.next_page_token == request.page_token:
            raise ProtocolError("the daemon gave the same page of a description twice")
        request.page_token = page.next_page_token
