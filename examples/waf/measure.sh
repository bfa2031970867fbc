#!/bin/sh
# measure.sh
#
# How long a simple location takes to answer, while other requests go through
# the firewall: in the pool, and in the event loop. SECONDS_EACH=5, CONNECTIONS=8.
# Needs wrk, and an nginx that `sh examples/run.sh waf` has started.
set -eu
cd "$(dirname "$0")"
server=http://127.0.0.1:${PORT:-8080}
seconds=${SECONDS_EACH:-5}

measure() { # measure WHAT [PATH]: with this load
    load=
    if [ $# -gt 1 ]; then
        wrk -t1 -c"${CONNECTIONS:-8}" -d"$((seconds + 1))s" -s load.lua \
            "$server" -- "$2" >"$tmp/load" &
        load=$!
        sleep 0.5
    fi
    wrk -t1 -c1 -d"${seconds}s" --latency "$server/ping" >"$tmp/ping"
    rate=0
    if [ -n "$load" ]; then
        wait "$load"
        rate=$(awk '/^Requests\/sec/ { printf "%d", $2 }' "$tmp/load")
    fi
    awk -v what="$1" -v rate="$rate" '
        /^ *50%/ { half = $2 } /^ *99%/ { most = $2 }
        END { printf "%-14s %7d/s   %9s   %9s\n", what, rate, half, most }
    ' "$tmp/ping"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-waf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
echo "firewall       requests     ping p50    ping p99"
measure idle
measure "in the pool" /
measure "in the loop" /loop/
curl -sf "$server/waf/status"
