//! Marks the shared object as never to be unloaded.
//!
//! LuaJIT closes the libraries it opened when its VM ends, which happens while
//! an nginx worker exits. Pool threads may be running our code at that moment.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
