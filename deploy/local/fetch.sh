#!/bin/sh
# Copies the jars that a pom names, and what they need, from Maven Central to target/NAME/lib.
# Does nothing when the jars of this very pom are there already.
#
#   deploy/local/fetch.sh NAME [TARGET_DIR]     (NAME: kafka, shardingsphere, shardingsphere-cluster;
#                                                TARGET_DIR: target/NAME in this checkout unless given)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
name=${1:?NAME is missing: kafka, shardingsphere or shardingsphere-cluster}
target=${2:-$root/target/$name}
pom=$here/$name/pom.xml
stamp=$target/fetched
[ -f "$pom" ] || {
    echo "fetch.sh: there is no $pom" >&2
    exit 1
}
want=$(sha256sum <"$pom")

have() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; }
have && exit 0

for tool in java mvn flock timeout; do
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

echo "fetching the jars of $name to $target/lib (once)" >&2
rm -rf "$target/lib.new" "$stamp"
log=$target/maven.log
# Maven keeps what it has, so that each attempt goes on where the last one broke off. A file whose
# checksum is wrong is no file. -U: what was missing a moment ago is asked for again. A repository that
# falls silent would hold Maven, and whoever waits for the lock, for half an hour.
attempt=1
until timeout --foreground 900 mvn -q -B -U -C -f "$pom" dependency:copy-dependencies \
    -Daether.connector.connectTimeout=10000 -Daether.connector.requestTimeout=60000 \
    -DoutputDirectory="$target/lib.new" >"$log" 2>&1; do
    if [ "$attempt" -ge 4 ]; then
        tail -n 20 "$log" >&2
        echo "fetch.sh: Maven could not get the jars of $name (whole output in $log)" >&2
        exit 1
    fi
    sleep $((attempt * 5))
    attempt=$((attempt + 1))
done
rm -rf "$target/lib"
mv "$target/lib.new" "$target/lib"
printf '%s\n' "$want" >"$stamp"
