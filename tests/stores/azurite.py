"""Microsoft's emulator of Azure's blobs, for tests. It loses what it acknowledged when it is killed, so nobody kills it."""

import base64
import datetime
import hmac
import os
import pathlib
import shutil
import subprocess
import urllib.parse
import urllib.request

from processes import Process, free_port, wait_for

VERSION = "3.35.0"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / f"dstl/azurite-{VERSION}"
# Everybody's.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def program():
    """Azurite, from npm, installed once."""
    found = CACHE / "node_modules/azurite/dist/src/blob/main.js"
    if not found.exists():
        missing = [name for name in ("node", "npm") if not shutil.which(name)]
        if missing:
            raise RuntimeError(f"Azurite needs Node.js 20 or newer: {' and '.join(missing)} missing")
        print(f"azurite: installing version {VERSION}", flush=True)
        # Whole or not there: another name until then.
        new = pathlib.Path(f"{CACHE}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", new, f"azurite@{VERSION}"],
            check=True, stdin=subprocess.DEVNULL,
        )
        new.rename(CACHE)
    return found


class Azurite:
    """One server with one container."""

    name = "azurite"
    container = "stores"

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.port = free_port()
        self.process = None

    def start(self):
        command = [
            "node", program(), "--silent", "--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", str(self.port),
            "--location", self.folder / "data",
        ]
        self.process = Process("Azurite", command, self.folder / "azurite.log")
        wait_for("Azurite", self.answers)
        self.request("PUT", f"/{self.container}", {"restype": "container"})

    def answers(self):
        self.process.check()
        try:
            self.request("GET", "/", {"comp": "list"})
        except OSError:
            return False
        return True

    def request(self, method, path, query):
        """A request by another client than dstl's: signed by hand. Gives the text of the answer."""
        time = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": time, "x-ms-version": "2021-08-06"}
        lines = [f"{name}:{value}" for name, value in headers.items()]
        # The emulator's paths begin with the account, which is said once more before.
        resource = [f"/{ACCOUNT}/{ACCOUNT}{path}", *(f"{name}:{value}" for name, value in sorted(query.items()))]
        signed = "\n".join([method, *[""] * 11, *lines, *resource])
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
        headers["authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        url = f"{self.endpoint}/{ACCOUNT}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=30) as answer:
            return answer.read().decode()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"az://{self.container}"

    def environment(self):
        """What the environment of a user of this store has."""
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.endpoint}

    def files(self, path):
        """How many objects are below a folder, by another way than dstl's; at most a page of them is counted."""
        query = {"restype": "container", "comp": "list", "prefix": path.strip("/") + "/"}
        return self.request("GET", f"/{self.container}", query).count("<Blob>")

    def stop(self):
        if self.process:
            self.process.kill()
