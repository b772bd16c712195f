"""The programs of `examples/flink` on dstl, in Python and in Java. A daemon and a TaskManager are killed while each runs, and what it wrote
is compared with what plain Python computes."""

import collections
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
from local_flink import LIBRARIES, LocalFlink, free_port

EXAMPLES = pathlib.Path(__file__).resolve().parents[3] / "examples/flink"
sys.path.insert(0, str(EXAMPLES))

import plain  # noqa: E402


@pytest.fixture(scope="module")
def flink(daemon, jar, tmp_path_factory):
    settings = {
        "state.backend.type": "io.dstl.flink.DstlStateBackendFactory",
        "state.backend.dstl.socket": daemon.socket,
    }
    with LocalFlink(tmp_path_factory.mktemp("flink"), jar, settings) as flink:
        yield flink


class InPython:
    """Slower: each record goes to another process and back."""

    name, events, per_second = "python", 4_000, 250

    def __init__(self, flink, daemon):
        self._flink, self._daemon = flink, daemon

    def submit(self, name, **options):
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        words += ["--socket", self._daemon.socket, "--checkpoints", f"file://{self._flink.folder}/checkpoints"]
        folder = EXAMPLES / "python"
        return self._flink.submit("-pyfs", str(folder), "-py", str(folder / f"{name}.py"), *words)


class InJava:
    name, events, per_second = "java", 24_000, 1_500

    def __init__(self, flink, daemon, jar):
        self._flink, self._daemon, self._jar = flink, daemon, jar

    def submit(self, name, **options):
        main = "".join(word.capitalize() for word in name.split("_"))
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        words += ["--state.backend.dstl.socket", self._daemon.socket]
        return self._flink.submit("--parallelism", "2", "-c", f"io.dstl.examples.{main}", str(self._jar), *words)


@pytest.fixture(scope="module")
def examples_jar(tmp_path_factory):
    """The programs in Java, compiled against Flink alone."""
    folder = tmp_path_factory.mktemp("java")
    sources = sorted(str(path) for path in (EXAMPLES / "java").rglob("*.java"))
    subprocess.run(["javac", "--release", "17", "-cp", f"{LIBRARIES}/*", "-d", str(folder / "classes"), *sources], check=True, timeout=600)
    subprocess.run(["jar", "--create", "--file", str(folder / "examples.jar"), "-C", str(folder / "classes"), "."], check=True, timeout=600)
    return folder / "examples.jar"


@pytest.fixture(params=["python", pytest.param("java", marks=pytest.mark.java)])
def language(request, flink, daemon):
    if request.param == "python":
        return InPython(flink, daemon)
    return InJava(flink, daemon, request.getfixturevalue("examples_jar"))


