#!/bin/sh
# run.sh EXAMPLE
#
# Runs nginx with examples/EXAMPLE/nginx.conf, in the foreground, until it is
# interrupted. `make build` has to come before. Logs and temporary files are in
# a folder that is removed at the end; errors are shown as they come.
#
#   PORT=8080            where it listens, instead of the 127.0.0.1:8080 that the
#                        configuration says; a backend listens at the next one
#   NGINX=/path/to/nginx as for make
set -eu
cd "$(dirname "$0")/.."
name=${1:?usage: run.sh EXAMPLE}
root=$PWD
conf=$root/examples/$name/nginx.conf
if [ ! -f "$conf" ]; then
    echo "run.sh: there is no $conf" >&2
    exit 2
fi
if [ ! -f target/release/libnonblocking_ffi.so ]; then
    echo "run.sh: run 'make build' first" >&2
    exit 2
fi
port=${PORT:-8080}
eval "$(sh scripts/nginx-env.sh)"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-example.XXXXXX")
nginx=
finish() {
    trap - EXIT INT TERM HUP
    if [ -n "$nginx" ]; then
        kill -QUIT "$nginx" 2>/dev/null || true
        wait "$nginx" || true
    fi
    rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 0' INT TERM HUP

chmod 755 "$tmp"
main="daemon off; pid $tmp/nginx.pid; error_log stderr notice;"
for module in $TEST_NGINX_LOAD_MODULES; do
    main="$main load_module $module;"
done
if [ "$(id -u)" = 0 ]; then
    # The owner of the sources can read them.
    main="$main user $(ls -ld "$root" | awk '{ print $3, $4 }');"
fi
# Folders that nginx would otherwise want in places that belong to root.
temp=
for what in client_body proxy fastcgi uwsgi scgi; do
    temp="$temp ${what}_temp_path $tmp/$what;"
done
sed -e "s|^http {|http { $temp|" \
    -e "s/127\.0\.0\.1:8080/127.0.0.1:$port/" \
    -e "s/127\.0\.0\.1:8081/127.0.0.1:$((port + 1))/" \
    "$conf" >"$tmp/nginx.conf"

# The log that an nginx of 1.19.5 or later writes to before it has read its
# configuration; the example has no folder for the one that it was built with.
early=
if "$TEST_NGINX_BINARY" -h 2>&1 | grep -q -e ' -e filename'; then
    early="-e stderr"
fi
"$TEST_NGINX_BINARY" -p "$root/examples/$name/" -c "$tmp/nginx.conf" -g "$main" $early &
nginx=$!
wait "$nginx"
