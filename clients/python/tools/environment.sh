#!/usr/bin/env bash
# Makes a virtual environment with this package and what its tests need, and prints its interpreter. It is in ~/.cache/dstl/python-client, by
# a hash of what decides on it, so that it is made once and works offline then. The package itself is installed by a link to its sources.
#   environment.sh [test|bench|flink|quix]      PYTHON=… names the interpreter
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
group=${1:-test}
python=${PYTHON:-python3}
# Of pyproject.toml what comes before the settings of tools, which need no new environment.
hash=$({
    sed '/^\[tool\.mypy\]/,$d' "$here/pyproject.toml"
    cat "$here/tools/requirements-$group.txt"
    if [ "$group" = bench ]; then cat "$here/tools/requirements-test.txt"; fi
    "$python" -VV
    echo "$here"
} | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/dstl/python-client/$group-$hash
if [ ! -e "$folder/ready" ]; then
    mkdir -p "$(dirname "$folder")"
    exec 9>"$folder.lock"
    flock 9
    if [ ! -e "$folder/ready" ]; then
        rm -rf "$folder"
        "$python" -m venv "$folder" >&2
        "$folder/bin/pip" install -q --disable-pip-version-check -r "$here/tools/requirements-$group.txt" >&2
        "$folder/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation --editable "$here" >&2
        touch "$folder/ready"
    fi
fi
echo "$folder/bin/python"
