#!/usr/bin/env bash
# Counts the words of files on a Flink cluster of processes whose parts are killed: demo.sh FILE… -- [dstl changelog rocksdb heap]. See Demo.java. DSTL_BIN
# names the daemon; LINES_IN_ALL and PER_SECOND choose how much is counted. Ends with 0 if every result was right.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do files+=("$1"); shift; done
[ $# -eq 0 ] || shift
text=$(mktemp)
trap 'rm -f "$text"' EXIT
cat "${files[@]}" | grep . > "$text"
# Processes that live for a minute or two: code is compiled once and quickly, or the compilers take the machine.
export JAVA_OPTS="${JAVA_OPTS:--XX:TieredStopAtLevel=1}"
XMX=512m "$here/run.sh" io.dstl.flink.demo.Demo "$text" "${LINES_IN_ALL:-150000}" "${PER_SECOND:-250}" "$@"