def written(folder: pathlib.Path) -> collections.Counter:
    """Lines of the files that checkpoints have completed: names of others begin with a dot."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return collections.Counter(line for path in files for line in path.read_text().splitlines())


def kept_by(daemon, job, name):
    """Backends of the daemon that have states of this job: by its id, or by the name that the program gives."""
    assert job.checkpoint_settings()["state_backend"] == "dstl"
    with daemon.client() as client:
        jobs = [backend.backend.id.job for backend in client.describe() if backend.states]
    return [of for of in jobs if of.startswith(job.id) or of == name.replace("_", "-")]


def kill_the_daemon(job, flink, daemon):
    restored = job.restored()
    assert job.is_running()
    daemon.kill()
    daemon.start()
    job.wait_for_restore(restored)


def kill_the_task_manager(job, flink, daemon):
    restored = job.restored()
    assert job.is_running()
    flink.kill_task_manager()
    flink.start_task_manager()
    job.wait_for_restore(restored)


def kill_both(jobs, flink, daemon):
    """As the host of both does."""
    restored = [job.restored() for job in jobs]
    assert all(job.is_running() for job in jobs)
    daemon.kill()
    flink.kill_task_manager()
    daemon.start()
    flink.start_task_manager()
    for job, before in zip(jobs, restored):
        job.wait_for_restore(before)


@pytest.mark.parametrize("name", plain.ON_EVENTS)
def test_what_a_program_writes_is_what_plain_python_computes(name, language, flink, daemon, tmp_path):
    job = language.submit(name, events=language.events, per_second=language.per_second, output=tmp_path / "out")
    job.wait_for_checkpoint()
    # The buffer in Java is operator state alone, so that the daemon has nothing of it, and is not missed.
    is_kept = (name, language.name) != ("buffering_sink", "java")
    assert bool(kept_by(daemon, job, name)) == is_kept
    if name == "checkpoint_settings":
        settings = job.checkpoint_settings()
        assert (settings["mode"], settings["interval"], settings["min_pause"], settings["timeout"]) == ("exactly_once", 700, 200, 60_000)
        assert (settings["max_concurrent"], settings["tolerable_failed_checkpoints"]) == (1, 10)
        assert settings["externalization"] == {"enabled": True, "delete_on_cancellation": False}
    if not is_kept:
        kill_the_task_manager(job, flink, daemon)
    elif language.name == "python":
        kill_both([job], flink, daemon)
    else:
        kill_the_daemon(job, flink, daemon)
        job.wait_for_checkpoint()
        kill_the_task_manager(job, flink, daemon)
    job.finish()
    found, expected = written(tmp_path / "out"), collections.Counter(plain.ON_EVENTS[name](language.events))
    if name == "buffering_sink":
        # What was written after the checkpoint that was restored is written again.
        assert set(found) == set(expected)
    else:
        assert found == expected


class Lines:
    """A server of lines on a socket. Whoever connects gets what is sent from then on; who is gone, is replaced by who comes."""

    def __init__(self):
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._connection, self._changed = None, threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._connection = connection
                self._changed.notify_all()

    def forget(self):
        with self._changed:
            self._connection = None

    def send(self, pairs):
        with self._changed:
            assert self._changed.wait_for(lambda: self._connection is not None, timeout=120), "nobody connects"
            self._connection.sendall("".join(f"{key} {value}\n" for key, value in pairs).encode())

    def close(self):
        self._listener.close()
        with self._changed:
            if self._connection is not None:
                self._connection.close()


@pytest.fixture
def lines():
    lines = Lines()
    yield lines
    lines.close()


def test_running_averages_of_a_socket_go_on_where_they_were(language, flink, daemon, lines, tmp_path):
    """A socket cannot be read again, so that each kill comes when a checkpoint has all that was sent."""
    pairs = [(number % 17, number * number % 1009) for number in range(600)]
    job = language.submit("averages", host="127.0.0.1", port=lines.port, output=tmp_path / "out")
    for part, kill in enumerate([kill_the_daemon, kill_the_task_manager, None]):
        lines.send(pairs[part * 200 : part * 200 + 200])
        settle(job)
        assert kept_by(daemon, job, "averages")
        if kill is not None:
            lines.forget()
            kill(job, flink, daemon)
    assert job.checkpoint_settings()["interval"] == 2000
    lines.close()
    job.finish()
    assert written(tmp_path / "out") == collections.Counter(plain.averages(pairs))


def test_windows_of_two_survive_kills_and_those_that_wait_too_long_are_forgotten(language, flink, daemon, lines, tmp_path):
    ttl = 20
    patient = Lines()
    short = language.submit("count_window_average", host="127.0.0.1", port=lines.port, ttl_ms=ttl * 1000, output=tmp_path / "short")
    long = language.submit("count_window_average", host="127.0.0.1", port=patient.port, ttl_ms=3_600_000, output=tmp_path / "long")
    sent = []

    def send(pairs):
        now = time.monotonic()
        sent.extend((now, key, value) for key, value in pairs)
        for server in (lines, patient):
            server.send(pairs)

    # Keys below 10 have a window that waits; others have whole ones.
    send([(key, 100 * key) for key in range(20)] + [(key, 7) for key in range(10, 20)])
    settle(short)
    settle(long)
    for server in (lines, patient):
        server.forget()
    kill_both([short, long], flink, daemon)
    time.sleep(max(0.0, sent[0][0] + ttl + 2 - time.monotonic()))
    send([(key, 8) for key in range(20)])
    send([(key, 8) for key in range(5)])
    for server in (lines, patient):
        server.close()
    for job in (short, long):
        job.finish()
    assert written(tmp_path / "long") == collections.Counter(plain.count_window_average(sent, 3600))
    assert written(tmp_path / "short") == collections.Counter(plain.count_window_average(sent, ttl))
    assert written(tmp_path / "short") != written(tmp_path / "long")


def settle(job):
    """Waits until what was sent is in a completed checkpoint: the second one that begins from now on has read it all."""
    time.sleep(1)
    job.wait_for_checkpoint()
    job.wait_for_checkpoint()
