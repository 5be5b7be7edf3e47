#!/bin/sh
# notify.sh STATE: keepalived runs it whenever this server gets or loses the virtual address.
#
# MASTER: makes the peer read-only, waits until this server has applied all that the peer has written,
# and only then lets this one take writes. A peer that cannot be reached is waited for no longer than
# for what has been received from it. From then on it looks at both each second, until keepalived says
# something else or is gone: this server is opened again where something has closed it (to close it,
# stop keepalived), and where the peer took writes meanwhile, behind a network that was cut, this one is
# closed until it has them, too. A server that neither replicates from this one nor is replicated
# from is no peer, and is left alone.
# All else: makes this server read-only, and ends the sessions that still have it; tried again until it
# is done, or until keepalived says something else.
#
# A server that modshift has fenced (modshift.fences, here or on the peer) is never opened by this.
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
# How long a server that took writes already waits for what its peer wrote, in seconds.
WAIT_MAX=60

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

# keepalived, which called: one that was killed says nothing more, and its peer takes over then.
CALLER=$PPID
called() {
    [ "$(awk '$1 == "PPid:" { print $2 }' "/proc/$$/status")" = "$CALLER" ]
}

told() { # HOST PORT OPTIONS...: its errors and warnings with what it answers
    host=$1 port=$2
    shift 2
    timeout -k 1 5 mariadb --defaults-file="$DIR/watch.cnf" --protocol=tcp --connect-timeout=2 \
        --host="$host" --port="$port" --skip-column-names --batch "$@" 2>&1
}
sql() { # the same without them
    host=$1 port=$2
    shift 2
    timeout -k 1 5 mariadb --defaults-file="$DIR/watch.cnf" --protocol=tcp --connect-timeout=2 \
        --host="$host" --port="$port" --skip-column-names --batch "$@" 2>/dev/null
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
        current || return 1
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

# Why replication into this server has ended, or nothing: what is missing will not come by itself.
stopped() {
    self --column-names -e 'SHOW SLAVE STATUS\G' | awk '
        $1 == "Slave_IO_Running:" { io = $2 }
        $1 == "Slave_SQL_Running:" { sql = $2 }
        $1 == "Last_IO_Errno:" { io_error = $2 }
        $1 == "Last_SQL_Errno:" { sql_error = $2 }
        END { if (sql == "No") print "Slave_SQL_Running No, error " sql_error
            else if (io == "No") print "Slave_IO_Running No, error " io_error }'
}

# 0: does one replicate from the other? 1: no. 2: cannot tell. They do not once they are masters of
# different shards, and what the other does is none of this one's business then.
paired() {
    status=$(self --column-names -e 'SHOW ALL SLAVES STATUS\G') || return 2
    printf '%s\n' "$status" | replicates_from "$PEER_HOST" "$PEER_PORT" "$PEER_ID" && return 0
    # One that refuses us has never been set up as one.
    status=$(peer --column-names -e 'SHOW ALL SLAVES STATUS\G') || return 1
    printf '%s\n' "$status" | replicates_from "$SELF_HOST" "$SELF_PORT" "$SELF_ID"
}
replicates_from() { # HOST PORT ID
    awk -v host="$1" -v port="$2" -v id="$3" '
        $1 == "Master_Host:" { at = $2 }
        $1 == "Master_Port:" && at == host && $2 == port { found = 1 }
        $1 == "Master_Server_Id:" && $2 == id { found = 1 }
        END { exit !found }'
}

# 0: modshift keeps it closed. 1: no. 2: cannot tell.
fenced() { # self|peer
    there=$("$1" -e "SELECT COUNT(*) FROM information_schema.TABLES
        WHERE TABLE_SCHEMA = 'modshift' AND TABLE_NAME = 'fences'") || return 2
    [ "$there" = 1 ] || return 1
    by=$("$1" -e "SELECT CONCAT(shard, ' of plan ', plan) FROM modshift.fences WHERE server > 0 LIMIT 1") || return 2
    [ -n "$by" ] || return 1
    say "stays read-only: modshift keeps it closed for $by"
}

# 0: closed. 1: it answers, and is not closed. 2: it does not answer.
close_peer() {
    answer=$(told "$PEER_HOST" "$PEER_PORT" -e 'SELECT @@GLOBAL.server_id') || {
        # 2002, 2003, 2013: no connection, or none that ever answers; and timeout, which says nothing.
        case $answer in
        "" | *"ERROR 2002 "* | *"ERROR 2003 "* | *"ERROR 2013 "* | *"ERROR 2005 "*) return 2 ;;
        esac
        say "cannot log in to the peer $PEER_HOST:$PEER_PORT: $answer"
        return 1
    }
    # Warnings of the client come before it.
    answer=$(printf '%s\n' "$answer" | tail -n 1)
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
    missing='' peer_closed=no
    paired
    case $? in
    0) ;;
    1)
        peer_closed='none replicates from the other'
        return 0
        ;;
    *) return 1 ;;
    esac
    close_peer
    case $? in
    0)
        fenced peer
        [ $? = 1 ] || return 1
        nap=0.2
        missing=$(lacks) || return 1
        [ -z "$missing" ] || say "waits for $missing of its peer"
        peer_closed=yes
        ;;
    2)
        nap=0.2
        missing=$(unapplied) || return 1
        [ -z "$missing" ] || say "the peer does not answer; waits for what came from it: $missing"
        ;;
    *) return 1 ;;
    esac
    [ -z "$missing" ]
}

