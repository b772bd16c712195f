"""What is run on every store: its promises, the demo with kills, a restore by another host."""

import json
import os
import pathlib
import shlex
import subprocess
import tempfile
import threading
import time

from processes import Process, once, wait_for

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = "5"


# No part begins once it is set.
ENDED = threading.Event()


class Failed(Exception):
    pass


class Ended(Exception):
    """Somebody else failed, or wants it to end."""


@once
def python():
    """The interpreter of the environment of the client for Python, which is made where it is missing."""
    made = subprocess.run(
        [ROOT / "clients/python/tools/environment.sh", "test"], check=True, stdout=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL,
    )
    return made.stdout.strip()


class Runner:
    """One store, and the program that is tested on it."""

    # Whether a module of `src/object` has tests that need this store.
    has_unit_tests = False

    def __init__(self, dstl, server, folder, unit):
        self.dstl, self.server, self.folder, self.unit = dstl, server, folder, unit

    def environment(self, more=None):
        """That of a user of the store, without what this one has for dstl."""
        foreign = ("DSTL_", "HADOOP_", "AWS_", "AZURE_", "GOOGLE_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**environment, **self.server.environment(), **(more or {})}

    def run(self, *arguments, program="", expected=0, patience=600, env=None):
        """Runs dstl, or the program whose name is longer by `program` beside it."""
        done = subprocess.run(
            [self.dstl + program, *arguments], env=self.environment(env), capture_output=True, text=True, timeout=patience,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != expected:
            raise Failed(f"dstl{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def part(self, what, action):
        if ENDED.is_set():
            raise Ended
        begun = time.monotonic()
        detail = action() or ""
        print(f"{self.server.name}: {what} ... ok, {time.monotonic() - begun:.1f} s {detail}".rstrip(), flush=True)

    def url(self, name):
        return f"{self.server.url}/{name}"

    def doctor(self):
        told = self.promises()
        left = self.server.files("/doctor")
        if left:
            raise Failed(f"the doctor left {left} objects")
        return told

    def promises(self):
        report = json.loads(self.run("store", "doctor", "--json", self.url("doctor")).stdout)
        if not all(promise["holds"] for promise in report["promises"]):
            raise Failed(json.dumps(report, indent=1))
        requests = {request["request"]: request for request in report["speed"]["requests"]}
        create = requests["create"]
        return f"({len(report['promises'])} promises; create {create['p50_us'] / 1000:.1f} ms, p99 {create['p99_us'] / 1000:.1f} ms)"

    def demo(self, name, kills, inner="hashmap", env=None):
        words = os.path.join(self.folder, "words.txt")
        with open(words, "w") as text:
            text.write("".join(f"w{at * at % (97 + at)} " for at in range(20_000)))
        done = self.run(
            "--kills", str(kills), "--seed", SEED, "--json", "--inner", inner, "--store", self.url(name), words,
            program="-demo", env=env,
        )
        outcome = json.loads(done.stdout)
        if not outcome["ok"] or outcome["objects"]["unreferenced"] != 0:
            raise Failed(done.stdout)
        checkpoints = outcome["checkpoints"]
        return f"({outcome['records']} records, {kills} kills, slowest checkpoint {checkpoints['max_ms'] / 1000:.1f} s, {checkpoints['failed']} failed)"

    def script(self, name, *arguments, env=None):
        """A script beside this one, in the environment of the client for Python; gives what it prints."""
        command = [python(), "-B", HERE / name, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment({"DSTL_BIN": self.dstl, **(env or {})}), capture_output=True, text=True, timeout=600,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise Failed(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def elsewhere(self):
        return f"({'; '.join(self.script('elsewhere.py', self.url('elsewhere')).splitlines())})"

    def budget(self):
        rows = self.script("budget.py", self.url("budget"), ROOT / "docs/stores.md")
        return f"({len(rows.splitlines())} rows)"

    def unit_tests(self):
        """The unit tests of the store, of which each needs a server."""
        command = [*shlex.split(self.unit), f"object::{self.server.name}"]
        environment = {**os.environ, f"DSTL_TEST_{self.server.name.upper()}": self.server.url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
        summary = [line for line in done.stdout.splitlines() if line.startswith("test result: ")]
        if done.returncode != 0 or not summary or " 0 passed" in summary[-1]:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return f"({summary[-1]})"

    def refused(self, url, *told, env=None):
        """The doctor cannot use the store, and says why in these words."""
        done = self.run("store", "doctor", url, expected=1, env=env)
        missing = [words for words in told if words not in done.stderr]
        if missing:
            raise Failed(f"the doctor did not say {missing}, but: {done.stderr}")

    def waited_for(self, url, *told, env=None):
        """The daemon serves, says what is wrong with the store in these words, and does not end."""
        with tempfile.TemporaryDirectory(prefix="dstl-") as folder:
            log = pathlib.Path(folder) / "log"
            settings = ["--socket", f"{folder}/s", "--admin", "off", "--set", f"dstl.data-dir={folder}/data"]
            daemon = Process("dstl", [self.dstl, "serve", "--store", url, *settings], log, self.environment(env))
            try:
                wait_for("the words of the daemon", lambda: "cannot be used" in log.read_text())
                daemon.check()
                missing = [words for words in told if words not in log.read_text()]
                if missing:
                    raise Failed(f"the daemon did not say {missing}, but: {log.read_text()}")
            finally:
                daemon.kill()

    def amid(self, name, fault):
        """Runs the demo, and lets `fault` happen meanwhile."""
        failed = []

        def happen():
            try:
                wait_for("objects of the demo", lambda: self.server.files(f"/{name}") > 10)
                fault()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=happen)
        thread.start()
        try:
            detail = self.demo(name, 2)
        finally:
            thread.join()
        if failed:
            raise failed[0]
        return detail

    def common(self):
        if self.has_unit_tests and self.unit:
            self.part("its unit tests", self.unit_tests)
        elif self.has_unit_tests:
            print(f"{self.server.name}: its unit tests LEFT OUT, no command was given for them", flush=True)
        self.part("every promise holds", self.doctor)
        self.part("the demo with kills, and its sweep", lambda: self.demo("demo", 10))
        self.part("the same on rocksdb", lambda: self.demo("demo-rocksdb", 3, "rocksdb"))
        self.part("restores by other hosts, with rescales", self.elsewhere)
        self.part("no more requests than docs/stores.md says", self.budget)

    def faults(self):
        """What can befall this store."""
        raise NotImplementedError
