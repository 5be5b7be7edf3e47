#!/bin/bash
# seed-from-backup.sh: makes this server a copy of @SOURCE_HOST@:@SOURCE_PORT@ with mariadb-backup, while
# that one goes on taking writes. Run it here as root, with this server stopped and its data directory
# empty. It writes seeded.sql beside itself, for what comes next; see README.
#
# To edit: what stands after := on the next lines, if it is otherwise here. They can be given in the
# environment, too.
#   how a command is run on the source, as root:
: "${SOURCE:=ssh root@@SOURCE_HOST@}"
#   options for mariadb-backup there (its root logs in by the socket):
: "${SOURCE_OPTIONS:=}"
#   the data directory, and whose it is:
: "${DATADIR:=/var/lib/mysql}"
: "${OWNER:=mysql:mysql}"
set -euo pipefail
umask 077
fail() {
    echo "seed-from-backup.sh: $*" >&2
    exit 1
}
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$DATADIR" ] || fail "$DATADIR is no directory: create it, or set DATADIR"
[ -z "$(ls -A "$DATADIR")" ] || fail "$DATADIR is not empty: stop the server and move what is there away"

# shellcheck disable=SC2086  # words
$SOURCE mariadb-backup $SOURCE_OPTIONS --backup --stream=mbstream --target-dir=/tmp \
    | mbstream --extract --directory="$DATADIR"
mariadb-backup --prepare --target-dir="$DATADIR"
# 11.1 and later call it by the other name.
for file in xtrabackup_binlog_info mariadb_backup_binlog_info; do
    [ ! -e "$DATADIR/$file" ] || info=$DATADIR/$file
done
[ -n "${info:-}" ] || fail "the backup does not say its position: has the source log_bin?"
position=$(awk -F '\t' '{ print $3; exit }' "$info")
[[ $position =~ ^[0-9]+-[0-9]+-[0-9]+(,[0-9]+-[0-9]+-[0-9]+)*$ ]] || fail "no GTID in $info: $position"
chown -R "$OWNER" "$DATADIR"
cat >"$here/seeded.sql" <<END
-- Where the copy ends and replication goes on; by seed-from-backup.sh. Run once, before replication.sql.
RESET MASTER;
SET GLOBAL gtid_slave_pos = '$position';
END
# Copied as it is, an event would run on both.
echo "events are ENABLED here as on the source: event_scheduler = OFF on the one that does not serve (README)"
echo "seeded up to $position. Now: install my.cnf, start the server, run seeded.sql, then replication.sql"
