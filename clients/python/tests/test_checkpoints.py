"""Checkpoints, restores of all kinds, and what owners do to each other."""

import os
import subprocess

import pytest

import dstl
from dstl import Redistribution, Restore
from dstl.testing import find_binary


def written(client, job, value, **options):
    """Opens, puts `value`, and makes checkpoint 1 of it; returns it."""
    with client.open(job, "op", **options) as backend:
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        with backend.session() as session:
            state.put("k", value)
            completed = session.checkpoint(1, b"at %d" % value)
            session.complete(completed)
    return completed


def read(client, job, operator="op", **options):
    with client.open(job, operator, **options) as backend:
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        with backend.session():
            return state.get("k"), backend.attachment


def test_every_restore_gives_what_it_says(client, job, inner):
    first = written(client, job, 1, attempt=1, inner=inner, retain=3)
    with client.open(job, "op", attempt=2, inner=inner, retain=3) as backend:
        assert (backend.checkpoint.id, backend.reconnected, backend.attempt) == (1, False, 2)
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        with backend.session() as session:
            state.put("k", 2)
            second = session.checkpoint(2, b"at 2")
            session.complete(second)
            state.put("k", 3)
    assert read(client, job, attempt=3, inner=inner, retain=3) == (2, b"at 2")
    assert read(client, job, attempt=4, inner=inner, retain=3, restore=Restore.id(1, fallback=True)) == (1, b"at 1")
    assert read(client, job, attempt=5, inner=inner, retain=3, restore=Restore.handles([second.handle])) == (2, b"at 2")
    assert read(client, job, attempt=6, inner=inner, restore=Restore.empty()) == (None, b"")
    with pytest.raises(dstl.CheckpointNotFoundError):
        read(client, job, attempt=7, inner=inner, restore=Restore.id(77))
    with pytest.raises(dstl.NotFoundError):
        read(client, job + "-other", attempt=1, inner=inner, restore=Restore.latest(or_empty=False))
    with pytest.raises(dstl.InvalidArgumentError, match="<job>/savepoints/<name>"):
        read(client, job, attempt=8, inner=inner, restore=Restore.savepoint("file:///nowhere"))
    with pytest.raises(dstl.CheckpointNotFoundError):
        read(client, job, attempt=8, inner=inner, restore=Restore.savepoint(f"{job}/savepoints/none"))
    assert first.handle != second.handle and second.full_bytes > 0


