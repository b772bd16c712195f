#!/usr/bin/env bash
# Measures saturated jobs on dstl beside Flink's heap and RocksDB, with and without changelog, in one run: see Bench.java. DSTL_BIN names
# the daemon. KEYS and SECONDS_EACH choose; WORK=1,2 and SETS="uniform zipf large" narrow it down.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
keys=${KEYS:-200000}
seconds=${SECONDS_EACH:-9}
echo '| backend | kind | work | keys | access | k records/s (median of 3) | checkpoint ms p50 / max (n) |'
echo '| --- | --- | --- | --- | --- | --- | --- |'
for set in ${SETS:-uniform large zipf}; do
  case $set in
    uniform) n=$keys zipf=off;;
    large) n=$((keys * 10)) zipf=off;;
    zipf) n=$((keys * 10)) zipf=on;;
  esac
  for work in $(echo "${WORK:-1,2,3,4}" | tr ',' ' '); do
    for kind in "backend=dstl inner=hashmap" "backend=dstl inner=rocksdb" "backend=hashmap changelog=off" "backend=hashmap changelog=on" \
      "backend=rocksdb changelog=off" "backend=rocksdb changelog=on"; do
      # shellcheck disable=SC2086
      "$here/run.sh" io.dstl.flink.bench.Bench $kind work="$work" keys="$n" zipf="$zipf" seconds="$seconds" \
        2> >(grep -v WARN >&2) | grep '^|' || echo "| $kind | failed | W$work | $n | $set | | |"
    done
  done
done
