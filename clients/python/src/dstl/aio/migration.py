"""Migrations of a state whose serializers changed: the client reads what the old ones wrote, and writes it anew.

Each (key, namespace) is written to the new state and cleared in the old one in one batch, so that a crash leaves it in exactly one of them;
entries of a map go over page by page. Whoever calls again, in this process or the next, goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._core.batch import Batch
from .._core.wire import Target
from ..proto import service_pb2, session_pb2, state_pb2 as s

if TYPE_CHECKING:
    from .backend import Backend

PAGE = 100
"""Most keys, and entries of a map, that are read at a time."""
WRITTEN_BYTES = 256 << 10
"""Bytes from which on a batch of values is written."""


@dataclass
class OldKey:
    """One key and namespace that is to be rewritten."""

    key: bytes
    namespace: bytes
    key_group: int | None
    values: list[bytes] = field(default_factory=list)
    entries: list[tuple[bytes, bytes]] = field(default_factory=list)


async def migrate(
    backend: Backend,
    descriptor: s.StateDescriptor,
    handle: Callable[[s.RegisteredState], Any],
    put: Callable[[Any, OldKey, Batch], None],
) -> s.RegisteredState:
    """Registers a state, and rewrites entries in older schemas until there are none."""
    while True:
        registered = await backend.register(descriptor, s.SchemaChange.MODE_MIGRATE)
        if not registered.migrating_from:
            return registered
        token = b""
        while True:
            operation = Target(registered.migrating_from).other(
                s.OPERATION_KIND_KEYS, token=token, limit=_page(backend), all_namespaces=True
            )
            page = await _read(backend, operation)
            given = backend.opened.key_group_assignment == service_pb2.KEY_GROUP_ASSIGNMENT_GIVEN
            keys = [OldKey(at.key, at.namespace, at.key_group if given else None) for at in page.keys]
            if descriptor.kind == s.STATE_KIND_VALUE:
                await _rewrite_values(backend, registered, keys, handle(registered), put)
            else:
                for old in keys:
                    await _rewrite(backend, registered, old, handle(registered), put)
            token = page.token
            if not token:
                break


def _page(backend: Backend) -> int:
    """So many keys, or entries, that one batch can write each anew, and clear it."""
    return max(1, min(PAGE, (backend._client.limits.max_batch_operations - 1) // 2))


async def _rewrite_values(
    backend: Backend, registered: s.RegisteredState, keys: list[OldKey], state: Any, put: Callable[[Any, OldKey, Batch], None]
) -> None:
    """Rewrites a page of values by few batches."""
    old_state = registered.migrating_from
    while keys:
        reads = b"".join(Target(old_state, at.namespace, at.key_group).one(s.OPERATION_KIND_GET, at.key) for at in keys)
        answer = await backend.apply(session_pb2.Batch.FromString(reads))
        # Those that did not fit the answer are asked again.
        results = [result for result in answer.result.results if result.outcome != s.OUTCOME_ASK_AGAIN]
        batch = Batch(backend._client.limits, backend)
        for old, result in zip(keys, results):
            if batch._bytes > WRITTEN_BYTES:
                await backend.apply(session_pb2.Batch.FromString(batch.seal().operations))
                batch = Batch(backend._client.limits, backend)
            if result.found:
                old.values = [result.value]
                state._target = Target(registered.id, old.namespace, old.key_group)
                put(state, old, batch)
            batch._write(old_state, Target(old_state, old.namespace, old.key_group).one(s.OPERATION_KIND_CLEAR, old.key))
        await backend.apply(session_pb2.Batch.FromString(batch.seal().operations))
        keys = keys[len(results) :]


async def _rewrite(
    backend: Backend, registered: s.RegisteredState, old: OldKey, state: Any, put: Callable[[Any, OldKey, Batch], None]
) -> None:
    """Rewrites all of one key and namespace."""
    source = Target(registered.migrating_from, old.namespace, old.key_group)
    state._target = Target(registered.id, old.namespace, old.key_group)
    more = True
    while more:
        more = await _load(backend, registered.descriptor.kind, source, old)
        batch = Batch(backend._client.limits, backend)
        # Nothing where all of it has expired.
        if old.values or old.entries:
            put(state, old, batch)
        if more:
            for map_key, _ in old.entries:
                batch._write(source.state, source.one(s.OPERATION_KIND_MAP_REMOVE, old.key, map_key))
        else:
            batch._write(source.state, source.one(s.OPERATION_KIND_CLEAR, old.key))
        await backend.apply(session_pb2.Batch.FromString(batch.seal().operations))


async def _load(backend: Backend, kind: int, source: Target, old: OldKey) -> bool:
    """Reads what the old state has of a key; true if more follows once that is removed."""
    if kind == s.STATE_KIND_MAP:
        page = await _read(backend, source.other(s.OPERATION_KIND_MAP_ENTRIES, old.key, limit=_page(backend)))
        old.entries = [(entry.key, entry.value) for entry in page.entries]
        return page.more
    if kind == s.STATE_KIND_LIST:
        page = await _read(backend, source.other(s.OPERATION_KIND_LIST_GET, old.key))
        old.values = list(page.elements)
        while page.more:
            page = await _read(backend, source.other(s.OPERATION_KIND_LIST_GET, old.key, token=page.token))
            old.values += page.elements
        return False
    value = await _read(backend, source.one(s.OPERATION_KIND_GET, old.key))
    old.values = [value.value] if value.found else []
    return False


async def _read(backend: Backend, operation: bytes) -> s.OperationResult:
    """One read, beside the numbering of batches."""
    answer = await backend.apply(session_pb2.Batch.FromString(operation))
    return answer.result.results[0]
