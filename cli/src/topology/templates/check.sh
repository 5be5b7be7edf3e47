#!/bin/sh
# check.sh: asks the server itself whether it may hold the virtual address; keepalived runs it each
# second. It must be this server and not another on its port, InnoDB must answer, and a standby must
# not have stopped applying because of an error: behind such an error it lacks what its peer wrote.
# Only root may change it. To edit: nothing.
set -u
HOST='@SELF_HOST@' PORT=@SELF_PORT@ ID=@SELF_ID@
DIR='@DIR@'

sql() {
    timeout -k 1 2 mariadb --defaults-file="$DIR/watch.cnf" --protocol=tcp --connect-timeout=2 \
        --host="$HOST" --port="$PORT" --skip-column-names --batch "$@"
}

answer=$(sql -e "SELECT @@GLOBAL.server_id, @@GLOBAL.read_only, COUNT(*) FROM mysql.gtid_slave_pos" 2>/dev/null) || {
    # Full of connections is no reason to break all of them.
    case $(sql -e 'SELECT 1' 2>&1) in *"ERROR 1040 "*) exit 0 ;; esac
    exit 1
}
# shellcheck disable=SC2086  # three words
set -- $answer
[ "${1:-}" = "$ID" ] || exit 1
[ "${2:-}" = 1 ] || exit 0
error=$(sql --column-names -e 'SHOW SLAVE STATUS\G' 2>/dev/null | awk '$1 == "Last_SQL_Errno:" { print $2 }')
[ "${error:-0}" = 0 ]
