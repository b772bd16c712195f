"""Google Cloud Storage for tests: a fake of our own, since no server of others takes object_store's requests (see `gcs_server.py`)."""

import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request

TOKEN = "ours"


class Gcs:
    """The fake, with one bucket."""

    name = "gcs"
    bucket = "stores"

    def __init__(self, folder):
        self.child = self.endpoint = None

    def start(self):
        command = [sys.executable, "-B", pathlib.Path(__file__).with_name("gcs_server.py"), self.bucket, TOKEN]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.child.stdout.readline().strip()
        if not self.endpoint.startswith("http://127.0.0.1:"):
            raise RuntimeError(f"the fake of GCS said `{self.endpoint}`")

    @property
    def url(self):
        return f"gs://{self.bucket}"

    def environment(self):
        """What the environment of a user of this store has."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": TOKEN}

    def files(self, path):
        """How many objects are below a folder; at most a page of them is counted."""
        query = urllib.parse.urlencode({"list-type": "2", "prefix": path.strip("/") + "/"})
        asked = urllib.request.Request(f"{self.endpoint}/{self.bucket}?{query}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read().decode().count("<Key>")

    def stop(self):
        if self.child:
            self.child.kill()
            self.child.wait()
