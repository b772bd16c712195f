#!/usr/bin/env bash
# Runs a class of the tests with the packaged jar and Flink's own: run.sh CLASS ARGS…. `make flink-jar` comes first. JAVA_OPTS adds
# options of the JVM.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
jar=$here/target/dstl-flink-0.1.0-all.jar
[ -e "$jar" ] && [ -d "$here/target/test-classes" ] || { echo "run.sh: $jar is missing: make flink-jar" >&2; exit 1; }
list=$here/target/classpath
if [ ! -e "$list" ] || [ "$here/pom.xml" -nt "$list" ]; then
  # What the jar has inside comes from nowhere else.
  "$here/../../.ci/mvn" -q -pl flink dependency:build-classpath -Dmdep.includeScope=test -Dmdep.outputFile="$list" \
    -DexcludeGroupIds=io.dstl,io.grpc,com.google.protobuf,com.google.guava,com.google.api.grpc,io.perfmark
fi
# As Flink starts its own processes (`env.java.default-opts.all`).
opens=()
for package in java.lang java.lang.reflect java.net java.io java.nio java.text java.time java.util java.util.concurrent \
  java.util.concurrent.atomic java.util.concurrent.locks sun.nio.ch; do
  opens+=("--add-opens=java.base/$package=ALL-UNNAMED")
done
# shellcheck disable=SC2086
exec java ${JAVA_OPTS:-} -Xmx"${XMX:-4g}" -XX:MaxDirectMemorySize=1g "${opens[@]}" \
  -Ddstl.parent="${TMPDIR:-/tmp}" -Dlog4j.configurationFile="$here/src/test/resources/log4j2-test.properties" \
  -cp "$here/target/test-classes:$jar:$(cat "$list")" "$@"
