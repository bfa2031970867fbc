#!/bin/sh
# measure.sh
#
# How long a simple location takes to answer, while other requests go through
# the firewall: in the pool, and in the event loop. CONNECTIONS=8; for the rest see
# ../measure.sh.
set -eu
cd "$(dirname "$0")"
watched=/ping
. ../measure.sh

requests() { # requests WHAT PREFIX
    measure "$1" -c"${CONNECTIONS:-8}" -s load.lua "$server" -- "$2"
}

echo "firewall       requests     ping p50    ping p99"
measure idle
requests "in the pool" /
requests "in the loop" /loop/
curl -sf "$server/waf/status"
