#!/usr/bin/env bash
# Builds the measurements of Flink (`run.sh prepare`), or runs one: `run.sh job NAME=VALUE…` a job, `run.sh bare NAME=VALUE…`
# the state backend alone; see Job.java. HEAP_GIB is the heap of its JVM. Maven brings Flink, once; its cache lies outside the
# checkout (.ci/mvn).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
classes=$here/target/classes
list=$here/target/classpath
mark=$here/target/built

prepare() {
  if [ -e "$mark" ] && [ -z "$(find "$here/pom.xml" "$here/src" -newer "$mark" -print -quit)" ]; then return; fi
  POM=benches/peers/flink/pom.xml "$here/../../../.ci/mvn" -q compile dependency:build-classpath \
    -Dmdep.outputFile=target/classpath
  touch "$mark"
}

# Runs a class with its arguments in place of this shell, so that who started it can end it by its process.
run() {
  # As Flink starts its own processes (`env.java.default-opts.all`).
  local opens=() package
  for package in java.lang java.lang.reflect java.net java.io java.nio java.text java.time java.util \
    java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks sun.nio.ch; do
    opens+=("--add-opens=java.base/$package=ALL-UNNAMED")
  done
  local heap=${HEAP_GIB:-6}g
  exec java -Xms"$heap" -Xmx"$heap" -XX:MaxDirectMemorySize=2g "${opens[@]}" -cp "$classes:$(cat "$list")" "$@"
}

command=${1:?prepare, job or bare}
shift
case "$command" in
  prepare) prepare ;;
  job) run io.dstl.peers.Job "$@" ;;
  bare) run io.dstl.peers.Bare "$@" ;;
  *) echo "run.sh: prepare, job or bare, not $command" >&2; exit 64 ;;
esac
