"""What can befall each store, while the demo runs on it, and what is told of a configuration that is wrong."""

import time

from processes import wait_for
from runner import Failed, Runner

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


class OnRadosgw(Runner):
    def faults(self):
        server = self.server
        self.part("the gateway is killed in the middle", lambda: self.amid("gateway-killed", lambda: restart(server.gateway)))
        self.part("the gateway stands still for 20 s", lambda: self.amid("gateway-still", lambda: stand_still(server.gateway)))
        self.part("the OSD is killed in the middle", lambda: self.amid("osd-killed", lambda: restart(server.osd)))
        self.part("the OSD stands still for 20 s", lambda: self.amid("osd-still", lambda: stand_still(server.osd)))
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        self.refused("s3://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.refused(self.url("a"), "AWS_SECRET_ACCESS_KEY", env={"AWS_SECRET_ACCESS_KEY": "wrong"})
        self.refused(self.url("a"), "AWS_ACCESS_KEY_ID", env={"AWS_ACCESS_KEY_ID": "nobody"})
        self.refused(self.url("a"), "endpoint", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})


class OnAzurite(Runner):
    def faults(self):
        print(f"{self.server.name}: no kills and stops of the server, it loses what it acknowledged", flush=True)
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        self.refused("az://no-such-container/a", "ContainerNotFound", "container")
        wrong = {"AZURE_STORAGE_ACCOUNT_KEY": "bm90IGl0"}
        self.refused(self.url("a"), "AZURE_STORAGE_ACCOUNT_KEY", env=wrong)
        self.refused(self.url("a"), "endpoint", env={"AZURITE_BLOB_STORAGE_URL": "http://127.0.0.1:1"})


class OnGcs(Runner):
    def faults(self):
        print(f"{self.server.name}: this is a fake of our own, by Google's reference of the XML API", flush=True)
        self.part("what is wrong is told with the setting at fault", self.faults_are_told)

    def faults_are_told(self):
        self.refused("gs://no-such-bucket/a", "NoSuchBucket", "bucket")
        self.refused(self.url("a"), "GOOGLE_", env={"GOOGLE_BEARER_TOKEN": "expired"})
        self.refused(self.url("a"), "endpoint", env={"GOOGLE_BASE_URL": "http://127.0.0.1:1"})


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
