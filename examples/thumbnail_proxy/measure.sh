#!/bin/sh
# measure.sh
#
# How long a file takes to be served, while thumbnails are made: in the pool,
# and in the event loop. SECONDS_EACH=5, CONNECTIONS=4. Needs wrk, and an nginx
# that `sh examples/run.sh thumbnail_proxy` has started.
set -eu
server=http://127.0.0.1:${PORT:-8080}
seconds=${SECONDS_EACH:-5}

measure() { # measure WHAT [PATH]: with this load
    load=
    if [ $# -gt 1 ]; then
        wrk -t1 -c"${CONNECTIONS:-4}" -d"$((seconds + 1))s" --timeout 30s \
            "$server$2" >"$tmp/load" &
        load=$!
        sleep 0.5
    fi
    wrk -t1 -c1 -d"${seconds}s" --latency "$server/style.css" >"$tmp/file"
    rate=0
    if [ -n "$load" ]; then
        wait "$load"
        rate=$(awk '/^Requests\/sec/ { printf "%d", $2 }' "$tmp/load")
    fi
    awk -v what="$1" -v rate="$rate" '
        /^ *50%/ { half = $2 } /^ *99%/ { most = $2 }
        END { printf "%-14s %7d/s   %9s   %9s\n", what, rate, half, most }
    ' "$tmp/file"
}

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-thumbnails.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
echo "thumbnails         made     file p50    file p99"
measure idle
measure "in the pool" /thumb/300x200/moon.jpg
measure "in the loop" /loop/thumb/300x200/moon.jpg
curl -sf "$server/status"
