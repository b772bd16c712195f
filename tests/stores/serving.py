"""A daemon with its metrics, in the environment of the client for Python; DSTL_BIN names dstl."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request

import dstl
from processes import Process, free_port, wait_for

SAMPLE = re.compile(r'^dstl_object_requests_total\{operation="(\w+)",outcome="(\w+)"\} (\d+)$', re.M)


class Serving:
    """One process, with a folder of its own, which ends with it."""

    def __init__(self, store, settings=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dstl-"))
        self.socket, self.port = self.folder / "s", free_port()
        command = [
            os.environ["DSTL_BIN"], "serve", "--store", store, "--socket", self.socket, "--admin", f"127.0.0.1:{self.port}",
            "--set", f"dstl.data-dir={self.folder}/data",
        ]
        for setting in settings:
            command += ["--set", setting]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DSTL_")}
        self.process = Process("dstl", command, self.folder / "log", environment)

    def client(self):
        def connect():
            self.process.check()
            return self.socket.exists() and dstl.connect(str(self.socket), wait=10)

        return wait_for("the daemon", connect)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def requests(self):
        """How many requests of each operation there were, and of each outcome."""
        operations, outcomes = {}, {}
        for operation, outcome, count in SAMPLE.findall(self.metrics()):
            operations[operation] = operations.get(operation, 0) + int(count)
            outcomes[outcome] = outcomes.get(outcome, 0) + int(count)
        return operations, outcomes

    def settled(self):
        """The same, once no request was made for a while."""
        last = None
        while True:
            now = self.requests()
            if now == last:
                return now
            last = now
            time.sleep(0.7)

    def end(self):
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
