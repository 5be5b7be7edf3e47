#!/bin/sh
# notify.sh STATE: keepalived runs it whenever this server gets or loses the virtual address.
#
# MASTER: makes the peer read-only, waits until this server has applied all that the peer has written,
# and only then lets this one take writes. A peer that cannot be reached is waited for no longer than
# for what has been received from it; it is closed as soon as it answers again. All else: makes this
# server read-only, and ends the sessions that still have it. What cannot be done is tried again until
# it is done, or until keepalived says something else.
#
# A server that modshift has fenced (modshift.fences) is never opened by this.
# /run/modshift-vip-@NAME@.last has its last words; syslog has all of them, under modshift-vip.
# Only root may change it. To edit: nothing.
set -u
SELF_HOST='@SELF_HOST@' SELF_PORT=@SELF_PORT@ SELF_ID=@SELF_ID@
PEER_HOST='@PEER_HOST@' PEER_PORT=@PEER_PORT@ PEER_ID=@PEER_ID@
# The GTID domain of what this server writes; empty where the peer writes under it too.
OWN_DOMAIN='@OWN_DOMAIN@'
DIR='@DIR@'
STATE_FILE=${MODSHIFT_RUN_DIR:-/run}/modshift-vip-@NAME@
SPARED="'system user', 'event_scheduler', 'unauthenticated user', '@WATCH_USER@', '@REPLICATION_USER@'"
STATE=${1:?MASTER, BACKUP, FAULT or STOP}

said=
say() {
    [ "$*" != "$said" ] || return 0
    said=$*
    printf '%s %s: %s\n' "$(date '+%F %T')" "$STATE" "$*" >"$STATE_FILE.last"
    logger -t modshift-vip -- "@NAME@ $STATE: $*" 2>/dev/null
    printf 'modshift-vip: %s: %s\n' "$STATE" "$*" >&2
}

# The newest call counts. One before it ends as soon as it finds that out.
printf '%s %s\n' "$STATE" "$$" >"$STATE_FILE"
current() {
    [ "$(cat "$STATE_FILE")" = "$STATE $$" ]
}

sql() { # HOST PORT OPTIONS...
    host=$1 port=$2
    shift 2
    timeout -k 1 5 mariadb --defaults-file="$DIR/watch.cnf" --protocol=tcp --connect-timeout=2 \
        --host="$host" --port="$port" --skip-column-names --batch "$@" 2>&1
}
self() { sql "$SELF_HOST" "$SELF_PORT" "$@"; }
peer() { sql "$PEER_HOST" "$PEER_PORT" "$@"; }

