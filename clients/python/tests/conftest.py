"""What tests share: one daemon for those that only need one, names of jobs, and a way to cut connections."""

import itertools
import os
import socket
import threading

import pytest

import dstl
from dstl.testing import Daemon

_numbers = itertools.count()


@pytest.fixture(scope="session")
def daemon():
    """A daemon that nobody kills."""
    with Daemon(settings=["queryable-state.enabled=true"]) as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client


@pytest.fixture
def job():
    """A name that no other test has."""
    return f"job-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(params=[dstl.Inner.HASHMAP, dstl.Inner.ROCKSDB], ids=["hashmap", "rocksdb"])
def inner(request):
    return request.param


@pytest.fixture
def backend(client, job, inner):
    with client.open(job, "op", attempt=1, inner=inner) as backend:
        yield backend


@pytest.fixture
def session(backend):
    session = backend.session()
    yield session
    session.abort()


class Relay:
    """A socket before that of a daemon, whose connections can be cut, and answers held back."""

    def __init__(self, daemon):
        self.path, self._behind = daemon.socket + "-relay", daemon.socket
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._pairs = []
        self.holds_answers = threading.Event()
        # What clients have sent so far.
        self.asked_bytes = 0
        # Whether nobody gets through to the daemon.
        self.is_away = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                front, _ = self._listener.accept()
            except OSError:
                return
            back = socket.socket(socket.AF_UNIX)
            try:
                if self.is_away.is_set():
                    raise ConnectionRefusedError
                back.connect(self._behind)
            except OSError:
                front.close()
                back.close()
                continue
            self._pairs.append((front, back))
            threading.Thread(target=self._pump, args=(front, back, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(back, front, True), daemon=True).start()

    def _pump(self, source, sink, answers):
        try:
            while data := source.recv(1 << 16):
                if answers and self.holds_answers.is_set():
                    continue
                sink.sendall(data)
                if not answers:
                    self.asked_bytes += len(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Breaks every connection; answers that were held back are lost."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.holds_answers.clear()

    def close(self):
        self._listener.close()
        self.cut()
        os.unlink(self.path)


@pytest.fixture
def relay(daemon):
    relay = Relay(daemon)
    yield relay
    relay.close()
