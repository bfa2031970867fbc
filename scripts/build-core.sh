#!/bin/sh
# Builds target/release/libnonblocking_ffi.so. Needs cargo and, once, the
# network for the crates; used by the Makefile and by the rock.
set -eu
cd "$(dirname "$0")/.."

# Where rustup puts cargo is in PATH only after a new login.
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
cargo=$(command -v "${CARGO:-cargo}" || true)
if [ -z "$cargo" ]; then
    cat >&2 <<'END'

lua-resty-nonblocking-ffi is written in Rust, and cargo was not found.
Install Rust 1.88 or later, for example with https://rustup.rs, and make sure
that `cargo --version` works. (Debian 12's own package is too old.)

END
    exit 1
fi

# The loader, the tests and the rock expect the result in this place.
exec "$cargo" build --release --locked --lib --package resty-nonblocking-ffi \
    --target-dir target
