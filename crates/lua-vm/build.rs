//! Compiles the parts that cannot be written in Rust.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for file in ["interrupt.h", "interrupt.c", "unwind.c"] {
        println!("cargo:rerun-if-changed=src/{file}");
    }
    cc::Build::new()
        .file("src/interrupt.c")
        .file("src/unwind.c")
        .flag_if_supported("-std=gnu11")
        .warnings(true)
        .extra_warnings(true)
        .compile("nonblocking_ffi_interrupt");
    // VMs of a test program find the functions of `exports` in the program.
    println!("cargo:rustc-link-arg-tests=-rdynamic");
}
