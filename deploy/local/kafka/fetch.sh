#!/bin/sh
# Copies the Kafka broker and what it needs from Maven Central to target/kafka/lib.
# Does nothing when the jars of this very pom are there already.
#
#   deploy/local/kafka/fetch.sh [TARGET_DIR]     (default: target/kafka in this checkout)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${1:-$root/target/kafka}
pom=$here/pom.xml
stamp=$target/fetched
want=$(sha256sum <"$pom")

have() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; }
have && exit 0

for tool in java mvn flock; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "fetch.sh: $tool is not installed; run deploy/local/install.sh" >&2
        exit 1
    }
done

# Tests start side by side: one of them fetches, the others wait for it.
mkdir -p "$target"
exec 9>"$target/lock"
flock 9
have && exit 0

echo "fetching the Kafka broker's jars to $target/lib (once)" >&2
rm -rf "$target/lib.new" "$stamp"
log=$target/maven.log
if ! mvn -q -B -f "$pom" dependency:copy-dependencies \
    -DoutputDirectory="$target/lib.new" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "fetch.sh: Maven could not get the jars (whole output in $log)" >&2
    exit 1
fi
rm -rf "$target/lib"
mv "$target/lib.new" "$target/lib"
printf '%s\n' "$want" >"$stamp"
