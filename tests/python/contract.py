#!/usr/bin/env python3
"""Proves the engine contract (`proto/dstl/v1`) against a real daemon, with stock grpcio over the Unix socket.

    contract.py [--binary target/release/dstl] [--set KEY=VALUE] [--workers N] [--keep] [--module NAME] [WORD…]

Runs every scenario, or those of one module, or those whose names contain one of the words, each against `dstl serve` processes that it starts
itself. Ends with `N passed, N failed`; the exit code is 1 if any failed. The binary can also be named by `DSTL_BINARY`.
"""

import argparse
import concurrent.futures
import faulthandler
import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

import support
import world

# The order is that of the life of a backend; scenarios run beside each other all the same.
import opening  # noqa: F401
import operations  # noqa: F401
import timers  # noqa: F401
import sessions  # noqa: F401
import ttl  # noqa: F401
import checkpoints  # noqa: F401
import outage  # noqa: F401
import tails  # noqa: F401
import changelog_off  # noqa: F401
import service  # noqa: F401
import crashes  # noqa: F401
import zombie  # noqa: F401
import damage  # noqa: F401
import jobs  # noqa: F401
import coordination  # noqa: F401
import rescale  # noqa: F401
import claims  # noqa: F401
import starts  # noqa: F401
import operator_state  # noqa: F401
import schema  # noqa: F401
import query  # noqa: F401
import savepoints  # noqa: F401
import imports  # noqa: F401
import warm  # noqa: F401

# After so long something hangs: every thread is shown, and the run fails.
LIMIT_SECONDS = 420


def run(function, index, options, root):
    started = time.monotonic()
    place = world.World(options.binary, root, function.__name__, index)
    fault = None
    try:
        function(place)
    except BaseException:
        fault = traceback.format_exc()
    finally:
        place.close()
    took = time.monotonic() - started
    sentence = function.__name__.replace("_", " ")
    print(f"{'FAILED' if fault else 'ok':6} {took:6.2f} s  {sentence}", flush=True)
    return sentence, fault


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = pathlib.Path(__file__).resolve().parents[2] / "target/release/dstl"
    parser.add_argument("--binary", default=os.environ.get("DSTL_BINARY", str(default)))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set an option of every daemon")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--module", help="run only the scenarios of this module, for example `opening`")
    parser.add_argument("--keep", action="store_true", help="keep the folder of stores and logs")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    support.SETTINGS[:] = options.set
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    # Socket paths are limited to 107 bytes, so that deep default folders do not do.
    root = tempfile.mkdtemp(prefix="dstl-py-", dir="/tmp")
    chosen = [
        (index, function)
        for index, function in enumerate(world.SCENARIOS)
        if options.module in (None, function.__module__)
        and (not options.words or any(word in function.__name__ for word in options.words))
    ]
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        runs = [pool.submit(run, function, index, options, root) for index, function in chosen]
        results = [future.result() for future in runs]
    failures = [(sentence, fault) for sentence, fault in results if fault]
    try:
        world.World.close_shared()
    except AssertionError as error:
        failures.append(("the daemon stays up", str(error)))
    for sentence, fault in failures:
        print(f"\n---- {sentence}\n{fault}")
    if options.keep or failures:
        print(f"stores and logs are in {root}")
    else:
        shutil.rmtree(root)
    print(f"{len(results) - min(len(results), len(failures))} passed, {len(failures)} failed", flush=True)
    # Threads of sessions that were left unread must not hold up the end.
    os._exit(1 if failures or not results else 0)


if __name__ == "__main__":
    sys.exit(main())
