"""HDFS for tests: Hadoop's own NameNode and DataNodes, each a process of its own."""

import getpass
import hashlib
import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request

from processes import Process, free_port, wait_for

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("DSTL_M2") or pathlib.Path.home() / ".cache/dstl/m2")
SERVER = "org.apache.hadoop.hdfs.server"
# Hadoop looks into classes of the JDK that are closed since Java 17.
OPENED = [
    "java.io", "java.lang", "java.lang.reflect", "java.math", "java.net", "java.nio", "java.text", "java.util",
    "java.util.concurrent", "java.util.zip", "sun.security.util", "sun.security.x509",
]


def class_path():
    """Hadoop's jars: from Maven, once for each version of the POM."""
    pom = HERE / "hadoop/pom.xml"
    kept = CACHE / f".hadoop-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mvn", "--quiet", "--batch-mode", "--no-transfer-progress", f"-Dmaven.repo.local={CACHE}", "-f", pom,
             "dependency:build-classpath", f"-Dmdep.outputFile={kept}.new"],
            check=True, stdin=subprocess.DEVNULL,
        )
        pathlib.Path(f"{kept}.new").rename(kept)
    return kept.read_text().strip()


class Hdfs:
    """A cluster of one NameNode. `settings` are properties of Hadoop beside those that it needs to run here."""

    name = "hdfs"

    def __init__(self, folder, datanodes=3, settings=None):
        self.folder = pathlib.Path(folder)
        self.count, self.jars = datanodes, class_path()
        self.rpc, self.http = free_port(), free_port()
        self.settings = {
            "fs.defaultFS": f"hdfs://127.0.0.1:{self.rpc}",
            "dfs.replication": "2",
            "dfs.permissions.enabled": "true",
            "dfs.namenode.http-address": f"127.0.0.1:{self.http}",
            "dfs.namenode.safemode.extension": "0",
            "dfs.namenode.heartbeat.recheck-interval": "2000",
            "dfs.namenode.stale.datanode.interval": "3000",
            "dfs.namenode.fs-limits.min-block-size": "1024",
            "dfs.heartbeat.interval": "1",
            "dfs.datanode.address": "127.0.0.1:0",
            "dfs.datanode.http.address": "127.0.0.1:0",
            "dfs.datanode.ipc.address": "127.0.0.1:0",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.datanode.max.locked.memory": "0",
            **(settings or {}),
        }
        self.namenode = None
        self.datanodes = []

    def start(self):
        conf = self.conf("namenode", {"dfs.namenode.name.dir": self.folder / "name"})
        formatted = self.java(f"{SERVER}.namenode.NameNode", conf, "-format", "-nonInteractive")
        subprocess.run(formatted, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        self.namenode = Process("NameNode", self.java(f"{SERVER}.namenode.NameNode", conf), self.folder / "namenode.log")
        for number in range(self.count):
            conf = self.conf(f"datanode{number}", {"dfs.datanode.data.dir": self.folder / f"data{number}"})
            command = self.java(f"{SERVER}.datanode.DataNode", conf)
            self.datanodes.append(Process(f"DataNode {number}", command, self.folder / f"datanode{number}.log"))
        wait_for("the NameNode and its DataNodes", lambda: self.live() == self.count)
        # The tests run as whoever started them, who owns the root of the file system.
        wait_for("leaving safe mode", lambda: self.state() == "Operational")

    def conf(self, name, more):
        """A configuration folder for one process."""
        folder = self.folder / "conf" / name
        folder.mkdir(parents=True)
        properties = "".join(
            f"<property><name>{key}</name><value>{value}</value></property>"
            for key, value in {**self.settings, **more}.items()
        )
        for file in ("core-site.xml", "hdfs-site.xml"):
            (folder / file).write_text(f"<configuration>{properties}</configuration>")
        return folder

    def java(self, main, conf, *arguments):
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dhadoop.log.dir={self.folder}"]
        return ["java", *options, *opened, "-cp", f"{conf}:{self.jars}", main, *arguments]

    @property
    def url(self):
        return f"hdfs://127.0.0.1:{self.rpc}"

    def environment(self):
        """What the environment of a user of this cluster has."""
        return {}

    def state_of_namenode(self):
        self.namenode.check()
        query = f"http://127.0.0.1:{self.http}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        try:
            with urllib.request.urlopen(query, timeout=5) as answer:
                beans = json.load(answer)["beans"]
        except OSError:
            return {}
        return beans[0] if beans else {}

    def live(self):
        return self.state_of_namenode().get("NumLiveDataNodes")

    def state(self):
        return self.state_of_namenode().get("FSState")

    def admin(self, *arguments):
        """`hdfs dfsadmin`."""
        command = self.java("org.apache.hadoop.hdfs.tools.DFSAdmin", self.folder / "conf/namenode", *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def make_folder(self, path):
        query = f"http://127.0.0.1:{self.http}/webhdfs/v1{path}?op=MKDIRS&user.name={getpass.getuser()}"
        with urllib.request.urlopen(urllib.request.Request(query, method="PUT"), timeout=30):
            pass

    def listed(self, path="/"):
        """What the NameNode shows of a folder, by another way than dstl's: WebHDFS. Name and status of each entry, recursively."""
        query = f"http://127.0.0.1:{self.http}/webhdfs/v1{path}?op=LISTSTATUS"
        with urllib.request.urlopen(query, timeout=30) as answer:
            entries = json.load(answer)["FileStatuses"]["FileStatus"]
        found = {}
        for entry in entries:
            name = f"{path.rstrip('/')}/{entry['pathSuffix']}"
            found[name] = entry
            if entry["type"] == "DIRECTORY":
                found.update(self.listed(name))
        return found

    def files(self, path):
        """How many files are below a folder, which need not exist."""
        try:
            return sum(entry["type"] == "FILE" for entry in self.listed(path).values())
        except urllib.error.HTTPError:
            return 0

    def stop(self):
        for process in [*self.datanodes, self.namenode]:
            if process:
                process.kill()


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory(prefix="dstl-hdfs-") as folder:
        cluster = Hdfs(folder, datanodes=int(sys.argv[1]) if sys.argv[1:] else 3)
        try:
            cluster.start()
            print(f"HDFS is ready at {cluster.url}; it ends when its input does", flush=True)
            sys.stdin.read()
        finally:
            cluster.stop()
