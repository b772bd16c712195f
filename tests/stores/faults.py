"""What can befall each store, while the demo runs on it, and what is told of a configuration that is wrong."""

import json
import os
import threading
import time

from processes import wait_for
from proxy import WAYS, Proxy, most_in_a_second
from runner import Failed, Runner

# Of those that write at the same time by the proxy.
BACKENDS = 20
LIMIT_KEY, LIMIT = "state.changelog.dstl.dfs.max-requests-per-second", 20

# How long a server stands still: longer than any request is waited for, but an outage all the same.
STILL_SECONDS = 20


class OnHdfs(Runner):
    has_unit_tests = True

    def faults(self):
        self.part("a DataNode is killed in the middle", lambda: self.amid("datanode", self.kill_datanode))
        self.part("the NameNode stands still for 20 s", lambda: self.amid("namenode", lambda: stand_still(self.server.namenode)))
        self.part("safe mode is told, and waited out", lambda: self.amid("safemode", self.safe_mode))
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)
        self.part("no folder and no temporary is left by what was deleted", self.nothing_left)
        self.part("full DataNodes are told, and waited out", lambda: self.amid("lost-space", self.full_datanodes))

    def kill_datanode(self):
        victim = self.server.datanodes[-1]
        victim.kill()
        wait_for("the loss of a DataNode", lambda: self.server.live() == len(self.server.datanodes) - 1)
        victim.start()
        wait_for("its return", lambda: self.server.live() == len(self.server.datanodes))

    def safe_mode(self):
        self.server.admin("-safemode", "enter")
        time.sleep(5)
        self.server.admin("-safemode", "leave")

    def faults_are_told(self):
        self.refused("hdfs://127.0.0.1:1/a", "no NameNode listens there", "host and port of the URL")
        self.waited_for("hdfs://127.0.0.1:1/a", "no NameNode listens there", "host and port of the URL")
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

    def full_datanodes(self):
        self.server.restart_datanodes(reserved_bytes=1 << 60)
        self.refused(self.url("no-space"), "down, full or out of reach", "hdfs dfsadmin -report")
        self.server.restart_datanodes(reserved_bytes=0)

    def nothing_left(self):
        entries = self.server.listed()
        left = [path for path in entries if path.startswith("/doctor/") or "#" in path]
        if left:
            raise Failed(f"left behind: {left}")
        return f"({len(entries)} entries)"


class OnHaHdfs(Runner):
    """Two NameNodes: what they share with one is proved there."""

    def common(self):
        self.part("every promise holds", self.doctor)

    def faults(self):
        self.part("the NameNodes change places in the middle", lambda: self.amid("places", self.change_places))
        self.part("the active NameNode is killed, and the other one takes over", lambda: self.amid("killed", self.kill_active))
        self.part("the active NameNode hangs for ever, and the other one takes over", lambda: self.amid("hangs", self.freeze_active))
        self.part("the same on rocksdb, with the first NameNode down", lambda: self.demo("demo-rocksdb", 3, "rocksdb"))
        self.part("restores by other hosts, with rescales", self.elsewhere)

    def change_places(self):
        self.server.ha_admin("-transitionToStandby", self.server.active.id)
        time.sleep(2)
        self.server.activate(self.server.other())

    def kill_active(self):
        killed = self.server.active
        killed.process.kill()
        self.server.activate(self.server.other())
        time.sleep(2)
        killed.process.start()
        self.server.await_namenode(killed)

    def freeze_active(self):
        """It would lose its place by fencing, and never answer again; its connections stay open."""
        self.server.active.process.freeze()
        self.server.activate(self.server.other())


class OnKerberosHdfs(Runner):
    """A secure cluster: what it shares with an open one is proved there."""

    def common(self):
        self.part("every promise holds", self.doctor)
        # The demo reads no file with options.
        self.part("the demo with kills, and its sweep", lambda: self.demo("demo", 3, env=self.server.tickets()))

    def doctor(self):
        told = self.promises()
        # The root, and the folder of the URL, which stays.
        if self.server.inodes() > 2:
            raise Failed(f"the doctor left something: {self.server.inodes()} files and folders")
        return told

    def faults(self):
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        server = self.server
        nothing = {**server.without_ticket(), "DSTL_CONFIG": os.devnull}
        self.refused(self.url("a"), "`kerberos_keytab`", env=nothing)
        self.waited_for(self.url("a"), "`kerberos_keytab`", env=nothing)
        self.refused(self.url("a"), "`kerberos_keytab`", env=server.environment_of("stranger"))
        self.refused(self.url("a"), "`kerberos_keytab`", env=server.environment_of("hdfs", server.folder / "missing"))
        self.refused(self.url("a"), "Permission denied", "user", env=server.environment_of("nobody"))


