# measure.sh: sourced by the examples' own, which are run.
#
#   measure WHAT [ARGUMENT...]
#
# prints how long $watched takes to answer, while wrk with these arguments makes a
# load, and how many requests per second of that there were. Without arguments
# there is none. SECONDS_EACH=5. Needs wrk, and an nginx that
# `sh examples/run.sh EXAMPLE` has started.
server=http://127.0.0.1:${PORT:-8080}
seconds=${SECONDS_EACH:-5}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-measure.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

measure() {
    what=$1
    shift
    load=
    if [ $# -gt 0 ]; then
        wrk -t1 -d"$((seconds + 1))s" "$@" >"$tmp/load" &
        load=$!
        sleep 0.5
    fi
    wrk -t1 -c1 -d"${seconds}s" --latency "$server$watched" >"$tmp/watched"
    rate=0
    if [ -n "$load" ]; then
        wait "$load"
        rate=$(awk '/^Requests\/sec/ { printf "%d", $2 }' "$tmp/load")
    fi
    awk -v what="$what" -v rate="$rate" '
        /^ *50%/ { half = $2 } /^ *99%/ { most = $2 }
        END { printf "%-14s %7d/s   %9s   %9s\n", what, rate, half, most }
    ' "$tmp/watched"
}
