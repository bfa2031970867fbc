#!/usr/bin/env bash
# Runs every test of the project, goes on after a failure, and ends with the
# line "N passed, N failed". `make test` has built what is tested.
#
#   scripts/test.sh [header] [cargo] [loom] [t]     all of them by default
#   scripts/test.sh soak     the tests that have a size, at the size of a release
#   scripts/test.sh miri     unit tests under Miri
set -u
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
CARGO=${CARGO:-cargo}
export CARGO_TARGET_DIR=$PWD/target CARGO_TERM_COLOR=never

# For the Rust tests that start nginx, as for t/.
if found=$(sh scripts/nginx-env.sh); then
    eval "$found"
    export TEST_NGINX_BINARY TEST_NGINX_LOAD_MODULES
fi

passed=0 failed=0
log=$(mktemp "${TMPDIR:-/tmp}/nbffi-test.XXXXXX")
trap 'rm -f "$log"' EXIT

title() { printf '\n== %s\n' "$*"; }

add() { # add PASSED FAILED
    passed=$((passed + $1)) failed=$((failed + $2))
}

count() { # count COMMAND...: one test
    if "$@"; then add 1 0; else add 0 1; echo "FAILED: $*"; fi
}

# cargo_test COMMAND...: runs it and adds up what each test binary reports. One
# that could not be built or died counts as a failure.
cargo_test() {
    "$@" </dev/null 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} sums
    sums=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$log" |
           awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }')
    ran=${sums% *}
    if [ "$status" -ne 0 ] && [ "${sums#* }" -eq 0 ]; then
        sums="$ran 1"
    fi
    add $sums
}

# The header is C99 and C++11, without a warning, and alone is enough.
run_header() {
    title "include/nonblocking_ffi.h as C99 and as C++11"
    local strict="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -Iinclude"
    count "${CC:-cc}" -std=c99 $strict -x c include/nonblocking_ffi.h
    count "${CXX:-c++}" -std=c++11 $strict -x c++ include/nonblocking_ffi.h
}

run_cargo() {
    title "cargo test"
    # With debug assertions; what the tests load into nginx is the release build.
    # Test programs have no LuaJIT but our own.
    cargo_test "$CARGO" test --locked --workspace --no-fail-fast \
        --no-default-features --features vendored-luajit
}

# Models of the armed flag and of parking, with every interleaving. In a target
# folder of their own, because the flag rebuilds everything.
run_loom() {
    title "loom models"
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$PWD/target/loom \
        cargo_test "$CARGO" test --release --locked --package nonblocking-ffi-core \
        --lib loom_
    if [ "$ran" -eq 0 ]; then
        echo "FAILED: no loom model ran"
        add 0 1
    fi
}

# Undefined behaviour in the unit tests that Miri can run: those that call no C code and
# do not take minutes. crossbeam-epoch needs Tree Borrows. Needs rustup's nightly, with
# the component miri.
run_miri() {
    title "miri"
    # Slots are never freed: no leaks.
    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance"
    MIRIFLAGS+=" -Zmiri-tree-borrows -Zmiri-ignore-leaks"
    cargo_test "$CARGO" +nightly miri test --locked -p nonblocking-ffi-core --lib -- \
        error:: leases:: log:: pool:: spin_wait:: stats:: task:: text:: \
        wake::completions wake::mailbox \
        --skip every_size --skip starves
    cargo_test "$CARGO" +nightly miri test --locked -p nonblocking-ffi-lua-vm \
        --features host-luajit --lib -- maps resources
}

# The tests whose size is in NBFFI_SOAK_*, see CONTRIBUTING.md; one program after
# the other, since they look at memory.
run_soak() {
    export NBFFI_SOAK_CALLS=${NBFFI_SOAK_CALLS:-1000000}
    export NBFFI_SOAK_CYCLES=${NBFFI_SOAK_CYCLES:-100000}
    export NBFFI_SOAK_RELOADS=${NBFFI_SOAK_RELOADS:-200}
    title "soak: $NBFFI_SOAK_CALLS calls, $NBFFI_SOAK_CYCLES cycles," \
        "$NBFFI_SOAK_RELOADS reloads"
    local programs names
    programs=$(grep -l 'Size::' tests/*.rs | sed 's|tests/\(.*\)\.rs|--test \1|')
    # The name of the function that each use stands in.
    names=$(awk '/^fn /{ sub(/\(.*/, "", $2); name = $2 }
                 /Size::[A-Z]/ { print name }' tests/*.rs | sort -u)
    cargo_test "$CARGO" test --locked --no-fail-fast --no-default-features \
        --features vendored-luajit $programs -- --test-threads 2 --exact $names
}

run_t() {
    title "t/*.t"
    perl scripts/run-t.pl </dev/null 2>&1 | tee "$log"
    local sums
    sums=$(sed -n 's/^t: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
    add ${sums:-0 1}
}

if [ $# -eq 0 ]; then
    set -- header cargo loom t
fi
for part in "$@"; do
    case $part in
        header | cargo | loom | miri | t | soak) "run_$part" ;;
        *) echo "test.sh: no such part: $part" >&2; exit 2 ;;
    esac
done

printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
