"""A Flink cluster of processes on this machine, from PyFlink's own distribution, and jobs on it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pyflink

HOME = pathlib.Path(pyflink.__file__).parent
LIBRARIES = HOME / "lib"
SLOTS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition, seconds: float = 300):
    """What `condition` answers once that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return answer


class LocalFlink:
    """A JobManager and one TaskManager; `settings` are those of the cluster's configuration."""

    def __init__(self, folder: pathlib.Path, jar: pathlib.Path, settings: dict[str, str]) -> None:
        self.folder, self._port = folder, free_port()
        for name in ("conf", "lib", "log", "tmp", "pid", "checkpoints"):
            (folder / name).mkdir()
        for library in [*LIBRARIES.glob("*.jar"), jar]:
            (folder / "lib" / library.name).symlink_to(library)
        for file in (HOME / "conf").glob("log*"):
            (folder / "conf" / file.name).symlink_to(file)
        # What Flink's own file says of JDKs; the rest of it is said below.
        opens = next(line.strip() for line in (HOME / "conf/config.yaml").read_text().splitlines() if "--add-exports" in line)
        lines = {
            # Many short processes: their code is compiled once and quickly.
            "env.java.opts.all": opens.removeprefix("all: ") + " -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(free_port()),
            "jobmanager.bind-host": "127.0.0.1",
            "jobmanager.memory.process.size": "1000m",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": str(SLOTS),
            "taskmanager.memory.process.size": "1600m",
            "taskmanager.memory.managed.size": "128m",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self._port),
            "io.tmp.dirs": str(folder / "tmp"),
            "web.refresh-interval": "200",
            "heartbeat.interval": "1 s",
            "heartbeat.timeout": "10 s",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": "1000",
            "restart-strategy.fixed-delay.delay": "500 ms",
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
            "python.fn-execution.bundle.size": "50",
            "python.fn-execution.bundle.time": "100",
            "execution.checkpointing.dir": f"file://{folder}/checkpoints",
            "execution.checkpointing.tolerable-failed-checkpoints": "100",
            **settings,
        }
        (folder / "conf/config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLINK_", "_PYFLINK"))} | {
            "FLINK_CONF_DIR": str(folder / "conf"),
            "FLINK_LIB_DIR": str(folder / "lib"),
            "FLINK_LOG_DIR": str(folder / "log"),
            "FLINK_PID_DIR": str(folder / "pid"),
            "FLINK_HOME": str(HOME),
        }
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "LocalFlink":
        self._start("jobmanager")
        self.start_task_manager()
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes.values():
            self._kill(process)

    def _start(self, kind: str) -> None:
        # Each in a process group of its own: workers in Python belong to their TaskManager, and end with it.
        with (self.folder / f"{kind}.out").open("ab") as out:
            command = [HOME / "bin" / f"{kind}.sh", "start-foreground"]
            self._processes[kind] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environment, start_new_session=True
            )

    @staticmethod
    def _kill(process: subprocess.Popen) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def start_task_manager(self) -> None:
        """Another one, with the slots of all jobs."""
        before = self._task_managers()
        self._start("taskmanager")
        wait_for(f"a TaskManager: see {self.folder}", lambda: self._task_managers() - before)

    def kill_task_manager(self) -> None:
        """As a host does that loses its power; workers in Python end with it."""
        self._kill(self._processes["taskmanager"])

    def _task_managers(self) -> set[str]:
        answer = wait_for(f"a JobManager: see {self.folder}", lambda: self._rest("/taskmanagers"))
        return {one["id"] for one in answer["taskmanagers"]}

    def _rest(self, path: str):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def submit(self, *command: str) -> "Job":
        """`flink run` of it."""
        done = subprocess.run(
            [HOME / "bin/flink", "run", "--detached", *command], capture_output=True, text=True, timeout=300, env=self._environment
        )
        ids = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Job has been submitted with JobID")]
        assert ids, f"{command}: {done.stdout}{done.stderr}"
        return Job(self, ids[0])


class Job:
    def __init__(self, flink: LocalFlink, id: str) -> None:
        self._flink, self.id = flink, id

    def _get(self, path: str = ""):
        return self._flink._rest(f"/jobs/{self.id}{path}") or {}

    @property
    def state(self) -> str:
        return self._get().get("state", "UNKNOWN")

    @property
    def failures(self) -> str:
        return "\n".join(one["stacktrace"] for one in self._get("/exceptions").get("exceptionHistory", {}).get("entries", []))

    def is_running(self) -> bool:
        described = self._get()
        assert described.get("state") not in ("FAILED", "CANCELED", "FINISHED"), f"{described['state']}: {self.failures}"
        return described.get("state") == "RUNNING" and all(vertex["status"] in ("RUNNING", "FINISHED") for vertex in described["vertices"])

    def checkpoints(self) -> dict:
        return self._get("/checkpoints")

    def checkpoint_settings(self) -> dict:
        return self._get("/checkpoints/config")

    def completed(self) -> int:
        return self.checkpoints().get("counts", {}).get("completed", 0)

    def restored(self) -> int:
        return self.checkpoints().get("counts", {}).get("restored", 0)

    def newest_began(self) -> float:
        """When the newest completed checkpoint was triggered, in seconds of `time.time()`; 0 without one."""
        newest = self.checkpoints().get("latest", {}).get("completed")
        return newest["trigger_timestamp"] / 1000 if newest else 0

    def wait_for_checkpoint(self) -> None:
        """One that begins from now on."""
        now = time.time()
        wait_for(f"a checkpoint of {self.id}: {self.failures[:4000]}", lambda: self.is_running() and self.newest_began() > now)

    def wait_for_restore(self, before: int) -> None:
        def restored() -> bool:
            return self.restored() > before and self.is_running()

        wait_for(f"a restore of {self.id}: {self.failures[:4000]}", restored)

    def finish(self, seconds: float = 600) -> None:
        ended = wait_for(f"the end of {self.id}: {self.failures[:4000]}", self._ended, seconds)
        assert ended == "FINISHED", f"{ended}: {self.failures}"

    def _ended(self) -> str | None:
        state = self.state
        return state if state in ("FINISHED", "FAILED", "CANCELED") else None
