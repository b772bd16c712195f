"""`dstl.quixstreams` beside what Quix's own suite tests: applications, other owners, crashes, and what a restore gives."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from quixstreams import Application
from quixstreams.state.base.transaction import PartitionTransactionCache
from quixstreams.state.exceptions import StoreAlreadyRegisteredError
from quixstreams.state.memory import MemoryStore
from quixstreams.state.metadata import Marker

import dstl
from dstl import quixstreams as ours
from dstl.testing import Daemon


@pytest.fixture(scope="module")
def daemon():
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def state(daemon, request):
    state = ours.StateInDstl(daemon.socket, group=f"group/{request.node.name}")
    yield state
    state.close()


def store_of(state, kind=ours.DstlStore, **options):
    return kind(name="counts", stream_id="words", base_dir="unused", state=state, **options)


def test_an_application_keeps_its_state_in_the_daemon(daemon, tmp_path):
    app = Application(broker_address="localhost:1", consumer_group="word-count", state_dir=tmp_path, use_changelog_topics=False)
    ours.keep_state_in_dstl(app, daemon.socket)
    manager = app._processing_context.state_manager
    assert app._state_manager is manager and isinstance(manager, ours.DstlStateStoreManager)
    manager.register_store("words")
    manager.register_store("words")
    manager.register_windowed_store("words", "hourly")
    manager.register_timestamped_store("words", "join", grace_ms=1000, keep_duplicates=False)
    manager.register_store("words", "memory", store_type=MemoryStore)
    with pytest.raises(StoreAlreadyRegisteredError):
        manager.register_windowed_store("words", "hourly")
    with pytest.raises(RuntimeError, match="before"):
        ours.keep_state_in_dstl(app, daemon.socket)
    with manager:
        manager.on_partition_assign("words", 3, {})
        with manager.get_store("words").start_partition_transaction(3) as transaction:
            transaction.set("k", 1, prefix=b"p")
        with daemon.client() as client:
            assert client.describe_job(ours.job_name("word-count", "words", "default", 3)).operators[0].checkpoints
        manager.on_partition_revoke("words", 3)
        manager.clear_stores()
        with daemon.client() as client:
            assert not client.describe_job(ours.job_name("word-count", "words", "default", 3)).operators[0].checkpoints
    assert list(tmp_path.rglob("*.sst")) == []


def test_what_is_flushed_is_there_for_the_next_owner(state, daemon):
    first = store_of(state)
    partition = first.assign_partition(0)
    with first.start_partition_transaction(0) as transaction:
        for number in range(3000):
            transaction.set(f"k{number}", "x" * 1000, prefix=b"p")
    # Somebody else takes the partition over, without a word.
    other = ours.StateInDstl(daemon.socket, group=state.group, cache_bytes=0)
    second = store_of(other)
    second.assign_partition(0)
    with second.start_partition_transaction(0) as transaction:
        assert transaction.get("k2999", prefix=b"p") == "x" * 1000
        transaction.delete("k1", prefix=b"p")
    with second.start_partition_transaction(0) as transaction:
        assert not transaction.exists("k1", prefix=b"p")
    # The first one learns of it with its next write, and keeps from it nothing but a warning when it is closed.
    with pytest.raises(dstl.DstlError), first.start_partition_transaction(0) as transaction:
        transaction.set("k1", 1, prefix=b"p")
    first.close()
    assert partition.job == ours.job_name(state.group, "words", "counts", 0)
    assert len(list(second.partitions[0].iter_items(b"p", b"q"))) == 2999
    second.close()
    other.close()


def test_partitions_have_jobs_of_their_own():
    names = {
        ours.job_name(*parts)
        for parts in [("a", "b", "c", 0), ("a", "b", "c", 1), ("a.b", None, "c", 0), ("a", "b.c", "", 0), ("a/b", None, "c", 0), ("ü" * 300, "b", "c", 0)]
    }
    assert len(names) == 6 and all(len(name) < 200 and name.isascii() and "/" not in name for name in names)


def test_a_recovery_makes_few_checkpoints_and_knows_its_offset(state):
    store = store_of(state)
    partition = store.assign_partition(0)
    for offset in range(500):
        partition.recover_from_changelog_message(b"k%d" % (offset % 50), b"v%d" % offset, "default", offset)
    partition.recover_from_changelog_message(b"k1", None, "default", 500)
    partition.write_changelog_offset(501)
    assert (partition.get(b"k49"), partition.get(b"k1"), partition.get_changelog_offset()) == (b"v499", Marker.UNDEFINED, 501)
    store.revoke_partition(0)
    partition = store.assign_partition(0)
    assert partition._db._last == 1
    assert (partition.get(b"k49"), partition.get(b"k1"), partition.get_changelog_offset()) == (b"v499", Marker.UNDEFINED, 501)
    store.close()


def test_a_cache_is_never_stale_and_stays_small(daemon, state):
    for most in (0, 3000, 1 << 20):
        small = ours.StateInDstl(daemon.socket, group=f"{state.group}-{most}", cache_bytes=most)
        partition = store_of(small).assign_partition(0)
        for turn in range(3):
            changes = PartitionTransactionCache()
            for number in range(100):
                if (number + turn) % 3:
                    changes.set(b"k%d" % number, b"%d" % turn, prefix=b"")
                else:
                    changes.delete(b"k%d" % number, prefix=b"")
            partition.write(changes, None)
            for number in range(100):
                expected = b"%d" % turn if (number + turn) % 3 else Marker.UNDEFINED
                assert partition.get(b"k%d" % number) == expected and partition.exists(b"k%d" % number) == (expected is not Marker.UNDEFINED)
        assert partition._db._cache._bytes <= most
        partition.close()
        small.close()


PROGRAM = """
import sys
from dstl import quixstreams as ours

state = ours.StateInDstl(sys.argv[1], group="killed")
store = ours.DstlStore(name="counts", stream_id="words", base_dir="unused", state=state)
store.assign_partition(0)
while True:
    with store.start_partition_transaction(0) as transaction:
        n = transaction.get("n", prefix=b"p", default=0) + 1
        transaction.set("n", n, prefix=b"p")
        for number in range(20):
            transaction.set(f"k{number}", n, prefix=b"p")
    print(n, flush=True)
"""


def test_nothing_that_was_flushed_is_lost_whoever_is_killed(tmp_path):
    with Daemon() as daemon:
        (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
        flushed = 0
        for victim in ("program", "daemon", "program"):
            program = subprocess.Popen([sys.executable, "-W", "ignore", str(tmp_path / "program.py"), daemon.socket], stdout=subprocess.PIPE, text=True)
            first = int(program.stdout.readline())
            # One more may have been flushed than was told.
            assert flushed + 1 <= first <= flushed + 2
            for flushed in range(first, first + 30):
                assert int(program.stdout.readline() if flushed > first else first) == flushed
            if victim == "program":
                os.kill(program.pid, signal.SIGKILL)
            else:
                daemon.kill()
                daemon.start()
            flushed = int(([flushed] + program.stdout.read().split())[-1])
            assert program.wait(120) != 0
        state = ours.StateInDstl(daemon.socket, group="killed")
        store = store_of(state)
        store.assign_partition(0)
        with store.start_partition_transaction(0) as transaction:
            found = {transaction.get(f"k{number}", prefix=b"p") for number in range(20)} | {transaction.get("n", prefix=b"p")}
        assert len(found) == 1 and found.pop() in (flushed, flushed + 1)
        store.close()
        state.close()
