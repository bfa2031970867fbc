#!/usr/bin/env bash
# The demo: an nginx with one worker makes thumbnails with a Rust plugin, off
# its event loop, and answers pings meanwhile; then Python, Go and Java have their
# turn, as far as they are there. Everything is in a temporary folder and on a
# free port; nothing is left. `make demo` has built what it uses.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${DEMO_SECONDS:-4}
eval "$(sh scripts/nginx-env.sh)"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-demo.XXXXXX")
nginx=
finish() {
    status=$?
    trap - EXIT
    if [ -n "$nginx" ] && kill -QUIT "$nginx" 2>/dev/null; then
        wait "$nginx" || status=$?
    fi
    if [ "$status" -ne 0 ] && [ "$status" -lt 128 ] && [ -s "$tmp/logs/error.log" ]; then
        echo "nginx said:" >&2
        tail -n 20 "$tmp/logs/error.log" >&2
    fi
    rm -rf "$tmp"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# nginx's prefix, with all it needs below it: its workers belong to another
# user, who may not be able to read the clone. Thumbnails need no more than
# reading, so only root's umask is in the way.
chmod 755 "$tmp"
umask 022
mkdir "$tmp/conf" "$tmp/lua" "$tmp/lib" "$tmp/logs" "$tmp/pictures"
cp -R lua/resty "$tmp/lua/"
cp examples/demo/demo.lua "$tmp/lua/"
cp target/release/libnonblocking_ffi.so target/examples/libthumbnail.so "$tmp/lib/"

# The other languages: what is missing is said, and left out.
languages=
left_out() { # left_out LANGUAGE WHY...
    local language=$1
    shift
    echo "$language is left out: $*"
}
host=target/release/libnonblocking_ffi_python.so
if ! command -v python3 >/dev/null; then
    left_out Python "there is no python3 (Debian: python3, libpython3-dev)"
elif [ ! -e "$host" ]; then
    left_out Python "its host is not built"
else
    mkdir "$tmp/python"
    cp "$host" "$tmp/lib/"
    cp examples/python/template.py "$tmp/python/"
    languages="$languages python"
fi
if [ ! -e target/examples/libgo_markdown.so ]; then
    left_out Go "there was no go to build its library with (Debian: golang-go)"
else
    cp target/examples/libgo_markdown.so "$tmp/lib/"
    languages="$languages go"
fi
host=target/release/libnonblocking_ffi_java.so
if [ ! -e "$host" ] || [ ! -d target/java/demo ]; then
    left_out Java "there was no JDK 17 or later to build its host with" \
        "(Debian: openjdk-17-jdk-headless)"
else
    cp "$host" "$tmp/lib/"
    cp -R target/java/demo "$tmp/java"
    languages="$languages java"
fi

port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(
    LocalAddr => "127.0.0.1", LocalPort => 0, Listen => 1)->sockport')
sed "s/127\.0\.0\.1:8080/127.0.0.1:$port/" examples/demo/nginx.conf >"$tmp/conf/nginx.conf"

main="daemon off;"
for module in $TEST_NGINX_LOAD_MODULES; do
    main="$main load_module $module;"
done
if [ "$(id -u)" = 0 ]; then
    main="$main user nobody $(id -gn nobody);"
fi

echo "Painting sample pictures ..."
for size in "1600 1200" "1920 1080" "3000 2000"; do
    # shellcheck disable=SC2086
    target/release/sample_picture $size "$tmp/pictures/${size/ /x}.jpg"
done

"$TEST_NGINX_BINARY" -p "$tmp/" -c "$tmp/conf/nginx.conf" -g "$main" \
    </dev/null >/dev/null 2>"$tmp/logs/stderr.log" &
nginx=$!

up=
for _ in $(seq 200); do
    if ! kill -0 "$nginx" 2>/dev/null; then
        nginx=
        cat "$tmp/logs/stderr.log" >&2
        echo "demo: nginx did not start" >&2
        exit 1
    fi
    if [ -s "$tmp/logs/nginx.pid" ]; then
        up=yes
        break
    fi
    sleep 0.05
done
[ -n "$up" ] || { echo "demo: nginx did not come up" >&2; exit 1; }

# shellcheck disable=SC2086
perl scripts/demo-load.pl "$port" "$seconds" "$tmp/pictures" README.md $languages
