"""Servers for tests: processes on free ports of loopback, each ended by its pid."""

import functools
import signal
import socket
import subprocess
import threading
import time

PATIENCE = 120


def once(make):
    """Calls `make` once for all threads: the others wait for what it gives."""
    lock, made = threading.Lock(), []

    @functools.wraps(make)
    def given():
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return given


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, ready, patience=PATIENCE):
    """Polls `ready` until it gives something true, which is returned."""
    deadline = time.monotonic() + patience
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience} s")
        time.sleep(0.1)


class Process:
    """One server, with its output in a file."""

    def __init__(self, name, command, log, env=None):
        self.name, self.command, self.log = name, command, log
        # That of this process, unless it is given.
        self.env = env
        self.child = None
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env
            )

    def alive(self):
        return self.child.poll() is None

    def check(self):
        if not self.alive():
            raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{tail(self.log)}")

    def signal(self, number):
        self.child.send_signal(number)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """Ends it at once, as a crash of its host does."""
        if self.alive():
            self.signal(signal.SIGKILL)
        self.child.wait()


def tail(path, lines=30):
    with open(path, errors="replace") as log:
        return "".join(log.readlines()[-lines:])
