"""State of Quix Streams applications, kept in dstl instead of RocksDB on the local disk.

```python
app = Application(broker_address="kafka:9092", consumer_group="word-count")
keep_state_in_dstl(app, "/run/dstl/dstl.sock")
```

Every partition of a store is a backend of its own, in a job of its own (`job_name`), so that it moves between hosts alone, as a rebalance
wants. What a checkpoint of Quix flushes is one checkpoint of dstl, restorable on any host once `flush` returns.

All that Quix does above its engine (transactions, counters, TTL, the retention of windows) is Quix's own code: the classes here are its
classes, and what they have of `rocksdict` (`Rdict`, `WriteBatch`, `ReadOptions`) is replaced by counterparts that speak to the daemon. A
column family is a map of dstl, ordered by the bytes of its keys.

Needs `dstl[quixstreams]` (Quix Streams 3.23.7 to 3.25).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from quixstreams.state.exceptions import StoreAlreadyRegisteredError
from quixstreams.state.manager import DEFAULT_STATE_STORE_NAME, StateStoreManager
from quixstreams.state.rocksdb import RocksDBStore, RocksDBStorePartition
from quixstreams.state.rocksdb.timestamped import TimestampedStore, TimestampedStorePartition
from quixstreams.state.rocksdb.windowed.partition import WindowedRocksDBStorePartition
from quixstreams.state.rocksdb.windowed.store import WindowedRocksDBStore

from . import BYTES, STR, Backend, Client, DstlError, Inner, LimitExceededError, MapState, Session, connect

__all__ = [
    "DstlStateStoreManager",
    "DstlStore",
    "DstlStorePartition",
    "DstlTimestampedStore",
    "DstlTimestampedStorePartition",
    "DstlWindowedStore",
    "DstlWindowedStorePartition",
    "StateInDstl",
    "job_name",
    "keep_state_in_dstl",
]

logger = logging.getLogger(__name__)

_OPERATOR = "store"
_MISSES = 32
"""After so many partitions without state `clear_stores` looks no further."""


def keep_state_in_dstl(app: Any, socket: str | os.PathLike[str] | None = None, **options: Any) -> None:
    """Lets an application keep its state in the daemon at `socket`; call it before the first dataframe is made.

    `options` are those of `StateInDstl`. Stateful sources keep their own state where it was. Raises `RuntimeError` if stores are registered
    already, and `ConnectionLostError` if no daemon answers.
    """
    manager = app._state_manager
    if manager.stores:
        raise RuntimeError("the application has stores already: call keep_state_in_dstl before its first dataframe is made")
    state = StateInDstl(socket, group=app.config.consumer_group, **options)
    app._state_manager = app._processing_context.state_manager = DstlStateStoreManager.instead_of(manager, state)


def job_name(group: str, stream: str | None, store: str, partition: int) -> str:
    """The job that keeps a partition of a store: readable, and another one for every other partition."""
    exact = "\0".join((group, stream or "", store, str(partition)))
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", ".".join(filter(None, (group, stream, store))))
    return f"{readable[:150]}.{partition}-{hashlib.sha256(exact.encode()).hexdigest()[:12]}"


class StateInDstl:
    """A daemon, and how partitions are opened in it. It connects when the first one is, and any thread may use it.

    * `group` names the application: its consumer group.
    * `wait`: seconds to wait for a daemon that is not there yet.
    * `inner`: where the daemon keeps the state, by default as it is configured.
    * `retain`: how many checkpoints of a partition stay restorable.
    * `cache_bytes`: how much of each partition's latest reads and writes this process remembers, to save round trips.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        group: str,
        wait: float = 10.0,
        inner: Inner = Inner.DEFAULT,
        retain: int = 2,
        cache_bytes: int = 16 << 20,
    ) -> None:
        self.group, self.cache_bytes = group, cache_bytes
        self._socket, self._wait, self._inner, self._retain = socket, wait, inner, retain
        self._lock = threading.Lock()
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The connection."""
        with self._lock:
            if self._client is None:
                self._client = connect(self._socket, wait=self._wait)
            return self._client

    def open(self, job: str) -> Backend:
        """Takes a partition over, from whoever had it, with its latest checkpoint; it begins empty where there is none."""
        token = uuid.uuid4().bytes
        return self.client.open(job, _OPERATOR, attempt_token=token, inner=self._inner, retain=self._retain)

    def discard(self, job: str) -> bool:
        """Lets go of all that a partition has; returns whether the store knows it."""
        if not self.client.describe_job(job).operators:
            return False
        self.client.discard_job(job)
        return True

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


class _Batch:
    """A `WriteBatch`: what a transaction changes."""

    def __init__(self, raw_mode: bool = True) -> None:
        del raw_mode
        self.changes: dict[tuple[str, bytes], bytes | None] = {}

    def put(self, key: bytes, value: bytes, family: str = "default") -> None:
        """Sets an entry."""
        self.changes[family, key] = value

    def delete(self, key: bytes, family: str = "default") -> None:
        """Removes an entry."""
        self.changes[family, key] = None

    def size_in_bytes(self) -> int:
        """How large it is, about."""
        return sum(len(key) + len(value or b"") for (_, key), value in self.changes.items())

    def __len__(self) -> int:
        return len(self.changes)

    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not self.changes

    def clear(self) -> None:
        """Forgets all of it."""
        self.changes.clear()


class _Bounds:
    """`ReadOptions`: the range of an iteration."""

    def __init__(self) -> None:
        self.lower, self.upper = b"", b""

    def set_iterate_lower_bound(self, bound: bytes) -> None:
        """The first key, inclusive."""
        self.lower = bound

    def set_iterate_upper_bound(self, bound: bytes) -> None:
        """The last key, exclusive."""
        self.upper = bound

    def __getattr__(self, name: str) -> Any:
        # The others are hints for RocksDB.
        if name.startswith("set_"):
            return lambda *arguments: None
        raise AttributeError(name)


class _Cache:
    """Entries that were read or written last, up to a number of bytes. Nobody else writes them: another owner would fence this one."""

    _OVERHEAD = 100

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._entries: OrderedDict[tuple[str, bytes], bytes | None] = OrderedDict()

    def get(self, place: tuple[str, bytes]) -> tuple[bool, bytes | None]:
        """Whether it is known, and what it is."""
        if place not in self._entries:
            return False, None
        self._entries.move_to_end(place)
        return True, self._entries[place]

    def put(self, place: tuple[str, bytes], value: bytes | None) -> None:
        """Remembers an entry, or that there is none."""
        if place in self._entries:
            self._bytes -= self._size(place, self._entries.pop(place))
        self._entries[place] = value
        self._bytes += self._size(place, value)
        while self._bytes > self._most and self._entries:
            self._bytes -= self._size(*self._entries.popitem(last=False))

    def _size(self, place: tuple[str, bytes], value: bytes | None) -> int:
        return self._OVERHEAD + len(place[1]) + len(value or b"")


class _Family:
    """A column family, as `Rdict` has them."""

    def __init__(self, database: _Database, name: str) -> None:
        self._database, self._name = database, name

    def get(self, key: bytes, default: Any = None) -> Any:
        """The value of a key."""
        value = self._database.get(self._name, key)
        return default if value is None else value

    def __contains__(self, key: bytes) -> bool:
        return self._database.get(self._name, key) is not None

    def items(
        self, backwards: bool = False, from_key: bytes | None = None, read_opt: _Bounds | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries in order, from `from_key` on (inclusive), within the bounds."""
        bounds = read_opt or _Bounds()
        lower, upper = bounds.lower, bounds.upper or None
        if backwards:
            if from_key is not None and (upper is None or from_key < upper):
                upper = from_key + b"\0"
            return reversed(list(self._database.entries(self._name, lower, upper)))
        return self._database.entries(self._name, max(lower, from_key or b""), upper)

    def keys(
        self, backwards: bool = False, from_key: bytes | None = None, read_opt: _Bounds | None = None
    ) -> Iterator[bytes]:
        """The keys of `items`."""
        return (key for key, _ in self.items(backwards, from_key, read_opt))


