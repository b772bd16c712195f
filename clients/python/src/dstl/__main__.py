"""`python -m dstl` shows what a daemon has: its version, backends, states and checkpoints; with `--job`, what a job can be restored to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from google.protobuf.json_format import MessageToDict

from . import Client, DstlError, connect
from .proto import service_pb2, state_pb2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dstl", description=__doc__)
    parser.add_argument("--socket", help="the daemon's Unix socket or address [default: $DSTL_SOCKET, else the daemon's own default]")
    parser.add_argument("--job", help="show what this job can be restored to")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return parser.parse_args()


def main() -> int:
    """Prints it; the exit code is 1 if no daemon answers."""
    arguments = _arguments()
    try:
        with connect(arguments.socket) as client:
            if arguments.json:
                print(json.dumps(_as_json(client, arguments.job), indent=2))
            elif arguments.job is not None:
                _print_job(arguments.job, client.describe_job(arguments.job))
            else:
                _print_daemon(client)
        sys.stdout.flush()
    except DstlError as error:
        print(f"python -m dstl: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read it, as `head` does, has enough. What is buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _as_json(client: Client, job: str | None) -> Any:
    if job is not None:
        return MessageToDict(client.describe_job(job), preserving_proto_field_name=True)
    return {
        "daemon": MessageToDict(client.hello(), preserving_proto_field_name=True),
        "backends": [MessageToDict(backend, preserving_proto_field_name=True) for backend in client.describe()],
    }


def _print_daemon(client: Client) -> None:
    limits = client.limits
    print(f"dstl {client.version}, protocol {client.protocol}, instance {client.daemon_instance}")
    print(f"features: {' '.join(sorted(client.features))}")
    print(f"limits: keys {limits.max_key_bytes} B, values {limits.max_value_bytes} B, messages {limits.max_message_bytes} B")
    backends = client.describe()
    print(f"{len(backends)} backends")
    for backend in backends:
        _print_backend(backend)


def _print_backend(backend: service_pb2.BackendDescription) -> None:
    name = backend.backend.id
    inner = service_pb2.InnerBackend.Name(backend.inner).removeprefix("INNER_BACKEND_").lower()
    print(f"\n{name.job} / {name.operator} / {name.subtask} of {backend.parallelism}: {inner}, attempt {backend.attempt}")
    print(f"  {backend.state_bytes} B of state, {backend.log_bytes} B of changelog, {backend.pending_bytes} B not yet durable")
    if backend.failsafe:
        print(f"  writes are refused: {backend.failsafe}")
    for state in backend.states:
        kind = state_pb2.StateKind.Name(state.state.descriptor.kind).removeprefix("STATE_KIND_").lower()
        more = " or more" if state.entries_at_least else ""
        print(f"  state {state.state.descriptor.name}: {kind}, {state.entries} entries{more}")
    for checkpoint in backend.checkpoints:
        words = [word for word, holds in (("completed", checkpoint.completed), ("pinned", checkpoint.pinned)) if holds]
        print(f"  checkpoint {checkpoint.checkpoint.checkpoint_id}: {checkpoint.incremental_bytes} B {' '.join(words)}")


def _print_job(job: str, described: service_pb2.DescribeJobResponse) -> None:
    restorable = [f"{at.id} (attempt {at.attempt})" for at in described.checkpoints]
    print(f"{job}: the whole job can restore {', '.join(restorable) or 'nothing'}")
    for operator in described.operators:
        print(f"  operator {operator.operator}")
        for checkpoint in operator.checkpoints:
            name = checkpoint.checkpoint
            word = "restorable" if checkpoint.restorable else f"missing in subtasks {list(checkpoint.missing_subtasks)}"
            print(f"    checkpoint {name.id} of attempt {name.attempt}, {checkpoint.parallelism} subtasks: {word}")
    for damaged in described.damaged:
        print(f"  damaged: checkpoint {damaged.checkpoint.id} of attempt {damaged.checkpoint.attempt}: {damaged.what}")


if __name__ == "__main__":
    raise SystemExit(main())
