"""Runs dstl on real stores: `run.py DSTL [STORE…] [--unit COMMAND]`, where COMMAND runs the unit tests that need a store.

Each part is named with its outcome; after the first failure no part begins any more, and the exit code is 1.
"""

import argparse
import concurrent.futures
import os
import signal
import sys
import tempfile
import time

from azurite import Azurite
from faults import OnAzurite, OnGcs, OnHaHdfs, OnHdfs, OnKerberosHdfs, OnRadosgw
from gcs import Gcs
from hdfs import HaHdfs, Hdfs, KerberosHdfs
from radosgw import Radosgw
from runner import ENDED, Ended

STORES = {
    "radosgw": (Radosgw, OnRadosgw),
    "hdfs": (Hdfs, OnHdfs),
    "hdfs-ha": (HaHdfs, OnHaHdfs),
    "hdfs-kerberos": (KerberosHdfs, OnKerberosHdfs),
    "azurite": (Azurite, OnAzurite),
    "gcs": (Gcs, OnGcs),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dstl")
    parser.add_argument("stores", nargs="*")
    parser.add_argument("--unit")
    parser.add_argument("--jobs", type=int, default=2, help="how many stores are tested at the same time")
    arguments = parser.parse_args()
    for name in arguments.stores:
        if name not in STORES:
            parser.error(f"no store is named {name}, but {', '.join(STORES)} are")
    begun = time.monotonic()
    names = arguments.stores or list(STORES)
    dstl = os.path.abspath(arguments.dstl)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        passed = list(pool.map(lambda name: test(dstl, name, arguments.unit), names))
    if not all(passed):
        sys.exit(1)
    print(f"stores: {' '.join(names)} ... ok, {time.monotonic() - begun:.0f} s", flush=True)


def test(dstl, name, unit):
    """Whether every part passed on this store."""
    server, runner = STORES[name]
    if ENDED.is_set():
        return False
    try:
        with tempfile.TemporaryDirectory(prefix=f"dstl-{name}-") as folder:
            server = server(folder)
            try:
                server.start()
                runner = runner(dstl, server, folder, unit)
                runner.common()
                runner.faults()
            finally:
                server.stop()
        return True
    except Ended:
        print(f"{name}: CUT, since another store failed", flush=True)
    except Exception as error:
        # Told at once: the others go on to the end of their parts.
        ENDED.set()
        print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
    return False


if __name__ == "__main__":
    # Servers end with their stores.
    signal.signal(signal.SIGTERM, lambda *_: ENDED.set())
    main()
