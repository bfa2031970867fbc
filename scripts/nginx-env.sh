#!/bin/sh
# Finds the nginx to test with and what it must load to understand Lua.
#
# Prints lines of shell: TEST_NGINX_BINARY='...', TEST_NGINX_LOAD_MODULES='...'
# (full paths, separated by blanks; empty where Lua is compiled in, as in
# OpenResty), and `unset NGINX`, since nginx takes a variable of that name for
# the sockets that it inherits. Test::Nginx reads the same two variables, so one answer serves
# the tests with the real Test::Nginx, the runner in t/lib, the Rust tests,
# the bench and the demo.
#
#   nginx-env.sh finds MODULE   prints nothing; whether `require` of that nginx
#                               finds the Lua module
#
# The binary is, in this order: $TEST_NGINX_BINARY, $NGINX, openresty and nginx
# in PATH, and then the places where they are usually installed.
set -eu

PATH=${PATH:-/usr/bin:/bin}:/usr/local/openresty/nginx/sbin:/usr/local/nginx/sbin:/usr/local/sbin:/usr/sbin:/sbin

binary=${TEST_NGINX_BINARY:-${NGINX:-}}
unset NGINX
if [ -z "$binary" ]; then
    binary=$(command -v openresty || command -v nginx || true)
elif [ "${binary#*/}" = "$binary" ]; then
    binary=$(command -v "$binary" || true)
fi
if [ -z "$binary" ] || [ ! -x "$binary" ]; then
    echo "nginx-env: no nginx found; run 'make deps', or say where it is:" \
         "make test NGINX=/path/to/nginx" >&2
    exit 1
fi
case $binary in
    *\'*) echo "nginx-env: a quote in the path of nginx: $binary" >&2; exit 1 ;;
    /*) ;;
    *) binary=$PWD/$binary ;;
esac

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbffi-env.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# configuration MODULES INIT: one that uses Lua, with this code in init_by_lua.
configuration() {
    {
        for module in $1; do
            echo "load_module $module;"
        done
        echo "daemon off; pid $tmp/nginx.pid; error_log stderr;"
        echo "events {} http { access_log off; client_body_temp_path $tmp/body;"
        echo "init_by_lua_block { $2 }"
        echo "proxy_temp_path $tmp/proxy; fastcgi_temp_path $tmp/fastcgi;"
        echo "uwsgi_temp_path $tmp/uwsgi; scgi_temp_path $tmp/scgi;"
        echo "server { listen unix:$tmp/s; location / { content_by_lua_block { ngx.exit(204) } } } }"
    } >"$tmp/nginx.conf"
}

# Looking beats guessing: the Lua module is there if nginx accepts a
# configuration that uses it.
accepts_lua() {
    configuration "$1" ""
    "$binary" -t -p "$tmp/" -c "$tmp/nginx.conf" >"$tmp/out" 2>&1
}

modules=${TEST_NGINX_LOAD_MODULES:-}
if ! accepts_lua "$modules"; then
    dir=$("$binary" -V 2>&1 | sed -n 's/.*--modules-path=\([^ ]*\).*/\1/p')
    for dir in "$dir" /usr/lib/nginx/modules /usr/lib64/nginx/modules; do
        [ -f "$dir/ngx_http_lua_module.so" ] || continue
        modules=
        [ ! -f "$dir/ndk_http_module.so" ] || modules="$dir/ndk_http_module.so "
        modules="$modules$dir/ngx_http_lua_module.so"
        break
    done
    if ! accepts_lua "$modules"; then
        echo "nginx-env: $binary has no working Lua module (run 'make deps'):" >&2
        sed 's/^/    /' "$tmp/out" >&2
        exit 1
    fi
fi

if [ "${1:-}" = finds ]; then
    # A test of the configuration does not run init_by_lua; this nginx leaves
    # there, before it listens.
    configuration "$modules" "
        local function finds(path) return package.searchpath('$2', path) end
        os.exit((finds(package.path) or finds(package.cpath)) and 0 or 1)"
    "$binary" -p "$tmp/" -c "$tmp/nginx.conf" >"$tmp/out" 2>&1
    exit
fi

printf "TEST_NGINX_BINARY='%s'\n" "$binary"
printf "TEST_NGINX_LOAD_MODULES='%s'\n" "$modules"
echo 'unset NGINX'
