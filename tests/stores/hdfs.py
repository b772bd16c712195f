"""HDFS for tests: Hadoop's own NameNode and DataNodes, each a process of its own."""

import getpass
import hashlib
import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request

from processes import Process, free_port, once, wait_for

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("DSTL_M2") or pathlib.Path.home() / ".cache/dstl/m2")
SERVER = "org.apache.hadoop.hdfs.server"
# Hadoop looks into classes of the JDK that are closed since Java 17.
OPENED = [
    "java.io", "java.lang", "java.lang.reflect", "java.math", "java.net", "java.nio", "java.text", "java.util",
    "java.util.concurrent", "java.util.zip", "sun.security.util", "sun.security.x509",
]


@once
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
    host = "127.0.0.1"
    java_options = []

    def __init__(self, folder, datanodes=3, settings=None):
        self.folder = pathlib.Path(folder)
        self.count, self.jars = datanodes, class_path()
        self.rpc, self.http = free_port(), free_port()
        self.settings = {
            "fs.defaultFS": f"hdfs://{self.host}:{self.rpc}",
            "dfs.replication": "2",
            "dfs.permissions.enabled": "true",
            "dfs.namenode.http-address": f"{self.host}:{self.http}",
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
        self.start_namenodes()
        for number in range(self.count):
            command = self.java(f"{SERVER}.datanode.DataNode", self.datanode_conf(number))
            self.datanodes.append(Process(f"DataNode {number}", command, self.folder / f"datanode{number}.log"))
        self.await_datanodes()
        # The tests run as whoever started them, who owns the root of the file system.
        wait_for("leaving safe mode", lambda: self.state() == "Operational")

    def datanode_conf(self, number, reserved_bytes=0):
        own = {"dfs.datanode.data.dir": self.folder / f"data{number}", "dfs.datanode.du.reserved": reserved_bytes}
        return self.conf(f"datanode{number}", own)

    def await_datanodes(self):
        wait_for("the DataNodes", lambda: self.live() == self.count)

    def restart_datanodes(self, reserved_bytes):
        """Starts all DataNodes anew, which leave so many bytes of their disks to others."""
        for number, datanode in enumerate(self.datanodes):
            datanode.kill()
            self.datanode_conf(number, reserved_bytes)
        wait_for("the loss of the DataNodes", lambda: self.live() == 0)
        for datanode in self.datanodes:
            datanode.start()
        self.await_datanodes()

    def start_namenodes(self):
        self.namenode = self.start_namenode("namenode", {"dfs.namenode.name.dir": self.folder / "name"}, "-format")

    def start_namenode(self, name, settings, prepare):
        """Starts a NameNode of this name, after it has made its folder in the way that the argument `prepare` says."""
        conf = self.conf(name, settings)
        self.command(f"{SERVER}.namenode.NameNode", prepare, "-nonInteractive", conf=conf)
        return Process(name, self.java(f"{SERVER}.namenode.NameNode", conf), self.folder / f"{name}.log")

    def command(self, main, *arguments, conf):
        """Runs a program of Hadoop to its end, and gives what it prints."""
        done = subprocess.run(self.java(main, conf, *arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(f"{main} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr[-3000:]}")
        return done.stdout

    def conf(self, name, more):
        """A configuration folder for one process."""
        folder = self.folder / "conf" / name
        folder.mkdir(parents=True, exist_ok=True)
        properties = "".join(
            f"<property><name>{key}</name><value>{value}</value></property>"
            for key, value in {**self.settings, **more}.items()
        )
        for file in ("core-site.xml", "hdfs-site.xml"):
            (folder / file).write_text(f"<configuration>{properties}</configuration>")
        return folder

    def java(self, main, conf, *arguments):
        """The command that runs a program of Hadoop."""
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dhadoop.log.dir={self.folder}"]
        return ["java", *options, *self.java_options, *opened, "-cp", f"{conf}:{self.jars}", main, *arguments]

    @property
    def url(self):
        return f"hdfs://{self.host}:{self.rpc}"

    def environment(self):
        """What the environment of a user of this cluster has."""
        return {}

    def state_of_namenode(self):
        self.namenode.check()
        return self.asked(self.http)

    def asked(self, http):
        """What the NameNode with this HTTP port says of itself; nothing while it does not answer."""
        query = f"http://{self.host}:{http}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
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
        return self.command("org.apache.hadoop.hdfs.tools.DFSAdmin", *arguments, conf=self.folder / "conf/namenode")

    def make_folder(self, path):
        query = f"http://{self.host}:{self.http}/webhdfs/v1{path}?op=MKDIRS&user.name={getpass.getuser()}"
        with urllib.request.urlopen(urllib.request.Request(query, method="PUT"), timeout=30):
            pass

    def listed(self, path="/"):
        """What the NameNode shows of a folder, by another way than dstl's: WebHDFS. Name and status of each entry, recursively."""
        query = f"http://{self.host}:{self.http}/webhdfs/v1{path}?op=LISTSTATUS"
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

    def processes(self):
        return [*self.datanodes, self.namenode]

    def stop(self):
        for process in self.processes():
            if process:
                process.kill()


class Member:
    """One NameNode of several."""

    def __init__(self, id):
        self.id, self.rpc, self.http, self.process = id, free_port(), free_port(), None


class HaHdfs(Hdfs):
    """A nameservice of two NameNodes, of which one is active; they share their log by a folder, and a person lets them change places."""

    name = "hdfs-ha"
    service = "cluster"

    def __init__(self, folder):
        self.members = [Member("one"), Member("two")]
        self.active = None
        addresses = {}
        for member in self.members:
            addresses[f"dfs.namenode.rpc-address.{self.service}.{member.id}"] = f"{self.host}:{member.rpc}"
            addresses[f"dfs.namenode.http-address.{self.service}.{member.id}"] = f"{self.host}:{member.http}"
        super().__init__(folder, settings={
            "fs.defaultFS": self.url,
            "dfs.nameservices": self.service,
            f"dfs.ha.namenodes.{self.service}": ",".join(member.id for member in self.members),
            f"dfs.client.failover.proxy.provider.{self.service}": f"{SERVER}.namenode.ha.ConfiguredFailoverProxyProvider",
            "dfs.namenode.shared.edits.dir": f"file://{folder}/shared",
            "dfs.ha.fencing.methods": "shell(/bin/true)",
            "dfs.ha.tail-edits.period": "1",
            **addresses,
        })
        del self.settings["dfs.namenode.http-address"]

    def start_namenodes(self):
        for member, prepare in zip(self.members, ("-format", "-bootstrapStandby")):
            own = {"dfs.ha.namenode.id": member.id, "dfs.namenode.name.dir": self.folder / f"name-{member.id}"}
            member.process = self.start_namenode(member.id, own, prepare)
            self.await_namenode(member)
        self.activate(self.members[0])

    def await_namenode(self, member):
        def serves():
            member.process.check()
            return self.asked(member.http)

        wait_for(f"the NameNode {member.id}", serves)

    def activate(self, member):
        """Makes a NameNode the active one, as one does who knows that the other one is not."""
        self.ha_admin("-transitionToActive", "--forceactive", member.id)
        self.active, self.rpc, self.http, self.namenode = member, member.rpc, member.http, member.process

    def ha_admin(self, *arguments):
        """`hdfs haadmin`."""
        self.command("org.apache.hadoop.hdfs.tools.DFSHAAdmin", *arguments, conf=self.folder / "conf" / self.members[0].id)

    def other(self):
        return next(member for member in self.members if member is not self.active)

    @property
    def url(self):
        return f"hdfs://{self.service}"

    def environment(self):
        return {"HADOOP_CONF_DIR": str(self.folder / "conf" / self.members[0].id)}

    def processes(self):
        return [*self.datanodes, *(member.process for member in self.members)]


class Kerberos:
    """A key distribution centre: Hadoop's, of one realm. Its files are `krb5.conf`, and a keytab of all principals."""

    realm = "EXAMPLE.COM"

    def __init__(self, folder, principals):
        self.folder = pathlib.Path(folder) / "kdc"
        self.folder.mkdir()
        self.conf, self.keytab = self.folder / "krb5.conf", self.folder / "keytab"
        self.process, self.principals = None, principals

    def start(self):
        settings = self.folder / "settings"
        settings.write_text(f"org.name=EXAMPLE\norg.domain=COM\nkdc.bind.address=localhost\nkdc.port={free_port()}\n")
        command = [
            "java", "-Xmx128m", "-cp", class_path(), "org.apache.hadoop.minikdc.MiniKdc", self.folder, settings, self.keytab,
            *self.principals,
        ]
        log = self.folder / "log"
        self.process = Process("the KDC", command, log)

        def ready():
            self.process.check()
            return "Standalone MiniKdc Running" in log.read_text()

        wait_for("the KDC", ready)

    def stop(self):
        if self.process:
            self.process.kill()


class KerberosHdfs(Hdfs):
    """A cluster that takes nobody without a ticket, and encrypts all that it sends."""

    name = "hdfs-kerberos"
    # Principals of services have names of hosts.
    host = "localhost"

    def __init__(self, folder):
        self.kerberos = Kerberos(folder, ["hdfs", "nobody", f"hdfs/{self.host}", f"HTTP/{self.host}"])
        self.java_options = [f"-Djava.security.krb5.conf={self.kerberos.conf}"]
        keytab, realm = self.kerberos.keytab, self.kerberos.realm
        service, web = f"hdfs/{self.host}@{realm}", f"HTTP/{self.host}@{realm}"
        super().__init__(folder, settings={
            "hadoop.security.authentication": "kerberos",
            "hadoop.rpc.protection": "privacy",
            "dfs.data.transfer.protection": "privacy",
            "dfs.block.access.token.enable": "true",
            "dfs.namenode.kerberos.principal": service,
            "dfs.namenode.keytab.file": keytab,
            "dfs.datanode.kerberos.principal": service,
            "dfs.datanode.keytab.file": keytab,
            "dfs.web.authentication.kerberos.principal": web,
            "dfs.web.authentication.kerberos.keytab": keytab,
            # DataNodes that others start need certificates, or ports below 1024.
            "ignore.secure.ports.for.testing": "true",
            "dfs.datanode.hostname": self.host,
        })

    def start(self):
        self.kerberos.start()
        super().start()

    def environment(self):
        """The store options of a user with a keytab; the cluster takes the user of this name for the one who started it."""
        return self.environment_of("hdfs")

    def environment_of(self, user, keytab=None):
        config = self.folder / f"{user}.toml"
        config.write_text(f"""
[state.changelog.dstl.dfs.store-options]
kerberos_principal = "{user}@{self.kerberos.realm}"
kerberos_keytab = "{keytab or self.kerberos.keytab}"
""")
        return {**self.without_ticket(), "DSTL_CONFIG": str(config)}

    def without_ticket(self):
        return {
            "HADOOP_CONF_DIR": str(self.folder / "conf/namenode"), "KRB5_CONFIG": str(self.kerberos.conf),
            "KRB5CCNAME": f"FILE:{self.folder}/no-tickets",
        }

    def tickets(self):
        """The environment of a user whose tickets come from a keytab that Kerberos itself is told of."""
        return {"KRB5CCNAME": f"FILE:{self.folder}/tickets", "KRB5_CLIENT_KTNAME": f"FILE:{self.kerberos.keytab}"}

    def blocks(self):
        """How many blocks the disks of the DataNodes have: whoever asks the NameNode needs a ticket."""
        return sum(not name.suffix for name in self.folder.glob("data*/**/finalized/**/blk_*"))

    def processes(self):
        return [*super().processes(), self.kerberos.process]


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
