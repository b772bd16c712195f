"""Broken streams, killed daemons, and daemons that hang."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import dstl
from conftest import Relay
from dstl._core import wire
from dstl._core.outgoing import Outgoing
from dstl.proto import state_pb2
from dstl.testing import Daemon


@pytest.fixture
def inner():
    return dstl.Inner.HASHMAP


def test_every_batch_is_applied_once_although_streams_break(relay, job):
    chance = random.Random(1)
    with dstl.connect(relay.path) as client, client.open(job, "op", attempt=1) as backend:
        counts = backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
        with backend.session() as session:
            stop = threading.Event()

            def cut():
                while not stop.wait(chance.uniform(0.02, 0.2)):
                    if chance.random() < 0.5:
                        relay.holds_answers.set()
                        time.sleep(0.02)
                    relay.cut()

            cutter = threading.Thread(target=cut)
            cutter.start()
            expected = 0
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                counts.merge("one", 1)
                counts.merge_many(["many"] * 50, [1] * 50)
                expected += 1
                assert counts.get("one") == expected
            stop.set()
            cutter.join()
            session.flush()
            assert (counts.get("one"), counts.get("many")) == (expected, expected * 50)


def test_what_was_owed_when_a_stream_broke_is_answered(relay, job):
    with dstl.connect(relay.path) as client, client.open(job, "op", attempt=1) as backend:
        numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
        timers = backend.timer_state("timers", dstl.STR)
        session = backend.session()
        numbers.put("k", 1)
        completed = session.checkpoint(1)
        relay.holds_answers.set()
        pending = session.barrier(2)
        batch = session.batch()
        slot = batch.get(numbers, "k")
        receipt = session.send(batch)
        answers = []
        waiting = [
            threading.Thread(target=lambda: answers.append(session.complete(completed))),
            threading.Thread(target=lambda: answers.append(session.persist())),
        ]
        for thread in waiting:
            thread.start()
        time.sleep(0.3)
        relay.cut()
        for thread in waiting:
            thread.join(60)
        assert len(answers) == 2
        assert receipt.applied()[slot] == 1
        with pytest.raises(dstl.CheckpointInterruptedError, match="2"):
            pending.completed()
        assert session.checkpoint(3).id == 3
        # Timers that were fired without an answer are gone: the session says so, and ends.
        timers.register("k", 1)
        relay.holds_answers.set()
        fired = []

        def fire():
            try:
                timers.fire(5)
            except dstl.DstlError as error:
                fired.append(error)

        thread = threading.Thread(target=fire)
        asked = relay.asked_bytes
        thread.start()
        while relay.asked_bytes == asked:
            time.sleep(0.05)
        # The first bytes may be gRPC's own.
        time.sleep(0.5)
        relay.cut()
        thread.join(60)
        assert isinstance(fired[0], dstl.AnswerLostError)
        with pytest.raises(dstl.AnswerLostError):
            session.flush()
        session.abort()


def test_a_program_of_1000_tasks_survives_the_death_of_its_daemon():
    with Daemon() as daemon:
        asyncio.run(_killed(daemon))


async def _killed(daemon):
    job, tasks = "killed", 1000
    acknowledged = [0] * tasks
    confirmed = list(acknowledged)
    attempt, checkpoint_id, kills = 0, 0, 0
    client = await dstl.aio.connect(daemon.socket)
    while True:
        attempt += 1
        try:
            backend = await client.open(job, "op", attempt=attempt)
            counts = await backend.merging_state("counts", dstl.INT64, dstl.SUM_I64)
            session = await backend.session(reconnect_timeout=5)
        except dstl.ConnectionLostError:
            await asyncio.sleep(0.05)
            continue
        # What the completed checkpoint had is there; later writes are gone, and each task goes on from what is there.
        found = [value or 0 for value in await counts.get_many(list(range(tasks)))]
        assert all(have >= had for have, had in zip(found, confirmed))
        acknowledged = found
        if kills == 2:
            break

        async def work(number):
            while True:
                await counts.merge(number, 1)
                acknowledged[number] += 1

        async def checkpoints():
            nonlocal checkpoint_id, confirmed
            while True:
                checkpoint_id += 1
                before = list(acknowledged)
                await session.complete(await session.checkpoint(checkpoint_id))
                confirmed = before

        running = [asyncio.ensure_future(work(number)) for number in range(tasks)] + [asyncio.ensure_future(checkpoints())]
        while confirmed == found or sum(confirmed) == 0:
            await asyncio.sleep(0.05)
        daemon.kill()
        kills += 1
        done, pending = await asyncio.wait(running, timeout=60)
        assert not pending, f"{len(pending)} tasks hang"
        ends = (dstl.SessionLostError, dstl.CheckpointInterruptedError)
        assert all(isinstance(task.exception(), ends) for task in done)
        await asyncio.get_running_loop().run_in_executor(None, daemon.start)
    assert sum(acknowledged) > tasks
    await backend.close()
    await client.close()


def test_a_restarted_daemon_is_told_from_a_broken_stream(job):
    with Daemon() as daemon, daemon.client() as client:
        backend = client.open(job, "op", attempt=1)
        numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
        session = backend.session()
        numbers.put("k", 1)
        session.checkpoint(1)
        daemon.kill()
        daemon.start()
        with pytest.raises(dstl.DaemonRestartedError):
            for number in range(1000):
                numbers.put("k", number)
        with pytest.raises(dstl.SessionLostError):
            session.close()
        with client.open(job, "op", attempt=2) as backend:
            numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
            with backend.session():
                assert numbers.get("k") == 1


def test_a_daemon_that_is_gone_ends_the_session_in_time(job):
    with Daemon() as daemon, daemon.client() as client:
        backend = client.open(job, "op", attempt=1)
        numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
        session = backend.session(reconnect_timeout=1)
        pending = session.barrier(1)
        pending.completed()
        daemon.kill()
        with pytest.raises(dstl.UnreachableError, match="1 s"):
            numbers.put("k", 1)
        for call in (client.hello, lambda: client.open(job, "op", attempt=2), backend.close, client.describe):
            with pytest.raises(dstl.ConnectionLostError):
                call()


def test_a_daemon_that_is_gone_for_30_seconds_is_waited_for():
    # Longer than gRPC's connect timeout, its pauses, and the answer to a ping. Both ways of being gone, at the same time.
    with ThreadPoolExecutor() as pool:
        list(pool.map(_work_while_the_daemon_is_gone, ["cut off", "stopped"]))


def _work_while_the_daemon_is_gone(how):
    with Daemon() as daemon:
        relay = Relay(daemon)
        with dstl.connect(relay.path) as client, client.open("job", "op", attempt=1) as backend:
            counts = backend.merging_state("counts", dstl.STR, dstl.SUM_I64)
            with backend.session(reconnect_timeout=300) as session:
                acknowledged = [0] * 4

                def work(number):
                    for _ in range(50):
                        counts.merge(f"k{number}", 1)
                        acknowledged[number] += 1
                        time.sleep(0.01)

                threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
                for thread in threads:
                    thread.start()
                time.sleep(0.1)
                if how == "stopped":
                    daemon.pause()
                else:
                    relay.is_away.set()
                    relay.cut()
                time.sleep(30)
                assert any(thread.is_alive() for thread in threads)
                if how == "stopped":
                    daemon.resume()
                relay.is_away.clear()
                for thread in threads:
                    thread.join(120)
                assert acknowledged == [50] * 4
                assert counts.get_many([f"k{number}" for number in range(4)]) == acknowledged
                assert session.checkpoint(1).id == 1
        relay.close()


def test_a_daemon_that_hangs_is_waited_for(job):
    with Daemon() as daemon, daemon.client() as client:
        with client.open(job, "op", attempt=1) as backend:
            numbers = backend.value_state("numbers", dstl.STR, dstl.INT64)
            with backend.session():
                numbers.put("k", 1)
                daemon.pause()
                with pytest.raises(dstl.ConnectionLostError, match="in time"):
                    client.hello(timeout=0.5)
                threading.Timer(2, daemon.resume).start()
                numbers.put("k", 2)
                assert numbers.get("k") == 2


def test_an_exception_in_the_block_stays_the_exception(job):
    with Daemon() as daemon, daemon.client() as client:
        with pytest.raises(ZeroDivisionError):
            with client.open(job, "op", attempt=1) as backend, backend.session() as session:
                session.flush()
                daemon.kill()
                raise ZeroDivisionError


def test_a_full_daemon_pushes_back_and_says_so(job):
    # The smallest memory for state that it takes.
    with Daemon(settings=["memory.state=32 MiB"]) as daemon, daemon.client() as client:
        with client.open(job, "op", attempt=1, inner=dstl.Inner.HASHMAP) as backend:
            blobs = backend.value_state("blobs", dstl.INT64, dstl.BYTES)
            session = backend.session()
            with pytest.raises(dstl.StateMemoryError):
                for number in range(100):
                    blobs.put_many(list(range(number * 10, number * 10 + 10)), [bytes(100_000)] * 10).applied()
            assert len(blobs.get(0)) == 100_000
            session.abort()


def test_reads_that_are_asked_again_are_charged_for_their_own_states_alone() -> None:
    one, two = wire.Target(300), wire.Target(7, b"window")
    put, get = state_pb2.OPERATION_KIND_PUT, state_pb2.OPERATION_KIND_GET
    operations = [one.one(put, b"k", None, b"v"), two.one(get, b"k")]
    assert wire.states_of(operations) == {300, 7}
    batch = Outgoing(b"".join(operations), 2, reads=True, writes=True, states=frozenset({300, 7}))
    again = batch.reads_again(5)
    assert again is not None and again.states == {7} and not again.writes
