#!/usr/bin/env python3
"""Counts words exactly once, over crashes of itself and of the daemon: all that a task needs of dstl, from `proto/` alone.

    pip install grpcio grpcio-tools
    dstl serve &
    python3 wordcount.py SOCKET ATTEMPT FILE

Give each start a higher attempt. The position in the file travels as the attachment of every checkpoint, so that counts and
position are always of one moment: killed and started again, it goes on from the last checkpoint. At the end of the file it
prints the ten most frequent words.
"""

import itertools
import pathlib
import queue
import struct
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
LINES_PER_BATCH, BATCHES_PER_CHECKPOINT = 200, 10


def generate():
    out = tempfile.mkdtemp()
    files = [str(path) for path in (PROTO / "dstl/v1").glob("*.proto")]
    assert protoc.main(["", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) == 0
    sys.path.insert(0, out)


def words_of(file):
    """The words of some lines, the position in the file behind them, and whether they are the last."""
    ended = False
    while not ended:
        lines = list(itertools.islice(iter(file.readline, b""), LINES_PER_BATCH))
        ended = len(lines) < LINES_PER_BATCH
        yield [word[:100] for line in lines for word in line.lower().split()], file.tell(), ended


def expected(response):
    """A response, unless it is one that this task cannot go on from."""
    if response.WhichOneof("response") in ("halted", "checkpoint_failed", "error"):
        sys.exit(str(response))
    return response


def main(socket, attempt, path):
    from dstl.v1 import backend_pb2, checkpoint_pb2, service_pb2, session_pb2, state_pb2
    from dstl.v1.service_pb2_grpc import StateBackendServiceStub

    dstl = StateBackendServiceStub(grpc.insecure_channel(f"unix:{socket}"))

    # Open: whatever the last checkpoint had, or nothing.
    latest = service_pb2.Restore(latest=service_pb2.Restore.Latest(or_empty=True))
    backend = backend_pb2.BackendId(job="wordcount", operator="count", subtask=0)
    request = service_pb2.OpenRequest(backend=backend, parallelism=1, attempt=attempt, restore=latest)
    *_progress, last = dstl.Open(request)
    opened = last.opened
    descriptor = state_pb2.StateDescriptor(
        name="counts", kind=state_pb2.STATE_KIND_MAP, merge=state_pb2.MERGE_FUNCTION_SUM_I64
    )
    registered = dstl.RegisterStates(service_pb2.RegisterStatesRequest(backend=opened.backend, states=[descriptor]))
    state = registered.states[0].id

    # The session: a queue of requests, a stream of responses.
    requests = queue.SimpleQueue()
    responses = dstl.Session(iter(requests.get, None))
    requests.put(session_pb2.SessionRequest(start=session_pb2.SessionStart(backend=opened.backend)))
    started = next(responses).started
    number, checkpoint, credit, spent = started.applied_to, opened.last_checkpoint_id, started.credit, 0

    file = open(path, "rb")
    file.seek(int(opened.attachment or b"0"))
    one = struct.pack("<q", 1)
    for batches, (words, position, ended) in enumerate(words_of(file), 1):
        operations = [
            state_pb2.Operation(
                kind=state_pb2.OPERATION_KIND_MAP_MERGE, state=state, key=word[:1], map_key=word, value=one
            )
            for word in words
        ]
        batch = session_pb2.Batch(number=number, operations=operations)
        spent += batch.ByteSize()
        while spent > credit:
            credit = max(credit, expected(next(responses)).acknowledgement.credit)
        requests.put(session_pb2.SessionRequest(batch=batch))
        number += 1
        if batches % BATCHES_PER_CHECKPOINT and not ended:
            continue
        checkpoint += 1
        barrier = checkpoint_pb2.Barrier(checkpoint_id=checkpoint, attachment=b"%d" % position)
        requests.put(session_pb2.SessionRequest(barrier=barrier))
        for response in responses:
            credit = max(credit, expected(response).acknowledgement.credit)
            if response.HasField("checkpoint_completed"):
                break
        # This task is the whole job, so that its part is all of it.
        notice = checkpoint_pb2.Notice(
            kind=checkpoint_pb2.NOTICE_KIND_COMPLETE, checkpoint=response.checkpoint_completed.checkpoint
        )
        requests.put(session_pb2.SessionRequest(notice=notice))

    # Read everything back, beside the session.
    counts = {}
    for first in range(256):
        after, more = b"", True
        while more:
            read = state_pb2.Operation(
                kind=state_pb2.OPERATION_KIND_MAP_ENTRIES, state=state, key=bytes([first]), map_key=after
            )
            batch = session_pb2.Batch(operations=[read])
            reply = dstl.ApplyBatch(service_pb2.ApplyBatchRequest(backend=opened.backend, batch=batch))
            (page,) = reply.result.results
            counts.update((entry.key, struct.unpack("<q", entry.value)[0]) for entry in page.entries)
            more = page.more
            after = page.entries[-1].key + b"\0" if page.entries else b""
    requests.put(None)
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]:
        print(count, word.decode(errors="replace"))
    dstl.Close(service_pb2.CloseRequest(backend=opened.backend))


if __name__ == "__main__":
    generate()
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