end_sessions() { # self|peer CONDITION: by their ids, never by a name
    kills=$("$1" -e "SELECT CONCAT('KILL HARD CONNECTION ', ID, ';') FROM information_schema.PROCESSLIST
        WHERE USER NOT IN ($SPARED) AND COMMAND NOT LIKE 'Binlog Dump%' AND ID <> CONNECTION_ID() AND $2") ||
        return 1
    # One that is gone already is an error that does not matter.
    [ -z "$kills" ] || "$1" --force -e "$kills" >/dev/null
}

# read_only waits for statements under way; they get a second.
shut() { # self|peer
    for attempt in 1 2 3 4 5; do
        found=$("$1" -e 'SELECT @@GLOBAL.read_only') || return 1
        if [ "$found" = 1 ] ||
            "$1" -e 'SET SESSION lock_wait_timeout = 1; SET GLOBAL read_only = 1' >/dev/null; then
            # A client that stays here would only be refused; it has to come by the virtual address.
            end_sessions "$1" 1
            return
        fi
        end_sessions "$1" "COMMAND IN ('Query', 'Execute') AND INFO NOT LIKE 'SELECT%'" || return 1
    done
    return 1
}

# What the peer has logged and this server lacks: one GTID, or nothing.
lacks() {
    theirs=$(peer -e 'SELECT @@GLOBAL.gtid_binlog_state') || return 1
    ours=$(self -e 'SELECT @@GLOBAL.gtid_binlog_state') || return 1
    applied=$(self -e 'SELECT @@GLOBAL.gtid_slave_pos') || return 1
    printf '%s\n' "$ours" "$applied" "$theirs" | awk -v own="$SELF_ID" '
        { n = split($0, gtids, ",") }
        NR == 1 { for (i = 1; i <= n; i++) { split(gtids[i], g, "-"); logged[g[1] "-" g[2]] = g[3] + 0 } }
        NR == 2 { for (i = 1; i <= n; i++) { split(gtids[i], g, "-"); applied[g[1]] = g[3] + 0 } }
        NR == 3 { for (i = 1; i <= n; i++) { split(gtids[i], g, "-")
            if (g[2] != own && logged[g[1] "-" g[2]] < g[3] + 0 && applied[g[1]] < g[3] + 0) {
                print gtids[i]; exit } } }'
}

# Of what has been received, what is not applied: a word, or nothing.
unapplied() {
    status=$(self --column-names -e 'SHOW SLAVE STATUS\G') || return 1
    applied=$(self -e 'SELECT @@GLOBAL.gtid_slave_pos') || return 1
    printf '%s\n' "$applied" "$status" | awk -v own="$OWN_DOMAIN" '
        NR == 1 { n = split($0, gtids, ","); for (i = 1; i <= n; i++) { split(gtids[i], g, "-")
            applied[g[1]] = g[3] + 0 } }
        $1 == "Slave_SQL_Running:" { configured = 1; running = $2 }
        $1 == "Last_SQL_Errno:" { error = $2 }
        $1 == "Gtid_IO_Pos:" { received = $2 }
        END { n = split(received, gtids, ","); behind = ""
            for (i = 1; i <= n; i++) { split(gtids[i], g, "-")
                if ((own == "" || g[1] != own) && applied[g[1]] < g[3] + 0) behind = gtids[i] }
            if (!configured || behind == "") exit
            if (error != 0) print behind ", which error " error " keeps it from applying"
            else if (running != "Yes") print behind ", and its SQL thread does not run"
            else print behind }'
}

fenced() {
    there=$(self -e "SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = 'modshift' AND TABLE_NAME = 'fences'") || return 2
    [ "$there" = 1 ] || return 1
    by=$(self -e "SELECT CONCAT(shard, ' of plan ', plan) FROM modshift.fences WHERE server > 0 LIMIT 1") || return 2
    [ -n "$by" ]
}

# 0: closed. 1: it answers, and is not closed. 2: it does not answer.
close_peer() {
    answer=$(peer -e 'SELECT @@GLOBAL.server_id') || {
        # 2002, 2003, 2013: no connection, or none that ever answers; and timeout, which says nothing.
        case $answer in
        "" | *"ERROR 2002 "* | *"ERROR 2003 "* | *"ERROR 2013 "* | *"ERROR 2005 "*) return 2 ;;
        esac
        say "cannot log in to the peer $PEER_HOST:$PEER_PORT: $answer"
        return 1
    }
    if [ "$answer" != "$PEER_ID" ]; then
        say "at $PEER_HOST:$PEER_PORT is server $answer in place of $PEER_ID"
        return 1
    fi
    shut peer && return 0
    say "cannot make the peer $PEER_HOST:$PEER_PORT read-only"
    return 1
}

# 0: this server may be opened, as far as its peer is concerned.
ready() {
    close_peer
    case $? in
    0)
        missing=$(lacks) || return 1
        [ -z "$missing" ] || say "waits for $missing of its peer"
        peer_closed=yes
        ;;
    2)
        missing=$(unapplied) || return 1
        [ -z "$missing" ] || say "the peer does not answer; waits for what came from it: $missing"
        peer_closed=no
        ;;
    *) return 1 ;;
    esac
    [ -z "$missing" ]
}

serve() {
    peer_closed=no
    while current; do
        if ready && current; then
            fenced
            case $? in
            0)
                say "stays read-only: modshift keeps it closed for $by"
                return
                ;;
            1)
                if self -e 'SET GLOBAL read_only = 0' >/dev/null; then
                    break
                fi
                ;;
            esac
        fi
        sleep 0.2
    done
    current || return
    say "takes writes; the peer is closed: $peer_closed"
    # A peer that was cut off may come back and still take writes.
    while current && [ "$peer_closed" = no ]; do
        sleep 1
        if close_peer; then
            peer_closed=yes
            say "takes writes; the peer is closed: yes"
        fi
    done
}

yield_writes() {
    tries=0
    while current; do
        if shut self; then
            say "is read-only"
            return
        fi
        say "cannot be made read-only yet: the server does not answer"
        tries=$((tries + 1))
        # At its end nobody waits for it: it starts read-only.
        [ "$STATE" != STOP ] || [ "$tries" -lt 5 ] || return
        sleep 1
    done
}

exec 9>"$STATE_FILE.lock"
flock 9
case $STATE in
MASTER) serve ;;
*) yield_writes ;;
esac
