"""A private daemon for tests of your own.

```python
from dstl.testing import Daemon

with Daemon() as daemon, daemon.client() as client:
    ...
    daemon.kill()       # as a crash does
    daemon.start()      # another process on the same store
```

The program is `$DSTL_BIN`, else `dstl` on the path. With pytest, this package brings two fixtures: `dstl_daemon`, a `Daemon` for each test,
and `dstl_client`, a blocking client of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from .. import Client, connect

__all__ = ["Daemon", "find_binary"]

_START_SECONDS = 60.0


def find_binary() -> str:
    """The daemon's program; `FileNotFoundError` if there is none."""
    named = os.environ.get("DSTL_BIN")
    found = named or shutil.which("dstl")
    if not found or not os.access(found, os.X_OK):
        raise FileNotFoundError(
            f"no daemon at `{found}`: set DSTL_BIN to the program `dstl`" if found else "no program `dstl` on the path: set DSTL_BIN to it"
        )
    return found


class Daemon:
    """A daemon process with a socket, a store and local files of its own, in a temporary folder that ends with it.

    `settings` are options of the daemon as `"key=value"`, as `dstl config options` lists them. `store` is a URL or path, by default in the
    temporary folder.
    """

    def __init__(self, *, settings: Iterable[str] = (), binary: str | None = None, store: str | os.PathLike[str] | None = None) -> None:
        self._binary, self._settings = binary or find_binary(), tuple(settings)
        # The path of a Unix socket has 107 bytes at most, so that deep default folders do not do.
        base = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="dstl-", dir=base if len(base) < 60 else "/tmp"))
        self.socket = str(self.folder / "dstl.sock")
        self.log = self.folder / "log"
        self.store = os.fspath(store) if store is not None else str(self.folder / "store")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Daemon:
        """Starts the process, and waits until it serves. Raises `RuntimeError` with its log if it does not."""
        if self.is_running:
            return self
        command = [self._binary, "serve", "--socket", self.socket, "--store", self.store, "--admin", "off"]
        for setting in (f"dstl.data-dir={self.folder}/data", *self._settings):
            command += ["--set", setting]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DSTL_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + _START_SECONDS
        while not self._serves():
            if not self.is_running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the daemon does not serve: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        return self

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process, while there is one; `RuntimeError` if none was started."""
        if self._process is None:
            raise RuntimeError("the daemon was not started")
        return self._process.pid

    def client(self) -> Client:
        """A blocking client; close it. (`dstl.aio.connect(daemon.socket)` makes the other.)"""
        return connect(self.socket)

    def kill(self) -> None:
        """Ends the process at once, as `kill -9` does. The store stays."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Stops the process until `resume`, as a host does that hangs. Returns when all of its threads stand still."""
        self._signal(signal.SIGSTOP)
        # The signal stops each thread when that is next about to run.
        while self.is_running and not self._stands_still():
            time.sleep(0.005)

    def _stands_still(self) -> bool:
        for thread in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            try:
                # The state follows the name, which is in parentheses.
                state = thread.read_text().rpartition(") ")[2][0]
            except OSError:
                # It has ended.
                continue
            if state not in "TtZX":
                return False
        return True

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends the process in order, and removes all that it had."""
        self.resume()
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def __enter__(self) -> Daemon:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
