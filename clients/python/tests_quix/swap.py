"""A plug-in for pytest that lets Quix's own suite run on dstl: its RocksDB classes are those of `dstl.quixstreams`, on a private daemon.

Tests that need a Kafka broker (in a container) are left out, and those in `EXCLUDED`, each with its reason.
"""

import sys

import pytest
import quixstreams.app  # noqa: F401  All modules that name the classes have to be there.
from quixstreams.state import manager
from quixstreams.state.rocksdb import RocksDBStore, RocksDBStorePartition, timestamped, windowed  # noqa: F401
from quixstreams.state.rocksdb.windowed import partition as windowed_partition, store as windowed_store

from dstl import quixstreams as ours
from dstl.testing import Daemon

FILES = "it is about files of RocksDB on the local disk"
EXCLUDED = {
    "test_rocksdb/test_lock_contention.py": FILES,
    "test_rocksdb_partition.py::TestRocksDBStorePartition::test_open_": FILES,
    "test_rocksdb_partition.py::TestRocksDBStorePartition::test_db_corrupted_": FILES,
    "test_rocksdb_partition.py::TestRocksDBStorePartition::test_destroy": FILES,
    "test_rocksdb_partition.py::TestRocksDBStorePartition::test_custom_options": FILES,
}

DAEMON = Daemon()
OPEN = []


class _State(ours.StateInDstl):
    """The same daemon for all, and other jobs for each folder that a test takes for its state."""

    def __init__(self, group):
        super().__init__(DAEMON.socket, group=str(group))

    @property
    def client(self):
        return _shared.get()

    def close(self):
        pass


class _Shared:
    client = None

    def get(self):
        if self.client is None:
            self.client = DAEMON.start().client()
        return self.client


_shared = _Shared()


def _partition(base):
    class Swapped(base):
        def __init__(self, path, *arguments, **keywords):
            keywords.setdefault("state", _State("partitions"))
            keywords.setdefault("job", ours.job_name("partitions", None, path, 0))
            super().__init__(path, *arguments, **keywords)
            OPEN.append(self)

    return Swapped


def _store(base, partition):
    class Swapped(base):
        _partition_type = partition

        def __init__(self, *arguments, **keywords):
            keywords.setdefault("state", _State(keywords.get("base_dir", "stores")))
            super().__init__(*arguments, **keywords)

    return Swapped


class _Manager(ours.DstlStateStoreManager):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, state=_State(keywords.get("state_dir")), **keywords)


PARTITION = _partition(ours.DstlStorePartition)
WINDOWED_PARTITION = _partition(ours.DstlWindowedStorePartition)
TIMESTAMPED_PARTITION = _partition(ours.DstlTimestampedStorePartition)
SWAPPED = {
    RocksDBStorePartition: PARTITION,
    windowed_partition.WindowedRocksDBStorePartition: WINDOWED_PARTITION,
    timestamped.TimestampedStorePartition: TIMESTAMPED_PARTITION,
    RocksDBStore: _store(ours.DstlStore, PARTITION),
    windowed_store.WindowedRocksDBStore: _store(ours.DstlWindowedStore, WINDOWED_PARTITION),
    timestamped.TimestampedStore: _store(ours.DstlTimestampedStore, TIMESTAMPED_PARTITION),
    manager.StateStoreManager: _Manager,
}

manager.SUPPORTED_STORES[:] = [SWAPPED.get(store, store) for store in manager.SUPPORTED_STORES]
for _name, _module in list(sys.modules.items()):
    if _name.partition(".")[0] == "quixstreams":
        for _attribute, _value in list(vars(_module).items()):
            if isinstance(_value, type) and _value in SWAPPED:
                setattr(_module, _attribute, SWAPPED[_value])


def pytest_collection_modifyitems(items):
    for item in items:
        if "kafka_container" in item.fixturenames:
            item.add_marker(pytest.mark.skip(reason="it needs a Kafka broker"))
        for part, reason in EXCLUDED.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logfinish():
    # Many tests close nothing: in one process of RocksDB that costs nothing.
    while OPEN:
        OPEN.pop().close()


def pytest_sessionfinish():
    DAEMON.stop()
