"""Runs dstl on real stores: `run.py DSTL [STORE…] [--unit COMMAND]`, where COMMAND runs the unit tests that need a store.

Each part is named with its outcome; the first failure ends it with exit code 1.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile

from azurite import Azurite
from faults import OnAzurite, OnGcs, OnHdfs, OnRadosgw
from gcs import Gcs
from hdfs import Hdfs
from radosgw import Radosgw
from runner import Failed

STORES = {
    "hdfs": (Hdfs, OnHdfs),
    "radosgw": (Radosgw, OnRadosgw),
    "azurite": (Azurite, OnAzurite),
    "gcs": (Gcs, OnGcs),
}


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
        server, runner = STORES[name]
        with tempfile.TemporaryDirectory(prefix=f"dstl-{name}-") as folder:
            server = server(folder)
            try:
                server.start()
                runner = runner(dstl, server, folder, arguments.unit)
                runner.common()
                runner.faults()
            finally:
                server.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main()
    except (Failed, TimeoutError, RuntimeError, subprocess.SubprocessError) as error:
        sys.exit(f"FAILED: {error}")