# One that took writes before does not stay closed for what its peer wrote and replication cannot bring.
waited() {
    [ "$served" = yes ] && [ "$peer_closed" = yes ] && [ -n "$missing" ] || return 1
    : "${since:=$(date +%s)}"
    why=$(stopped) || return 1
    [ -n "$why" ] || [ $(($(date +%s) - since)) -lt "$WAIT_MAX" ] || why="not there after $WAIT_MAX s"
    [ -n "$why" ] || return 1
    given_up=yes
}
say_without() {
    say "takes writes WITHOUT $missing of its peer, which replication does not bring ($why): look at" \
        "SHOW SLAVE STATUS, compare the rows of both, and mend it"
}

take() {
    nap=1
    fenced self
    [ $? = 1 ] || return 1
    # Both took writes. Nothing is added to what each has to learn of the other.
    if [ "$(self -e 'SELECT @@GLOBAL.read_only')" = 0 ]; then
        say "is read-only until it has what its peer wrote meanwhile"
        shut self || return 1
    fi
    ready || waited || return 1
    current && called || return 1
    self -e 'SET GLOBAL read_only = 0' >/dev/null || return 1
    # A fence is written down before it closes anything: one that began meanwhile is seen here.
    fenced self
    late=$?
    if [ "$late" = 1 ] && [ "$peer_closed" = yes ]; then
        fenced peer
        late=$?
    fi
    if [ "$late" = 0 ]; then
        shut self
        return 1
    fi
    served=yes since=''
    if [ -n "$missing" ]; then
        say_without
    else
        say "takes writes; the peer is closed: $peer_closed"
    fi
}

# This server takes writes. 1: and its peer does so too, or did, and this one lacks them.
at_peace() {
    found=$(peer -e 'SELECT @@GLOBAL.server_id, @@GLOBAL.read_only') || {
        peer_closed=no
        return 0
    }
    # shellcheck disable=SC2086  # two words
    set -- $found
    if [ "${1:-}" != "$PEER_ID" ]; then
        peer_closed=no
        return 0
    fi
    [ "${2:-}:$peer_closed" != 1:yes ] || return 0
    paired || return 0
    if [ "${2:-}" = 0 ]; then
        say "the peer takes writes, too"
        return 1
    fi
    missing=$(lacks) || return 0
    if [ -n "$missing" ]; then
        [ -z "$given_up" ] || return 0
        # Closed, and perhaps just slow: then it is not worth closing this one. Nor if it never comes.
        if [ "$(self -e "SELECT MASTER_GTID_WAIT('$missing', 2)")" != 0 ]; then
            why=$(stopped) || return 0
            [ -n "$why" ] || return 1
            given_up=yes
            say_without
            return 0
        fi
    fi
    peer_closed=yes given_up=''
    say "takes writes; the peer is closed: yes"
}

# A file that was replaced is run in place of this one, once it stays as it is: its peer may be another.
renew() {
    sum=$(cksum <"$0") || return
    if [ "$sum" != "$text" ] && [ "$sum" = "$newer" ] && [ -x "$0" ] && sh -n "$0"; then
        exec "$0" "$STATE"
    fi
    newer=$sum
}

serve() {
    served=no peer_closed=no since='' given_up='' newer=''
    text=$(cksum <"$0")
    while current; do
        if ! called; then
            say "keepalived is gone: what takes writes is left as it is"
            return
        fi
        renew
        case $(self -e 'SELECT @@GLOBAL.read_only') in
        0)
            served=yes
            if at_peace; then
                sleep 1
                continue
            fi
            ;;
        1) ;;
        *)
            # Dead, or about to be: keepalived asks it, too.
            sleep 0.5
            continue
            ;;
        esac
        current || return
        take || sleep "$nap"
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

main() {
    # At once, whatever a call before it is still waiting for; and again behind that.
    [ "$STATE" = MASTER ] || ! shut self || say "is read-only"
    exec 9>"$STATE_FILE.lock"
    flock 9
    case $STATE in
    MASTER) serve ;;
    *) yield_writes ;;
    esac
}

# On one line: the shell reads no more of a file that may be another by then.
main; exit
