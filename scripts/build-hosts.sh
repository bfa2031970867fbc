#!/bin/sh
# Builds the hosts of Python and Java beside the core, as far as this machine can:
# a host that cannot be built is left out, which is said, and is no failure. Used
# by the rock; `make hosts` does not put up with failures. Go needs no host.
set -eu
cd "$(dirname "$0")/.."

PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
export CARGO_TARGET_DIR=target
release=target/release

# One of before would be installed in the place of one that was left out.
rm -f "$release/libnonblocking_ffi_python.so" "$release/libnonblocking_ffi_java.so"

"${CARGO:-cargo}" build --release --locked --package nonblocking-ffi-python ||
    echo "The rock is installed without Python: its host cannot be built, see above"
sh runtimes/java/build.sh host ||
    echo "The rock is installed without Java: its host cannot be built, see above"
