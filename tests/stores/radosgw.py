"""Ceph's gateway for S3, for tests: a monitor, an OSD on a sparse file and the gateway, each a process of its own."""

import os
import pathlib
import shutil
import subprocess
import urllib.request
import uuid

import s3
from processes import Process, free_port, wait_for

PROGRAMS = ["ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"]
PACKAGES = ["ceph-common", "ceph-mon", "ceph-osd", "radosgw"]
USER = "dstl"
ACCESS_KEY, SECRET_KEY = "stores", "not-a-secret"
OSD_BYTES = 4 << 30
# What else it does at its first start takes 16 s on idle cores.
START_SECONDS = 300


def install():
    """Ceph's programs, from Debian, where they are missing."""
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(f"Ceph is missing: as root on Debian, apt-get install --no-install-recommends {' '.join(PACKAGES)}")
    print(f"radosgw: installing {' '.join(PACKAGES)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class Radosgw:
    """A cluster of one monitor and one OSD, with one gateway and one bucket."""

    name = "radosgw"
    bucket = "stores"

    def __init__(self, folder):
        install()
        self.folder = pathlib.Path(folder)
        self.port = free_port()
        self.fsid = str(uuid.uuid4())
        self.monitor_address = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        self.conf = self.folder / "ceph.conf"
        self.monitor = self.osd = self.gateway = None

    def settings(self):
        """The least that runs without passwords, and keeps away from a cluster that this host may have."""
        folder = self.folder
        return f"""
[global]
fsid = {self.fsid}
mon host = {self.monitor_address}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {folder}/run
log file = {folder}/$name.log
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
crash dir = {folder}/run
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
[mon.a]
mon data = {folder}/mon/data
[osd.0]
osd data = {folder}/osd
bluestore block size = {OSD_BYTES}
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{self.port}
"""

    def start(self):
        folder, log = self.folder, self.folder / "processes.log"
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir()
        self.conf.write_text(self.settings())
        self.tool("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", self.monitor_address, folder / "monmap")
        self.tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap")
        self.monitor = Process("ceph-mon", self.command("ceph-mon", "-i", "a", "-f"), log)
        osd = str(uuid.uuid4())
        self.tool("ceph", "osd", "new", osd)
        self.tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.osd = Process("ceph-osd", self.command("ceph-osd", "-i", "0", "-f"), log)
        self.tool(
            "radosgw-admin", "-n", "client.rgw", "user", "create", f"--uid={USER}", "--display-name=dstl",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}",
        )
        self.gateway = Process("radosgw", self.command("radosgw", "-n", "client.rgw", "-f"), log)
        wait_for("the gateway", self.answers, START_SECONDS)
        s3.request(self, "PUT", f"/{self.bucket}")

    def command(self, program, *arguments):
        return [program, "-c", str(self.conf), *map(str, arguments)]

    def tool(self, *command):
        subprocess.run(
            self.command(*command), check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=START_SECONDS
        )

    def answers(self):
        for process in (self.monitor, self.osd, self.gateway):
            process.check()
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5):
                return True
        except OSError:
            return False

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self):
        return ACCESS_KEY, SECRET_KEY

    @property
    def url(self):
        return f"s3://{self.bucket}"

    def environment(self):
        """What the environment of a user of this store has."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": s3.REGION, "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def files(self, path):
        """How many objects are below a folder, by another way than dstl's; at most a page of them is counted."""
        return s3.listed(self, self.bucket, path.strip("/") + "/").count("<Key>")

    def stop(self):
        for process in (self.gateway, self.osd, self.monitor):
            if process:
                process.kill()
