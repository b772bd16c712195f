"""The scenarios and the world that they run in: one shared daemon, and daemons of their own for those that kill."""

import itertools
import pathlib
import threading

from support import Daemon

SCENARIOS = []


def scenario(function):
    """Makes a function that takes a `World` a scenario; its name is the sentence that it proves."""
    SCENARIOS.append(function)
    return function


class World:
    """What one scenario has: a job name of its own, the shared daemon, and folders for more."""

    _lock = threading.Lock()
    _shared = None

    def __init__(self, binary, root, name, index):
        self.binary = binary
        self.root = pathlib.Path(root)
        self.job = name[:60].strip("_")
        self.folder = self.root / "s" / f"{index:03}"
        self.numbers = itertools.count()
        self.started = []
        self.clients = []
        # Those of the shared daemon.
        self.guests = []

    @property
    def daemon(self):
        """The daemon that scenarios share which do it no harm."""
        with World._lock:
            if World._shared is None:
                World._shared = Daemon(self.binary, self.root / "shared", self.root / "shared/store").start()
        return World._shared

    def client(self, daemon=None):
        client = (daemon or self.daemon).client()
        self.clients.append(client)
        if daemon is None:
            self.guests.append(client)
        return client

    def start(self, store=None, settings=()):
        """A daemon of this scenario's own, by default on a store that all of them share."""
        folder = self.folder / f"d{next(self.numbers)}"
        daemon = Daemon(self.binary, folder, store or self.folder / "store", settings)
        self.started.append(daemon)
        return daemon.start()

    def close(self):
        for client in self.guests:
            client.give_back()
        for client in self.clients:
            client.close()
        for daemon in self.started:
            daemon.kill()

    @classmethod
    def close_shared(cls):
        if cls._shared is not None:
            assert cls._shared.alive(), f"the shared daemon died: {cls._shared.log.read_text()}"
            cls._shared.kill()
