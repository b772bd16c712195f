"""Jobs without a coordinator: the engine declares its tasks, the daemons complete its checkpoints."""

from support import (
    descriptor,
    eventually,
    get,
    put,
    refused,
    restore_empty,
    restore_id,
    restore_latest,
    service_pb2,
)
from world import scenario


def declare(client, job, attempt, tasks=None, checkpoint=None, empty=False):
    """What all tasks of the attempt begin with, as (attempt, id)."""
    request = service_pb2.DeclareJobRequest(job=job, attempt=attempt)
    for operator, parallelism in (tasks or {"op": 2}).items():
        request.tasks.add(operator=operator, parallelism=parallelism)
    if checkpoint is not None:
        request.checkpoint.id = checkpoint
    elif empty:
        request.empty.SetInParent()
    else:
        request.latest.SetInParent()
    answer = client.call("DeclareJob", request)
    return (answer.restore.attempt, answer.restore.id) if answer.HasField("restore") else None


class Task:
    """One of two subtasks, with its session."""

    def __init__(self, world, client, subtask, attempt, restore=None):
        fields = {"subtask": subtask, "parallelism": 2, "attempt": attempt, "restore": restore or restore_latest()}
        self.opened = client.open(world.job, key_group_assignment=2, **fields)
        assert self.opened.coordinated
        (self.state,) = client.register(self.opened.backend, descriptor("v"))
        self.session = client.session(self.opened.backend)
        self.group = self.opened.key_groups.first

    def put(self, value):
        self.session.batch(put(self.state, b"k", value, key_group=self.group))

    def value(self):
        (found,) = self.session.read(get(self.state, b"k", key_group=self.group))
        return found.value

    def completed(self, number):
        """Waits until the whole job has the checkpoint, or a newer one."""
        while True:
            told = self.session.next("job_checkpoint_completed").checkpoint
            if told.checkpoint_id >= number:
                return told


def checkpoint(tasks, number, value):
    """A checkpoint of the whole job; returns the parts."""
    for task in tasks:
        task.put(value)
        task.session.barrier(number)
    parts = [task.session.next("checkpoint_completed").checkpoint for task in tasks]
    assert [task.completed(number) for task in tasks] == parts
    return parts


def two_daemons(world):
    daemons = [world.start(settings=["execution.checkpointing.coordination.poll-interval=50 ms"]) for _ in range(2)]
    return daemons, [world.client(daemon) for daemon in daemons]


@scenario
def daemons_complete_the_checkpoints_of_a_declared_job_and_the_next_attempt_restores_them(world):
    daemons, clients = two_daemons(world)
    assert [declare(client, world.job, 1) for client in clients] == [None, None]
    tasks = [Task(world, clients[n], n, 1) for n in range(2)]
    checkpoint(tasks, 1, b"one")
    parts = checkpoint(tasks, 2, b"two")
    for task, part in zip(tasks, parts):
        task.session.wait("confirmed", task.session.number)
        assert task.session.notify("COMPLETE", part) == "COORDINATED"
        assert task.session.notify("DISCARD", part) == "COORDINATED"
    told = clients[0].call("DescribeJob", service_pb2.DescribeJobRequest(job=world.job))
    assert [(c.attempt, c.id) for c in told.commits] == [(1, 1), (1, 2)], told
    assert [(t.operator, t.parallelism) for t in told.generation.tasks] == [("op", 2)]
    again = clients[0].session(tasks[0].opened.backend)
    assert again.next("job_checkpoint_completed").checkpoint == parts[0]
    daemons[1].kill()
    assert declare(clients[0], world.job, 2) == (1, 2)
    for task in [Task(world, clients[0], n, 2) for n in range(2)]:
        assert task.opened.checkpoint.checkpoint_id == 2 and task.value() == b"two"


@scenario
def a_checkpoint_that_a_task_did_not_report_before_the_next_attempt_is_never_completed(world):
    daemons, clients = two_daemons(world)
    declare(clients[0], world.job, 1)
    tasks = [Task(world, clients[n], n, 1) for n in range(2)]
    checkpoint(tasks, 1, b"one")
    tasks[0].put(b"lost")
    tasks[0].session.checkpoint(2)

    def is_reported():
        told = clients[1].call("DescribeJob", service_pb2.DescribeJobRequest(job=world.job))
        return [(r.checkpoint.id, r.reports, r.tasks) for r in told.generation.reported] == [(2, 1, 2)]

    eventually("one of two tasks has reported", is_reported)
    assert declare(clients[1], world.job, 2) == (1, 1)
    # The last task of the old attempt has its part too late.
    tasks[1].session.barrier(2)
    error = tasks[1].session.end()
    assert error.reason == "REASON_FENCED", error
    with refused("REASON_FENCED", "outdated"):
        declare(clients[0], world.job, 1)
    for task in [Task(world, clients[n], n, 2) for n in range(2)]:
        assert task.value() == b"one"


@scenario
def an_engine_goes_back_to_an_older_checkpoint_and_uses_ids_again(world):
    _, clients = two_daemons(world)
    declare(clients[0], world.job, 1)
    tasks = [Task(world, clients[n], n, 1) for n in range(2)]
    for number in (1, 2):
        checkpoint(tasks, number, b"%d" % number)
    assert declare(clients[0], world.job, 2, checkpoint=1) == (1, 1)
    tasks = [Task(world, clients[n], n, 2, restore_id(1)) for n in range(2)]
    assert [task.value() for task in tasks] == [b"1", b"1"]
    checkpoint(tasks, 2, b"other 2")
    assert declare(clients[1], world.job, 3) == (2, 2)
    assert [Task(world, clients[n], n, 3).value() for n in range(2)] == [b"other 2", b"other 2"]
    assert declare(clients[1], world.job, 4, empty=True) is None
    assert [Task(world, clients[n], n, 4, restore_empty()).value() for n in range(2)] == [b"", b""]


@scenario
def what_does_not_fit_a_declaration_is_refused(world):
    client = world.client()
    declare(client, world.job, 5)
    with refused("REASON_DECLARATION_MISMATCH", "declare the same"):
        declare(client, world.job, 5, tasks={"op": 3})
    with refused("REASON_INVALID_ARGUMENT", "twice"):
        request = service_pb2.DeclareJobRequest(job=world.job, attempt=6)
        request.latest.SetInParent()
        for _ in range(2):
            request.tasks.add(operator="op", parallelism=1)
        client.call("DeclareJob", request)
    for fields in ({"parallelism": 3}, {"parallelism": 2, "operator": "map"}):
        with refused("REASON_DECLARATION_MISMATCH", "attempt 5 was declared"):
            client.open(world.job, attempt=5, **fields)
    with refused("REASON_DECLARATION_MISMATCH", "begins empty"):
        client.open(world.job, attempt=5, parallelism=2, restore=restore_id(1))
    with refused("REASON_FENCED"):
        client.open(world.job, attempt=4, parallelism=2)
    with refused("REASON_NO_CONSISTENT_CHECKPOINT", "9"):
        declare(client, world.job, 6, checkpoint=9)
