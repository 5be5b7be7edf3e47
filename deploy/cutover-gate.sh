#!/bin/sh
# Asks modshift whether the application may be switched to the new shards; for deploy scripts:
#
#   deploy/cutover-gate.sh /etc/modshift/plan.toml 10m || exit 1
#
# Waits for the gate to open for at most the given time (default: asks once; a yes still takes as
# long as the plan's gate.hold, a no is known at once). Passes on modshift's exit code: 0 open, 1 closed (reasons on standard output), 2 cannot tell, 3 bad plan or usage.
# If modshift itself does not come back in time, that is "cannot tell" too: nothing but 0 may be
# taken for yes.
set -u

usage() {
    echo "usage: $0 PLAN [WAIT]   (WAIT such as 90s or 10m)" >&2
    exit 3
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage
plan=$1
wait=${2:-0s}
modshift=${MODSHIFT_BIN:-modshift}

[ -r "$plan" ] || { echo "$0: cannot read plan $plan" >&2; exit 3; }
number=${wait%[smh]}
case $number in
    '' | *[!0-9]*) usage ;;
esac
case $wait in
    *s) seconds=$number ;;
    *m) seconds=$((number * 60)) ;;
    *h) seconds=$((number * 3600)) ;;
    *) usage ;;
esac

# Beyond its own waiting: more than gate.hold and its slowest answer take.
limit=$((seconds + ${MODSHIFT_GATE_PATIENCE:-300}))
if [ "$seconds" -gt 0 ]; then
    timeout --kill-after=5 "$limit" "$modshift" gate --plan "$plan" --wait "${seconds}s"
else
    timeout --kill-after=5 "$limit" "$modshift" gate --plan "$plan"
fi
code=$?

case $code in
    0 | 1 | 2 | 3) exit "$code" ;;
    124 | 137) echo "$0: modshift gate did not answer within $limit s" >&2; exit 2 ;;
    *) echo "$0: modshift gate ended with $code" >&2; exit 2 ;;
esac
