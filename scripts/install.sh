#!/bin/sh
# install.sh LUA_DIR LUA_LIBDIR INCLUDE_DIR
#
# Copies what scripts/build-core.sh and lua/ hold to where nginx's `require`
# finds it. A library in use is replaced by renaming, never overwritten: running
# workers have it mapped.
set -eu
cd "$(dirname "$0")/.."
lua_dir=$1 lib_dir=$2 include_dir=$3

put() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new.$$"
    chmod "$3" "$2.new.$$"
    mv -f "$2.new.$$" "$2"
}

put target/release/libnonblocking_ffi.so "$lib_dir/libnonblocking_ffi.so" 755
# Language runtimes, as far as they were built (`make runtimes`).
for language in python java; do
    library=libnonblocking_ffi_$language.so
    if [ -e "target/release/$library" ]; then
        put "target/release/$library" "$lib_dir/$library" 755
    fi
done
put include/nonblocking_ffi.h "$include_dir/nonblocking_ffi.h" 644
find lua -name '*.lua' | while read -r file; do
    put "$file" "$lua_dir/${file#lua/}" 644
done
