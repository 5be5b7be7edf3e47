#!/bin/bash
# seed-from-dump.sh: fills this server with a dump of @SOURCE_HOST@:@SOURCE_PORT@. **The source takes no
# writes while the dump runs** (no other way gives a dump its exact position, whoever else runs SHOW
# STATUS there): for data that is dumped in seconds, without columns of type FLOAT; for all else there is
# seed-from-backup.sh. Run it
# here as root, with this server running, read-only and without schemas of its own.
#
# To edit: what stands after := on the next lines, if it is otherwise here. They can be given in the
# environment, too.
#   how a command is run on the source, as root:
: "${SOURCE:=ssh root@@SOURCE_HOST@}"
#   options for the clients there, and here (root logs in by the socket):
: "${SOURCE_OPTIONS:=}"
: "${OWN_OPTIONS:=}"
set -euo pipefail
umask 077
fail() {
    echo "seed-from-dump.sh: $*" >&2
    exit 1
}
own() {
    # shellcheck disable=SC2086  # words
    mariadb $OWN_OPTIONS --skip-column-names --batch "$@"
}
user_schemas="SELECT SCHEMA_NAME FROM information_schema.SCHEMATA
    WHERE SCHEMA_NAME NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')"

[ "$(own -e 'SELECT @@GLOBAL.server_id')" = @SELF_ID@ ] || fail "the server here has not server_id @SELF_ID@: install my.cnf first"
[ "$(own -e 'SELECT @@GLOBAL.read_only')" = 1 ] || fail "the server here takes writes: SET GLOBAL read_only = 1 first"
found=$(own -e "$user_schemas")
[ -z "$found" ] || fail "the server here has schemas already: ${found//$'\n'/, }"
# shellcheck disable=SC2086  # words
schemas=$(echo "$user_schemas" | $SOURCE mariadb $SOURCE_OPTIONS --skip-column-names --batch)
[ -n "$schemas" ] || fail "the source has no schemas"
floats="SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, '.', COLUMN_NAME) FROM information_schema.COLUMNS
    WHERE DATA_TYPE = 'float' AND TABLE_SCHEMA IN ($user_schemas) LIMIT 1"
# shellcheck disable=SC2086  # words
found=$(echo "$floats" | $SOURCE mariadb $SOURCE_OPTIONS --skip-column-names --batch)
[ -z "$found" ] || fail "$found is a FLOAT, of which a dump keeps six digits: use seed-from-backup.sh"

dump=$(mktemp)
trap 'rm -f "$dump"' EXIT
{
    # None of it is a change of this server's own.
    echo 'SET SESSION sql_log_bin = 0; RESET MASTER;'
    # shellcheck disable=SC2086  # words
    # And the accounts: whom the source knows is known here behind a failover, by the same password. But
    # for who may stand in for others (PROXY), which root alone may grant, and has on every server.
    $SOURCE mariadb-dump $SOURCE_OPTIONS --lock-all-tables --master-data=1 --gtid --hex-blob \
        --routines --triggers --events --system=users --insert-ignore --databases $schemas \
        | sed '/^GRANT PROXY ON /d'
} >"$dump"
grep -q '^SET GLOBAL gtid_slave_pos=' "$dump" || fail "the dump does not say its position: has the source log_bin?"
tail -n 1 "$dump" | grep -q '^-- Dump completed' || fail "the dump is not complete"
own <"$dump"
# Copied as it is, an event would run on both.
echo "events are ENABLED here as on the source: event_scheduler = OFF on the one that does not serve (README)"
echo "seeded up to $(own -e 'SELECT @@GLOBAL.gtid_slave_pos'). Now: run replication.sql"
