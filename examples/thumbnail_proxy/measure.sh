#!/bin/sh
# measure.sh
#
# How long a file takes to be served, while thumbnails are made: in the pool,
# and in the event loop. CONNECTIONS=4; for the rest see ../measure.sh.
set -eu
cd "$(dirname "$0")"
watched=/style.css
. ../measure.sh

thumbnails() { # thumbnails WHAT PATH
    measure "$1" -c"${CONNECTIONS:-4}" --timeout 30s "$server$2"
}

echo "thumbnails         made     file p50    file p99"
measure idle
thumbnails "in the pool" /thumb/300x200/moon.jpg
thumbnails "in the loop" /loop/thumb/300x200/moon.jpg
curl -sf "$server/status"
