#!/usr/bin/env bash
# Runs the bench in the environment of the tests, with redis-py and redis-server beside it (as root on Debian they are installed).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/../tools/environment.sh" bench)
if ! command -v redis-server >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # The server alone: nothing is to be started by the package.
    apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends redis-server >&2
fi
exec "$python" "$here/many.py" "$@"
