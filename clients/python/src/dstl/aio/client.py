"""A client of one daemon."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from .._core.connection import Connection
from ..checkpoints import Checkpoint, Progress
from ..options import OpenOptions, Restore, declaration, need
from ..proto import backend_pb2, service_pb2
from .backend import Backend, describe
from .face import Reply, finish
from .query import Query


def default_socket() -> str:
    """Where the daemon listens unless it is told otherwise, or `$DSTL_SOCKET`."""
    named, runtime = os.environ.get("DSTL_SOCKET"), os.environ.get("XDG_RUNTIME_DIR")
    if named or runtime:
        return named or f"{runtime}/dstl.sock"
    return "/run/dstl/dstl.sock" if os.geteuid() == 0 else f"/tmp/dstl-{os.geteuid()}/dstl.sock"


async def connect(
    target: str | os.PathLike[str] | None = None, *, wait: float = 0.0, credentials: grpc.ChannelCredentials | None = None
) -> Client:
    """Connects to a daemon, and asks it what it speaks, offers and allows.

    `target` is the path of its Unix socket (default: `$DSTL_SOCKET`, else the daemon's own default), which must be served by this user, by
    root, or by the owner of folders that root made for it; or an address, as `127.0.0.1:7000`, with `credentials` for TLS. `wait` is how
    many seconds to try again while nobody is there.

    Raises `ConnectionLostError` if nobody answers, and `IncompatibleProtocolError`.
    """
    place = os.fspath(target) if target is not None else default_socket()
    if not isinstance(place, str):
        raise TypeError(f"expected a path or an address, got {type(place).__name__}")
    connection = Connection(place, credentials)
    try:
        reply = Reply()
        connection.greet(reply, wait)
        return Client(connection, await finish(reply))
    except BaseException:
        connection.close()
        raise


class Client:
    """A connection to one daemon; made by `connect`. Any thread of this process may use it, at the same time.

    A context manager: leaving it closes it.
    """

    def __init__(self, connection: Connection, hello: service_pb2.HelloResponse) -> None:
        self._connection, self._hello = connection, hello

    @property
    def version(self) -> str:
        """The daemon's version, for people."""
        return self._hello.version

    @property
    def protocol(self) -> int:
        """The version of the protocol that both sides speak."""
        return self._hello.protocol

    @property
    def features(self) -> frozenset[str]:
        """What is built into the daemon, as `"inner.rocksdb"`."""
        return frozenset(self._hello.features)

    @property
    def limits(self) -> service_pb2.Limits:
        """What the daemon allows: `max_message_bytes`, `max_key_bytes`, `max_value_bytes`, `max_batch_operations`, …"""
        return self._hello.limits

    @property
    def daemon_instance(self) -> str:
        """Changes with every start of a daemon process."""
        return self._hello.daemon_instance

    async def hello(self, *, timeout: float | None = 10.0) -> service_pb2.HelloResponse:
        """Asks again who is there."""
        request = service_pb2.HelloRequest(protocol_min=1, protocol_max=1)
        return await self._call("Hello", request, timeout)  # type: ignore[no-any-return]

    async def open(
        self,
        job: str,
        operator: str,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        options: OpenOptions | None = None,
        **keywords: Any,
    ) -> Backend:
        """Opens the backend of one subtask of an operator: fences every earlier owner, and restores.

        Every start of a task takes a higher `attempt`; the same one finds the running backend again. Names are 1 to 200 of ASCII letters,
        digits, `-`, `_`, `.`. `on_progress` is told about once a second how far the restore is. Cancelling it, or an interrupt, ends the
        restore. Keywords (or `options`, an `OpenOptions` with the same names):

        * `restore`: a `Restore`; default `Restore.latest()`, which begins empty where there is no checkpoint.
        * `attempt` (0), or `attempt_token` (bytes that name this start of the job, for engines that begin their counting anew).
        * `subtask` (0), `parallelism` (1), `max_parallelism` (number of key groups), `key_groups` ((first, last), both inclusive, instead
          of those that Flink would give), `key_group_assignment` (`KeyGroups`).
        * `inner` (`Inner`): where the state is kept. `changelog` (bool): whether changes are logged.
        * `claim` (`ClaimMode`): who owns what is restored.
        * `retain` (how many completed checkpoints stay restorable) or `retain_explicitly` (all, until a notice).
        * `fresh`: replace an owner of this very attempt and restore, instead of finding it. `peer_group`, `run`: bytes, see the protocol.
        * `linger`: seconds that the backend stays open without session; 0: as the daemon is configured, by default for ever.

        Raises `NewerOwnerError` if a higher attempt has it, a `NotFoundError` where there is no such checkpoint, `BackendMismatchError` and others.
        """
        if options is None:
            options = OpenOptions(**keywords)
        elif keywords:
            raise TypeError("either `options` or keywords")
        opening = self._connection.open(options.to_proto(job, operator))
        before = service_pb2.OpenedPart()
        try:
            while True:
                reply = Reply()
                opening.next(reply)
                message: service_pb2.OpenResponse = await finish(reply)
                kind = message.WhichOneof("response")
                if kind == "opened":
                    break
                if kind == "part":
                    before.MergeFrom(message.part)
                elif kind == "restoring" and on_progress is not None:
                    on_progress(Progress.of(message.restoring))
        except BaseException:
            opening.cancel()
            raise
        # Entries of parts come before those of the last message.
        opened = message.opened
        for name in ("states", "parts", "skipped"):
            mine = [*getattr(before, name), *getattr(opened, name)]
            opened.ClearField(name)
            getattr(opened, name).extend(mine)
        return Backend(self, opened)

    async def query(self, job: str, operator: str, subtask: int = 0, *, completed: bool = False) -> Query:
        """Begins to read a backend of this daemon beside its writer, whoever that is.

        Reads what batches have applied, or, with `completed`, what the newest completed checkpoint contains. The daemon must allow it
        (`queryable-state.enabled`), else `UnsupportedError`.
        """
        need(job, str, "`job`")
        need(operator, str, "`operator`")
        view = service_pb2.QueryStart.VIEW_COMPLETED if completed else service_pb2.QueryStart.VIEW_APPLIED
        backend = backend_pb2.BackendId(job=job, operator=operator, subtask=subtask)
        query = Query(self._connection, self.limits, service_pb2.QueryStart(backend=backend, view=view))
        await query.begin()
        return query

    async def declare_job(
        self,
        job: str,
        attempt: int,
        tasks: Mapping[str, int],
        *,
        restore: Restore | None = None,
        restore_attempt: int | None = None,
    ) -> service_pb2.DeclareJobResponse:
        """Begins an attempt of a job of which dstl coordinates the checkpoints; `tasks` are operators and their numbers of subtasks.

        Every task calls it, with the same arguments, before it opens with this attempt. `restore` is the latest commit by default, or
        `Restore.id` (of `restore_attempt`) or `Restore.empty`. The answer's `restore` is what all tasks begin with.
        """
        request = declaration(job, attempt, tasks, restore, restore_attempt)
        return await self._call("DeclareJob", request)  # type: ignore[no-any-return]

    async def describe(self) -> list[service_pb2.BackendDescription]:
        """Every backend of this daemon: states with their numbers of entries, checkpoints, sizes."""
        return await describe(self, service_pb2.DescribeRequest())

    async def describe_job(self, job: str) -> service_pb2.DescribeJobResponse:
        """What a job can be restored to, by operator and as a whole; empty for a job that the store does not have."""
        need(job, str, "`job`")
        request = service_pb2.DescribeJobRequest(job=job)
        return await self._call("DescribeJob", request)  # type: ignore[no-any-return]

    async def discard_job(self, job: str, *, force: bool = False) -> service_pb2.DiscardResponse:
        """Lets go of everything that a job has; with `force` also of what is pinned or being cloned.

        Raises `InUseError` while a backend of it is open on this daemon.
        """
        need(job, str, "`job`")
        request = service_pb2.DiscardRequest(job=job, force=force)
        return await self._call("Discard", request)  # type: ignore[no-any-return]

    async def discard_checkpoint(
        self, handle: bytes | None = None, *, backend: tuple[str, str, int] | None = None, checkpoint: Checkpoint | None = None,
        force: bool = False,
    ) -> service_pb2.DiscardResponse:
        """Lets go of one checkpoint of a backend that is not open, by its handle, or by `backend` (job, operator, subtask) and name."""
        request = service_pb2.DiscardRequest(force=force)
        if handle is not None:
            request.handle = handle
        elif backend is not None and checkpoint is not None:
            job, operator, subtask = backend
            request.checkpoint.backend.CopyFrom(backend_pb2.BackendId(job=job, operator=operator, subtask=subtask))
            request.checkpoint.checkpoint.CopyFrom(checkpoint.to_proto())
        else:
            raise TypeError("either `handle`, or `backend` and `checkpoint`")
        return await self._call("Discard", request)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Closes the connection. Backends stay open in the daemon; sessions that are open end without a word."""
        self._connection.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, name: str, request: Any, timeout: float | None = None) -> Any:
        reply = Reply()
        self._connection.call(name, request, reply, timeout)
        return await finish(reply)