class _Database:
    """An `Rdict`: one partition, as its only writer has it."""

    def __init__(self, state: StateInDstl, job: str) -> None:
        self._limits = state.client.limits
        self._cache = _Cache(state.cache_bytes)
        self._backend = backend = state.open(job)
        try:
            self._entries: MapState[str, bytes, bytes] = backend.map_state("families", STR, BYTES, BYTES)
            self._session: Session = backend.session()
            self._families = {"default", *self._entries.keys()}
        except BaseException:
            backend.close()
            raise
        restored = backend.checkpoint.id if backend.checkpoint else 0
        self._last = max(restored, backend.last_checkpoint_id)
        self._is_ahead = False

    # As `Rdict` has them.

    def get_column_family(self, name: str) -> _Family:
        """A column family; there is one of every name."""
        self._families.add(name)
        return _Family(self, name)

    def create_column_family(self, name: str, options: Any = None) -> _Family:
        """The same."""
        del options
        return self.get_column_family(name)

    def get_column_family_handle(self, name: str) -> str:
        """What batches take."""
        return name

    def drop_column_family(self, name: str) -> None:
        """Removes all of a column family."""
        self._entries.clear(name)
        self._families.discard(name)
        self._cache = _Cache(self._cache._most)

    def list_cf(self, path: str = "", options: Any = None) -> list[str]:
        """The names of column families."""
        del path, options
        return sorted(self._families)

    def write(self, batch: _Batch, durable: bool = True) -> None:
        """Carries out a batch; with `durable` it, and all before it, is restorable when this returns.

        One that is longer than a message goes in several parts. Nobody sees some without the others: what is restored is always what
        was there at the end of a call.
        """
        most_bytes, most = self._limits.max_message_bytes // 2, self._limits.max_batch_operations
        part, receipts = self._session.batch(), []
        for (family, key), value in batch.changes.items():
            length = len(key) + len(value or b"") + len(family) + 64
            if len(part) and (part._bytes + length > most_bytes or len(part) >= most):
                receipts.append(self._session.send(part))
                part = self._session.batch()
            if value is None:
                part.map_remove(self._entries, family, key)
            else:
                part.map_put(self._entries, family, key, value)
        if len(part):
            receipts.append(self._session.send(part))
        self._is_ahead = True
        for place, value in batch.changes.items():
            self._cache.put(place, value)
        if durable:
            for receipt in receipts:
                receipt.applied()
            self.checkpoint()

    def checkpoint(self) -> None:
        """Makes what was written restorable, on any host."""
        if self._is_ahead:
            self._last += 1
            self._session.complete(self._session.checkpoint(self._last))
            self._is_ahead = False

    def close(self) -> None:
        """Gives the partition up. What was written stays, unless another owner has it by now."""
        try:
            self.checkpoint()
            self._session.close()
        except DstlError as error:
            logger.warning("a partition is closed without its last writes: %s", error)
        try:
            self._backend.close()
        except DstlError as error:
            logger.warning("a partition is given up, but the daemon was not told: %s", error)

    # For families.

    def get(self, family: str, key: bytes) -> bytes | None:
        """A value."""
        place = (family, key)
        known, value = self._cache.get(place)
        if not known:
            try:
                value = self._entries.get(family, key)
            except LimitExceededError:
                # A key that is too long for the daemon was never written.
                return None
            self._cache.put(place, value)
        return value

    def entries(self, family: str, lower: bytes, upper: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Entries from `lower` on to before `upper`, in pages."""
        if upper is not None and lower >= upper:
            return iter(())
        return self._entries.entries(family, first=lower or None, end=upper)


def _with_counterparts(method: FunctionType) -> FunctionType:
    """The same method, with the counterparts of what it takes from `rocksdict`."""
    names = {**method.__globals__, "WriteBatch": _Batch, "ReadOptions": _Bounds}
    made = FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
    made.__kwdefaults__, made.__doc__, made.__qualname__ = method.__kwdefaults__, method.__doc__, method.__qualname__
    return made


class _Adapted(RocksDBStorePartition):
    """Quix's partition; those of its methods that make batches or ranges make those of this module."""


for _name, _method in vars(RocksDBStorePartition).items():
    if isinstance(_method, FunctionType) and {"WriteBatch", "ReadOptions"} & set(_method.__code__.co_names):
        setattr(_Adapted, _name, _with_counterparts(_method))


class DstlStorePartition(_Adapted):
    """A partition of a store, kept in the job `job`."""

    def __init__(self, path: str, *arguments: Any, state: StateInDstl, job: str, **keywords: Any) -> None:
        self.state, self.job = state, job
        self._is_recovering = False
        super().__init__(path, *arguments, **keywords)

    def _init_rocksdb(self) -> _Database:
        return _Database(self.state, self.job)

    def _write(self, batch: _Batch) -> None:
        self._db.write(batch, durable=not self._is_recovering)

    def recover_from_changelog_message(self, *arguments: Any, **keywords: Any) -> None:
        """See `StorePartition`. Many messages make one checkpoint: the offset of the changelog is restored with what they changed."""
        self._is_recovering = True
        try:
            super().recover_from_changelog_message(*arguments, **keywords)
        finally:
            self._is_recovering = False

    def write_changelog_offset(self, offset: int) -> None:
        """See `StorePartition`; likewise."""
        self._is_recovering = True
        try:
            super().write_changelog_offset(offset)
        finally:
            self._is_recovering = False


class DstlWindowedStorePartition(DstlStorePartition, WindowedRocksDBStorePartition):
    """A partition of a store of windows."""


class DstlTimestampedStorePartition(DstlStorePartition, TimestampedStorePartition):
    """A partition of a store for joins."""


class DstlStore(RocksDBStore):
    """A store, whose partitions are in `state`."""

    _partition_type: type[DstlStorePartition] = DstlStorePartition

    def __init__(self, *arguments: Any, state: StateInDstl, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.state = state

    def job(self, partition: int) -> str:
        """The job that keeps a partition."""
        return job_name(self.state.group, self._stream_id, self._name, partition)

    def create_new_partition(self, partition: int) -> DstlStorePartition:
        """See `Store`."""
        factory = self._changelog_producer_factory
        return self._partition_type(
            path=str(self._partitions_dir / str(partition)),
            options=self._options,
            changelog_producer=factory.get_partition_producer(partition) if factory else None,
            state=self.state,
            job=self.job(partition),
            **self._options_of_partitions(),
        )

    def _options_of_partitions(self) -> dict[str, Any]:
        return {}

    def destroy_partition(self, partition: int) -> bool:
        """See `Store`. Raises `InUseError` while it is open, here or in another process on this host."""
        return self.state.discard(self.job(partition))

    def destroy(self) -> None:
        """Lets go of all partitions."""
        partition = misses = 0
        while misses < _MISSES:
            misses = 0 if self.destroy_partition(partition) else misses + 1
            partition += 1


class DstlWindowedStore(DstlStore, WindowedRocksDBStore):
    """A store of windows."""

    _partition_type = DstlWindowedStorePartition


class DstlTimestampedStore(DstlStore, TimestampedStore):
    """A store for joins."""

    _partition_type = DstlTimestampedStorePartition

    def _options_of_partitions(self) -> dict[str, Any]:
        return {"grace_ms": self._grace_ms, "keep_duplicates": self._keep_duplicates}


class DstlStateStoreManager(StateStoreManager):
    """Registers stores in `state`; a store in memory stays one, if it is asked for by its class."""

    def __init__(self, *arguments: Any, state: StateInDstl, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.state = state

    @classmethod
    def instead_of(cls, manager: StateStoreManager, state: StateInDstl) -> DstlStateStoreManager:
        """One with all that another manager was made with."""
        made = cls.__new__(cls)
        made.__dict__.update(manager.__dict__)
        made.state = state
        return made

    def register_store(
        self,
        stream_id: str | None,
        store_name: str = DEFAULT_STATE_STORE_NAME,
        store_type: Any = None,
        changelog_config: Any = None,
    ) -> None:
        """See `StateStoreManager`."""
        kind = store_type or self.default_store_type
        if not issubclass(kind, RocksDBStore):
            super().register_store(stream_id, store_name, kind, changelog_config)
        elif store_name not in self._stores.get(stream_id, {}):
            self._add(DstlStore, stream_id, store_name, changelog_config)

    def register_windowed_store(self, stream_id: str, store_name: str, changelog_config: Any = None) -> None:
        """See `StateStoreManager`."""
        self._add(DstlWindowedStore, stream_id, store_name, changelog_config)

    def register_timestamped_store(
        self, stream_id: str, store_name: str, grace_ms: int, keep_duplicates: bool, changelog_config: Any = None
    ) -> None:
        """See `StateStoreManager`."""
        options = {"grace_ms": grace_ms, "keep_duplicates": keep_duplicates}
        self._add(DstlTimestampedStore, stream_id, store_name, changelog_config, **options)

    def _add(self, kind: type[DstlStore], stream: str | None, name: str, changelog_config: Any, **options: Any) -> None:
        if name in self._stores.get(stream, {}):
            raise StoreAlreadyRegisteredError(f"store `{name}` of stream `{stream}` is there already: give this one another name")
        store = kind(
            name=name,
            stream_id=stream,
            base_dir=str(self._state_dir),
            changelog_producer_factory=self._setup_changelogs(stream, name, topic_config=changelog_config),
            options=self._rocksdb_options,
            state=self.state,
            **options,
        )
        self._stores.setdefault(stream, {})[name] = store

    def clear_stores(self) -> None:
        """See `StateStoreManager`: lets go of the state of all registered stores, wherever it was written."""
        super().clear_stores()
        for stores in self._stores.values():
            for store in stores.values():
                if isinstance(store, DstlStore):
                    store.destroy()

    def close(self) -> None:
        """See `StateStoreManager`."""
        super().close()
        self.state.close()
