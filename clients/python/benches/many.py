"""Measures `put_many` and `get_many` beside a pipeline of redis-py, in one process against one daemon and one Redis server.

    python benches/many.py [--rounds 5] [--updates 400000] [--json]

Keys of 8 bytes, values of 100 bytes. Each round writes all updates of each kind, one kind after the other; medians are told, and
microseconds of CPU for each update: of this process, and of the server. On a machine that others use too, only those mean
something. Needs `$DSTL_BIN` and NumPy; where redis-py and `redis-server` are missing it says so and measures dstl alone.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import dstl
from dstl.testing import Daemon

KEY_BYTES, VALUE_BYTES = 8, 100
PIPELINE = 1000


class Redis:
    """A Redis server without persistence on a Unix socket, and a client of it; ended by its process."""

    def __init__(self):
        import redis

        self._folder = tempfile.mkdtemp(prefix="dstl-redis-")
        path = f"{self._folder}/s"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", self._folder]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while socket.socket(socket.AF_UNIX).connect_ex(path) != 0:
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.05)
        self.pid = self._process.pid
        self.client = redis.Redis(unix_socket_path=path)
        self.version = self.client.info("server")["redis_version"] + ", redis-py " + redis.__version__

    def put(self, keys, values):
        for first in range(0, len(keys), PIPELINE):
            pipeline = self.client.pipeline(transaction=False)
            for key, value in zip(keys[first : first + PIPELINE], values[first : first + PIPELINE]):
                pipeline.set(key, value)
            pipeline.execute()

    def get(self, keys):
        for first in range(0, len(keys), PIPELINE):
            pipeline = self.client.pipeline(transaction=False)
            for key in keys[first : first + PIPELINE]:
                pipeline.get(key)
            pipeline.execute()

    def close(self):
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)


def cpu_seconds(pid):
    """What a process has used, and its kernel for it."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(run, server):
    """Seconds on the wall, of this process, and of the server."""
    before = time.perf_counter(), time.process_time(), cpu_seconds(server)
    run()
    after = time.perf_counter(), time.process_time(), cpu_seconds(server)
    return [end - start for start, end in zip(before, after)]


def measure(rounds, updates, redis):
    chance = np.random.default_rng(1)
    key_matrix = chance.integers(0, 256, (updates, KEY_BYTES), dtype=np.uint8)
    value_matrix = chance.integers(0, 256, (updates, VALUE_BYTES), dtype=np.uint8)
    keys, values = [bytes(row) for row in key_matrix], [bytes(row) for row in value_matrix]
    kinds = {}
    with Daemon() as daemon, daemon.client() as client, client.open("bench", "op", attempt=1) as backend:
        state = backend.value_state("values", dstl.BYTES, dstl.BYTES)
        with backend.session() as session:

            def put(key_column, value_column):
                state.put_many(key_column, value_column).applied()

            kinds["put_many, NumPy"] = lambda: put(key_matrix, value_matrix)
            kinds["put_many, lists of bytes"] = lambda: put(keys, values)
            try:
                import pyarrow as pa
            except ImportError:
                pass
            else:
                arrow_keys, arrow_values = pa.array(keys), pa.array(values)
                kinds["put_many, Arrow binary"] = lambda: put(arrow_keys, arrow_values)
            kinds["get_many, NumPy"] = lambda: state.get_many(key_matrix)
            if redis is not None:
                kinds["redis-py pipeline SET"] = lambda: redis.put(keys, values)
                kinds["redis-py pipeline GET"] = lambda: redis.get(keys)
            seconds = {name: [] for name in kinds}
            for _ in range(rounds):
                for name, run in kinds.items():
                    server = redis.pid if name.startswith("redis") else daemon.pid
                    seconds[name].append(timed(run, server))
            session.complete(session.checkpoint(1))
    return {name: [statistics.median(one) / updates for one in zip(*taken)] for name, taken in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=400_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    redis = None
    try:
        redis = Redis()
    except (ImportError, FileNotFoundError) as error:
        print(f"redis is LEFT OUT: {error}", file=sys.stderr)
    try:
        seconds = measure(options.rounds, options.updates, redis)
    finally:
        if redis is not None:
            redis.close()
    if options.json:
        names = ("wall", "client_cpu", "server_cpu")
        each = {name: dict(zip(names, (round(one * 1e6, 3) for one in taken))) for name, taken in seconds.items()}
        print(json.dumps({"cores": os.cpu_count(), "rounds": options.rounds, "microseconds_each": each}, indent=2))
        return
    print(f"{options.updates} of {KEY_BYTES} + {VALUE_BYTES} bytes, medians of {options.rounds}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'':26} {'k/s':>8} {'client CPU':>12} {'server CPU':>12}")
    for name, (wall, client, server) in seconds.items():
        print(f"{name:26} {1e-3 / wall:8.0f} {client * 1e6:9.2f} us {server * 1e6:9.2f} us")
    if redis is not None:
        print(f"against redis {redis.version}:")
        for ours, theirs in (("put_many, NumPy", "SET"), ("put_many, lists of bytes", "SET"), ("get_many, NumPy", "GET")):
            wall, client, server = seconds[f"redis-py pipeline {theirs}"]
            own = seconds[ours]
            print(f"  {ours:24} {wall / own[0]:6.1f} x a pipeline of {theirs}; {(client + server) / (own[1] + own[2]):.1f} x by CPU of both processes")


if __name__ == "__main__":
    main()
