#!/bin/sh
# Installs from Debian what the build, the demo and (with --test) the tests need and this machine
# lacks. Run as root on Debian 12. It installs programs only: no server is started, none is enabled,
# and none that runs already is touched. Does nothing when nothing is missing.
#
#   deploy/local/install.sh [--test]
set -eu

say() { echo "install.sh: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

with_tests=no
for argument in "$@"; do
    case $argument in
    --test) with_tests=yes ;;
    *) fail "unknown argument $argument (only --test is known)" ;;
    esac
done

# Debian keeps servers in /usr/sbin, which the PATH of an ordinary account may lack.
PATH=$PATH:/usr/sbin:/sbin
export PATH

missing=
need() { # COMMAND PACKAGE: the package, unless the command is there
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need_library() { # PKG-CONFIG-NAME PACKAGE
    pkg-config --exists "$1" 2>/dev/null || missing="$missing $2"
}

need_file() { # PATH PACKAGE
    [ -e "$1" ] || missing="$missing $2"
}

need mariadbd mariadb-server
need mariadb-install-db mariadb-server
need cc build-essential
need make build-essential
need pkg-config pkg-config
need_library libssl libssl-dev
need_library zlib zlib1g-dev
need setpriv util-linux
need java openjdk-17-jre-headless
need mvn maven
if [ "$with_tests" = yes ]; then
    need promtool prometheus
    need openssl openssl
    need faketime faketime
    need etcd etcd-server
    need sqlite3 sqlite3
    # What pairs of masters are set up with: their virtual address, and a copy of a running server.
    need keepalived keepalived
    need mariadb-backup mariadb-backup
    need ip iproute2
    # What the clients of docs/clients are run with.
    need javac openjdk-17-jdk-headless
    need go golang-go
    need_file /usr/share/java/gson.jar libgoogle-gson-java
    need_file /usr/share/java/mariadb-java-client.jar libmariadb-java
    need_file /usr/share/gocode/src/github.com/go-sql-driver/mysql golang-github-go-sql-driver-mysql-dev
    need_file /usr/lib/python3/dist-packages/pymysql python3-pymysql
    need_file /usr/lib/python3/dist-packages/jsonschema python3-jsonschema
fi

missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ' | sed 's/ *$//')
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || fail "missing: $missing. Run this as root, or install them yourself."
    command -v apt-get >/dev/null 2>&1 || fail "missing: $missing. This is no Debian: install them yourself."
    say "installing: $missing"

    # The packages of servers start them. This policy says no to all of them while we install; it
    # is Debian's own way to do so, and goes again at the end. One that is there already stays.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi

    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get -q -q update || fail "apt-get update failed: is a Debian mirror within reach?"
    # shellcheck disable=SC2086  # a list of packages
    apt-get -q -q -y --no-install-recommends -o Dpkg::Use-Pty=0 install $missing >/dev/null ||
        fail "apt-get could not install: $missing (its messages are above)"
fi

# What Debian 12 does not have in a version that is new enough, and so is not installed here.
command -v cargo >/dev/null 2>&1 || [ -x "$HOME/.cargo/bin/cargo" ] ||
    fail "cargo is missing: install Rust 1.88 or later (https://rustup.rs)"
for command in mariadbd mariadb-install-db cc make pkg-config setpriv java mvn; do
    command -v "$command" >/dev/null 2>&1 || fail "$command is still missing"
done
java_version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${java_version:-0}" -ge 17 ] || fail "Java ${java_version:-?} is too old: Kafka's broker needs 17 or later"

# Whatever is missing later is fetched by the test that needs it; here it holds nobody up. What root would
# put into another user's checkout, that user could not replace.
if [ "$with_tests" = yes ]; then
    here=$(cd "$(dirname "$0")" && pwd)
    if [ "$(stat -c %u "$here")" != "$(id -u)" ]; then
        say "this checkout is $(stat -c %U "$here")'s: the jars that tests need are left to the tests"
    else
        for jars in shardingsphere shardingsphere-cluster; do
            "$here/fetch.sh" "$jars" || say "the jars of $jars are missing: the tests that need them try again"
        done
    fi
fi