def test_a_savepoint_begins_another_job_in_either_inner_backend(daemon, client, job, inner):
    written(client, job, 5, attempt=1, inner=inner)
    made = [find_binary(), "savepoint", "create", "--store", daemon.store, "--job", job, "before"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSTL_")}
    subprocess.run(made, check=True, capture_output=True, timeout=120, env=environment)
    restore = Restore.savepoint(f"{daemon.store}/{job}/savepoints/before")
    for number, other in enumerate(dstl.Inner):
        assert read(client, f"{job}-{number}", attempt=1, inner=other, restore=restore)[0] == 5


def test_handles_of_another_job_make_a_clone(client, job, inner):
    completed = written(client, job, 5, attempt=1, inner=inner)
    clone = job + "-clone"
    restore = Restore.handles([completed.handle])
    assert read(client, clone, attempt=1, inner=inner, restore=restore) == (5, b"at 5")
    with pytest.raises(dstl.InvalidArgumentError):
        read(client, clone + "2", attempt=1, inner=inner, restore=restore, claim=dstl.ClaimMode.CLAIM)


def test_what_is_not_claimed_stays_until_it_is_released(client, job, inner):
    completed = written(client, job, 5, attempt=1, inner=inner)
    with client.open(job, "op", attempt=2, inner=inner, claim=dstl.ClaimMode.NO_CLAIM) as backend:
        assert backend.release(completed.checkpoint) is True
        assert backend.release(completed.checkpoint) is False
        with backend.session() as session:
            mine = session.checkpoint(2)
            assert mine.self_sustained_since == 2
            backend.pin(mine.checkpoint)
            assert session.discard(mine) is dstl.NoticeOutcome.PINNED
            assert session.subsume(session.checkpoint_name(77)) is dstl.NoticeOutcome.UNKNOWN


def test_a_rescale_redistributes_keys_and_operator_state(client, job, inner):
    handles = []
    for subtask in range(2):
        with client.open(job, "op", subtask=subtask, parallelism=2, attempt=1, inner=inner, max_parallelism=128) as backend:
            first, last = backend.key_groups
            assert (last - first, backend.max_parallelism) == (63, 128)
            counts = backend.value_state("counts", dstl.INT64, dstl.INT64)
            queued = backend.operator_list("queued", dstl.STR)
            rules = backend.broadcast_map("rules", dstl.STR, dstl.INT64)
            union = backend.operator_list("union", dstl.STR, Redistribution.UNION)
            with backend.session() as session:
                for key in range(200):
                    try:
                        counts.put(key, key)
                    except dstl.WrongKeyGroupError:
                        continue
                queued.add_all(None, [f"{subtask}a", f"{subtask}b"])
                union.add(None, str(subtask))
                rules.put(None, "r", 7)
                handles.append(session.checkpoint(1, b"%d" % subtask).handle)
    with client.open(job, "op", attempt=2, inner=inner, restore=Restore.handles(handles)) as backend:
        assert [(part.subtask, part.attachment) for part in backend.parts] == [(0, b"0"), (1, b"1")]
        counts = backend.value_state("counts", dstl.INT64, dstl.INT64)
        queued = backend.operator_list("queued", dstl.STR)
        rules = backend.broadcast_map("rules", dstl.STR, dstl.INT64)
        union = backend.operator_list("union", dstl.STR, Redistribution.UNION)
        with backend.session():
            assert sorted(counts.keys()) == list(range(200))
            assert counts.get_many(list(range(200))) == list(range(200))
            assert (queued.get(None), union.get(None)) == (["0a", "0b", "1a", "1b"], ["0", "1"])
            assert rules.get(None, "r") == 7


def test_key_groups_may_be_given(client, job):
    with client.open(job, "op", attempt=1, key_group_assignment=dstl.KeyGroups.GIVEN, max_parallelism=16) as backend:
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        with backend.session():
            state.in_key_group(3).put_many(["a", "b"], [1, 2]).applied()
            assert state.in_key_group(3).get_many(["a", "b"]) == [1, 2]
            assert [stored.key_group for stored in state.all_keys()] == [3, 3]
            with pytest.raises(dstl.WrongKeyGroupError):
                state.get("a")


def test_a_newer_attempt_fences_the_older(client, job):
    with client.open(job, "op", attempt=1) as old:
        state = old.value_state("v", dstl.STR, dstl.INT64)
        session = old.session()
        with client.open(job, "op", attempt=2):
            with pytest.raises(dstl.FencedError):
                for number in range(1000):
                    state.put("k", number)
            with pytest.raises(dstl.FencedError):
                session.close()
            with pytest.raises(dstl.NewerOwnerError):
                client.open(job, "op", attempt=1)


def test_the_same_attempt_finds_its_backend_again(client, job):
    first = client.open(job, "op", attempt=1)
    state = first.value_state("v", dstl.STR, dstl.INT64)
    with first.session():
        state.put("k", 1)
    with client.open(job, "op", attempt=1) as again:
        assert (again.reconnected, again.applied_to) == (True, 1)
        state = again.value_state("v", dstl.STR, dstl.INT64)
        with again.session():
            assert state.get("k") == 1
        with client.open(job, "op", attempt_token=b"x" * 16) as by_token:
            assert by_token.attempt > 1


def test_a_fresh_start_drops_what_was_applied(client, job):
    backend = client.open(job, "op", attempt=1, run=b"r1", peer_group=b"g")
    state = backend.value_state("v", dstl.STR, dstl.INT64)
    with backend.session():
        state.put("k", 1)
    assert read(client, job, attempt=1, fresh=True, run=b"r1", linger=5.0) == (None, b"")


def test_a_second_session_replaces_the_first(client, job):
    with client.open(job, "op", attempt=1) as backend:
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        first = backend.session()
        with backend.session():
            state.put("k", 1)
            with pytest.raises(dstl.SessionReplacedError):
                first.flush()


def test_several_checkpoints_are_in_flight_at_once(backend, session):
    state = backend.value_state("v", dstl.STR, dstl.INT64)
    pending = []
    for number in range(1, 6):
        state.put("k", number)
        pending.append(session.barrier(number, b"%d" % number, timeout=60))
    completed = [one.completed() for one in pending]
    assert [one.id for one in completed] == [1, 2, 3, 4, 5]
    assert [one.applied_to for one in completed] == sorted(one.applied_to for one in completed)
    with pytest.raises(dstl.CheckpointOutOfOrderError):
        session.checkpoint(3)
    assert session.complete(completed[-1]) is dstl.NoticeOutcome.DONE
    assert session.complete(completed[-1].checkpoint) is dstl.NoticeOutcome.UNCHANGED
    assert session.wait_confirmed(5).confirmed_to >= 5
    assert session.abort_checkpoint(session.checkpoint_name(99)) is dstl.NoticeOutcome.UNKNOWN
    assert session.persist() >= 5
    assert session.acknowledged.persisted_to >= 5


def test_checkpoints_are_made_without_a_session_too(client, job):
    with client.open(job, "op", attempt=1) as backend:
        state = backend.value_state("v", dstl.STR, dstl.INT64)
        with backend.session():
            state.put("k", 1)
        assert backend.persist() >= 1
        completed = backend.checkpoint_now(1, b"x")
        assert completed.id == 1
        assert (backend.complete(completed), backend.complete(completed.checkpoint)) == (dstl.NoticeOutcome.DONE, dstl.NoticeOutcome.UNCHANGED)
        backend.pin(completed)
        assert backend.discard(completed) == dstl.NoticeOutcome.PINNED
        # Now it goes.
        assert (backend.release(completed), backend.release(completed)) == (True, False)
        assert backend.checkpoint_now(2).id == 2
        assert backend.abort_checkpoint(dstl.Checkpoint(completed.checkpoint.epoch, 77)) == dstl.NoticeOutcome.UNKNOWN
        assert backend.materialize() > 0
        described = backend.describe()
        assert [s.state.descriptor.name for s in described.states] == ["v"]
        assert any(one.backend == described.backend for one in client.describe())
        assert client.describe_job(job).operators[0].operator == "op"
        with pytest.raises(dstl.InUseError):
            client.discard_job(job)
        assert backend.close() is True
        assert backend.close() is False
    assert client.discard_job(job).checkpoints == 1


def test_a_checkpoint_is_discarded_by_its_handle_or_name(client, job):
    completed = written(client, job, 1, attempt=1)
    assert client.discard_checkpoint(completed.handle).checkpoints == 1
    assert client.discard_checkpoint(backend=(job, "op", 0), checkpoint=completed.checkpoint).checkpoints == 0
    with pytest.raises(TypeError):
        client.discard_checkpoint()


def test_dstl_coordinates_a_declared_job(client, job):
    tasks = {"count": 2, "sink": 1}
    answer = client.declare_job(job, 1, tasks)
    assert not answer.HasField("restore")
    sessions = []
    for operator, parallelism in tasks.items():
        for subtask in range(parallelism):
            backend = client.open(job, operator, subtask=subtask, parallelism=parallelism, attempt=1)
            assert backend.opened.coordinated
            sessions.append(backend.session())
    pending = [session.barrier(7) for session in sessions]
    for one in pending:
        one.completed()
    for session in sessions:
        assert session.wait_job_completed(7).id == 7
        assert session.job_completed.id == 7
    assert client.declare_job(job, 2, tasks).restore.id == 7
    assert client.declare_job(job, 3, tasks, restore=Restore.id(7)).restore.id == 7
    assert not client.declare_job(job, 4, tasks, restore=Restore.empty()).HasField("restore")
    with pytest.raises(dstl.DeclarationMismatchError):
        client.declare_job(job, 4, {"count": 1})
    with pytest.raises(ValueError):
        client.declare_job(job, 5, tasks, restore=Restore.handles([]))


def test_changed_serializers_are_refused_declared_or_migrated(client, job, inner):
    def opened(attempt):
        return client.open(job, "op", attempt=attempt, inner=inner)

    with opened(1) as backend:
        values = backend.value_state("values", dstl.STR, dstl.STR)
        maps = backend.map_state("maps", dstl.STR, dstl.STR, dstl.STR)
        lists = backend.list_state("lists", dstl.STR, dstl.STR)
        with backend.session() as session:
            values.in_namespace(b"n").put_many([str(number) for number in range(120)], [str(number) for number in range(120)])
            for number in range(103):
                maps.put("k", str(number), str(number))
            lists.add_all("k", ["1", "2"])
            session.complete(session.checkpoint(1))
    with opened(2) as backend:
        with pytest.raises(dstl.StateMismatchError, match="utf8"):
            backend.value_state("values", dstl.INT64, dstl.INT64)
        values = backend.migrate_values(
            "values", dstl.INT64, dstl.INT64, old_key=dstl.STR, old_value=dstl.STR, rewrite=lambda k, v: (int(k), int(v))
        )
        maps = backend.migrate_maps(
            "maps", dstl.STR, dstl.INT64, dstl.INT64, old_key=dstl.STR, old_map_key=dstl.STR, old_value=dstl.STR,
            rewrite=lambda k, m, v: (k, int(m), int(v)),
        )
        lists = backend.migrate_lists(
            "lists", dstl.STR, dstl.INT64, old_key=dstl.STR, old_value=dstl.STR,
            rewrite=lambda k, elements: (k, [int(element) for element in elements]),
        )
        with backend.session():
            assert values.in_namespace(b"n").get_many(list(range(120))) == list(range(120))
            assert sorted(maps.entries("k")) == [(number, number) for number in range(103)]
            assert lists.get("k") == [1, 2]
        compatible = backend.value_state("values", dstl.INT64, dstl.BYTES, compatible=True)
        with backend.session():
            assert compatible.in_namespace(b"n").get(1) == b"\1\0\0\0\0\0\0\0"


def test_without_changelog_a_checkpoint_is_a_snapshot(client, job, inner):
    written(client, job, 9, attempt=1, inner=inner, changelog=False, retain_explicitly=True)
    assert read(client, job, attempt=2, inner=inner, changelog=True) == (9, b"at 9")


def test_progress_of_a_restore_is_told(client, job, inner):
    with client.open(job, "op", attempt=1, inner=inner) as backend:
        state = backend.value_state("v", dstl.INT64, dstl.BYTES)
        with backend.session() as session:
            state.put_many(list(range(20_000)), [bytes(200)] * 20_000)
            session.checkpoint(1)
    told = []
    with client.open(job, "op", attempt=2, inner=inner, on_progress=told.append) as backend:
        assert backend.opened.restored_bytes > 0 or backend.opened.warm
    assert all(isinstance(progress, dstl.Progress) for progress in told)
