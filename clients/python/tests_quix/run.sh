#!/usr/bin/env bash
# Runs Quix Streams' own suite of state, windows and joins on dstl (see swap.py), then what is tested here of `dstl.quixstreams`.
# QUIX_SOURCE names its repository, where the machine does not reach GitHub.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/../tools/environment.sh" quix)
version=$(sed -n 's/^quixstreams==//p' "$here/../tools/requirements-quix.txt")
suite=${XDG_CACHE_HOME:-$HOME/.cache}/dstl/quix-streams-$version
if [ ! -e "$suite/ready" ]; then
    rm -rf "$suite" && mkdir -p "$suite"
    git -C "$suite" init -q
    git -C "$suite" fetch -q --depth 1 "${QUIX_SOURCE:-https://github.com/quixio/quix-streams}" "refs/tags/v$version"
    git -C "$suite" checkout -q FETCH_HEAD -- tests
    touch "$suite/ready"
fi
cd "$suite"
# test_lookup_postgres.py reads tables of a PostgreSQL server, and keeps no state.
PYTHONPATH=$here "$python" -m pytest -q -p swap -p no:cacheprovider -W ignore --ignore-glob '*test_lookup_postgres.py' "$@" \
    tests/test_quixstreams/test_state tests/test_quixstreams/test_dataframe
"$python" -m pytest -q -p no:cacheprovider -W ignore "$@" "$here/test_quixstreams.py"
