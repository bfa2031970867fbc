#!/bin/sh
# Builds the runtimes of Python and Java beside the core, as far as this machine
# can. One that cannot be built is left out, with a word, and without a failure.
# Used by the rock; `make runtimes` fails instead. Go is part of each plugin.
set -eu
cd "$(dirname "$0")/.."

PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
export CARGO_TARGET_DIR=target
release=target/release

# One of before would be installed in the place of one that was left out.
rm -f "$release/libnonblocking_ffi_python.so" "$release/libnonblocking_ffi_java.so"

"${CARGO:-cargo}" build --release --locked --package nonblocking-ffi-python ||
    echo "The rock is installed without Python: its runtime cannot be built, see above"
sh runtimes/java/build.sh runtime ||
    echo "The rock is installed without Java: its runtime cannot be built, see above"
