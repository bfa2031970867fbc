//! Compiles the one part that cannot be written in Rust, and marks the shared
//! object as never to be unloaded.
//!
//! LuaJIT closes the libraries it opened when its VM ends, which happens while
//! an nginx worker exits. Pool threads may be running our code at that moment.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
    for file in ["guard.h", "guard.c", "unwind.c"] {
        println!("cargo:rerun-if-changed=src/runtime/lua/{file}");
    }
    cc::Build::new()
        .file("src/runtime/lua/guard.c")
        .file("src/runtime/lua/unwind.c")
        .flag_if_supported("-std=gnu11")
        .warnings(true)
        .extra_warnings(true)
        .compile("nonblocking_ffi_guard");
}