class OnRadosgw(Runner):
    def faults(self):
        server = self.server
        self.part("the gateway is killed in the middle", lambda: self.amid("gateway-killed", lambda: restart(server.gateway)))
        self.part("the gateway stands still for 20 s", lambda: self.amid("gateway-still", lambda: stand_still(server.gateway)))
        self.part("the OSD is killed in the middle", lambda: self.amid("osd-killed", lambda: restart(server.osd)))
        self.part("the OSD stands still for 20 s", lambda: self.amid("osd-still", lambda: stand_still(server.osd)))
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)
        self.proxy = Proxy(server.endpoint)
        try:
            self.answers()
        finally:
            self.proxy.stop()

    def answers(self):
        """A proxy before the gateway, whose answers are wrong."""
        for way in WAYS:
            self.part(f"of the answers, a third are wrong: {way.replace('_', ' ')}", lambda: self.wrong_answers(way, [way]))
        self.part("the same with all of these ways at once", lambda: self.wrong_answers("all", WAYS))
        self.part("a web page in place of the store is told", self.page_is_told)
        self.part("no more requests a second than the limit", self.limited)
        self.part("a pause that the store asks for is granted by all", self.paused)
        self.part("no storm of requests where all are refused", self.storm)

    @property
    def by_proxy(self):
        return {"AWS_ENDPOINT_URL": self.proxy.endpoint}

    def wrong_answers(self, name, ways):
        self.proxy.answer(ways, share=0.3)
        try:
            begun = time.monotonic()
            detail = self.demo(f"wrong-{name}", 2, env=self.by_proxy)
            wrong = sum(way != "right" for _, _, way in self.proxy.since(begun))
        finally:
            self.proxy.answer([])
        if wrong < 10:
            raise Failed(f"only {wrong} answers were wrong")
        return f"{detail[:-1]}, {wrong} wrong answers)"

    def page_is_told(self):
        for way in ("page", "missing_page"):
            self.proxy.answer([way])
            try:
                self.refused(self.url("a"), "no object store", "`endpoint`", env=self.by_proxy)
            finally:
                self.proxy.answer([])

    def load(self, name, seconds, *settings, meanwhile=lambda: None):
        """Runs load.py by the proxy; gives what it says, and the requests that the proxy saw."""
        failed, begun = [], time.monotonic()

        def happen():
            try:
                meanwhile()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=happen)
        thread.start()
        try:
            said = json.loads(self.script("load.py", self.url(name), BACKENDS, seconds, *settings, env=self.by_proxy))
        finally:
            thread.join()
        if failed:
            raise failed[0]
        return said, self.proxy.since(begun)

    def limited(self):
        said, seen = self.load("limited", 15, f"{LIMIT_KEY}={LIMIT}")
        times = [at for at, method, _ in seen if method != "GET"]
        most = most_in_a_second(times)
        # Requests that left evenly may arrive together.
        if most > LIMIT * 1.5 or most < LIMIT * 0.8 or said["paced_seconds"] <= 0:
            raise Failed(f"{most} requests in a second, and the limit is {LIMIT}: {said}")
        return f"({most} at most where {LIMIT} are allowed; {said['checkpoints']} checkpoints)"

    def paused(self):
        refused = []

        def refuse():
            time.sleep(6)
            refused.append(time.monotonic())
            self.proxy.answer(["too_many"], retry_after=4)
            time.sleep(6)
            self.proxy.answer([])

        said, _ = self.load("paused", 18, meanwhile=refuse)
        since = [at - refused[0] for at, _, _ in self.proxy.since(refused[0])]
        # Those that were under way when the first was refused were refused, too.
        early = [at for at in since if at < 1]
        during = [at for at in since if 1 <= at < 3.9]
        if during or not early or not said["outcomes"].get("throttled"):
            raise Failed(f"{len(early)} requests before the pause, {len(during)} in it: {said}")
        return f"({len(early)} refused, then none for 3 s; {said['checkpoints']} checkpoints, slowest {said['slowest']} s)"

    def storm(self):
        refused = []

        def refuse():
            time.sleep(6)
            refused.append(time.monotonic())
            self.proxy.answer(["slow_down"])
            time.sleep(STILL_SECONDS)
            self.proxy.answer([])

        said, _ = self.load("storm", 10 + STILL_SECONDS, meanwhile=refuse)
        count = sum(way == "slow_down" for _, _, way in self.proxy.since(refused[0]))
        # Pauses double up to 5 s: ten attempts in 20 s, of a segment and a manifest each.
        if not BACKENDS <= count <= BACKENDS * 20:
            raise Failed(f"{count} requests in {STILL_SECONDS} s of refusals: {said}")
        return f"({count} requests of {BACKENDS} backends in {STILL_SECONDS} s; slowest checkpoint {said['slowest']} s)"

    def faults_are_told(self):
        self.refused("s3://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.waited_for("s3://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.refused(self.url("a"), "AWS_SECRET_ACCESS_KEY", env={"AWS_SECRET_ACCESS_KEY": "wrong"})
        self.refused(self.url("a"), "AWS_ACCESS_KEY_ID", env={"AWS_ACCESS_KEY_ID": "nobody"})
        self.refused(self.url("a"), "endpoint", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})


class OnAzurite(Runner):
    def faults(self):
        print(f"{self.server.name}: no kills and stops of the server, it loses what it acknowledged", flush=True)
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        self.refused("az://no-such-container/a", "ContainerNotFound", "container")
        self.waited_for("az://no-such-container/a", "ContainerNotFound", "container")
        wrong = {"AZURE_STORAGE_ACCOUNT_KEY": "bm90IGl0"}
        self.refused(self.url("a"), "AZURE_STORAGE_ACCOUNT_KEY", env=wrong)
        self.refused(self.url("a"), "endpoint", env={"AZURITE_BLOB_STORAGE_URL": "http://127.0.0.1:1"})


class OnGcs(Runner):
    def faults(self):
        print(f"{self.server.name}: this is a fake of our own, by Google's reference of the XML API", flush=True)
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        self.refused("gs://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.waited_for("gs://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.refused(self.url("a"), "GOOGLE_", env={"GOOGLE_BEARER_TOKEN": "expired"})
        self.refused(self.url("a"), "`base_url`", env={"GOOGLE_BASE_URL": "http://127.0.0.1:1"})


def restart(process):
    process.kill()
    time.sleep(2)
    process.start()


def stand_still(process):
    process.freeze()
    try:
        time.sleep(STILL_SECONDS)
    finally:
        process.thaw()
