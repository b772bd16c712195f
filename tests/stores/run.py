"""Runs dstl on real stores: `run.py DSTL [STORE…] [--unit COMMAND]`, where COMMAND runs the unit tests that need a store.

Each part is named with its outcome; the first failure ends it with exit code 1.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time

import hdfs
from processes import wait_for

STORES = {"hdfs": hdfs.Hdfs}
SEED = "5"


class Failed(Exception):
    pass


class Runner:
    """One store, and the program that is tested on it."""

    def __init__(self, dstl, server, folder, unit):
        self.dstl, self.server, self.folder, self.unit = dstl, server, folder, unit

    def run(self, *arguments, expected=0, patience=600, env=None):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DSTL_", "HADOOP_"))}
        environment.update(self.server.environment())
        environment.update(env or {})
        done = subprocess.run(
            [self.dstl, *arguments], env=environment, capture_output=True, text=True, timeout=patience,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != expected:
            raise Failed(f"dstl {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def part(self, what, action):
        begun = time.monotonic()
        detail = action() or ""
        print(f"{self.server.name}: {what} ... ok, {time.monotonic() - begun:.1f} s {detail}".rstrip(), flush=True)

    def url(self, name):
        return f"{self.server.url}/{name}"

    def doctor(self):
        report = json.loads(self.run("store", "doctor", "--json", self.url("doctor")).stdout)
        if not all(promise["holds"] for promise in report["promises"]):
            raise Failed(json.dumps(report, indent=1))
        return f"({len(report['promises'])} promises)"

    def demo(self, name, kills, inner="hashmap"):
        words = os.path.join(self.folder, "words.txt")
        with open(words, "w") as text:
            text.write("".join(f"w{at * at % (97 + at)} " for at in range(20_000)))
        done = self.run(
            "demo", "--kills", str(kills), "--seed", SEED, "--json", "--inner", inner, "--store", self.url(name), words
        )
        outcome = json.loads(done.stdout)
        if not outcome["ok"] or outcome["objects"]["unreferenced"] != 0:
            raise Failed(done.stdout)
        return f"({outcome['records']} records, {kills} kills)"

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

    def common(self):
        if self.unit:
            self.part("its unit tests", self.unit_tests)
        else:
            print(f"{self.server.name}: its unit tests LEFT OUT, no command was given for them", flush=True)
        self.part("every promise holds", self.doctor)
        self.part("the demo with kills, and its sweep", lambda: self.demo("demo", 10))
        self.part("the same on rocksdb", lambda: self.demo("demo-rocksdb", 3, "rocksdb"))


class OnHdfs(Runner):
    """What can befall HDFS."""

    def faults(self):
        self.part("a DataNode is killed in the middle", lambda: self.amid("datanode", self.kill_datanode))
        self.part("the NameNode stands still for 20 s", lambda: self.amid("namenode", self.freeze_namenode))
        self.part("safe mode is told, and waited out", lambda: self.amid("safemode", self.safe_mode))
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)
        self.part("no folder and no temporary is left by what was deleted", self.nothing_left)

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

    def kill_datanode(self):
        victim = self.server.datanodes[-1]
        victim.kill()
        wait_for("the loss of a DataNode", lambda: self.server.live() == len(self.server.datanodes) - 1)
        victim.start()
        wait_for("its return", lambda: self.server.live() == len(self.server.datanodes))

    def freeze_namenode(self):
        self.server.namenode.freeze()
        time.sleep(20)
        self.server.namenode.thaw()

    def safe_mode(self):
        self.server.admin("-safemode", "enter")
        time.sleep(5)
        self.server.admin("-safemode", "leave")

    def faults_are_told(self):
        self.refused("hdfs://127.0.0.1:1/a", "no NameNode listens there", "host and port of the URL")
        # Its HTTP port.
        self.refused(f"hdfs://127.0.0.1:{self.server.http}/a", "RPC port")
        self.refused("hdfs://nowhere/a", "`dfs.ha.namenodes.nowhere`", "hdfs://nowhere:8020/")
        self.refused(self.url("refused"), "Permission denied", "option `user`", env={"HADOOP_USER_NAME": "nobody"})
        self.server.make_folder("/full")
        self.server.admin("-setSpaceQuota", "1000", "/full")
        self.refused(self.url("full"), "-setSpaceQuota")
        self.server.admin("-safemode", "enter")
        try:
            self.refused(self.url("safe"), "the NameNode is in safe mode")
        finally:
            self.server.admin("-safemode", "leave")

    def nothing_left(self):
        entries = self.server.listed()
        left = [path for path in entries if path.startswith("/doctor/") or "#" in path]
        if left:
            raise Failed(f"left behind: {left}")
        return f"({len(entries)} entries)"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dstl")
    parser.add_argument("stores", nargs="*")
    parser.add_argument("--unit")
    arguments = parser.parse_args()
    for name in arguments.stores:
        if name not in STORES:
            parser.error(f"no store is named {name}, but {', '.join(STORES)} are")
    dstl = os.path.abspath(arguments.dstl)
    for name in arguments.stores or STORES:
        with tempfile.TemporaryDirectory(prefix=f"dstl-{name}-") as folder:
            server = STORES[name](folder)
            try:
                runner = OnHdfs(dstl, server, folder, arguments.unit)
                runner.common()
                runner.faults()
            finally:
                server.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main()
    except (Failed, TimeoutError, subprocess.TimeoutExpired) as error:
        sys.exit(f"FAILED: {error}")
