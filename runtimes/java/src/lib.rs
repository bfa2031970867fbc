//! Java in nginx workers: a plugin of lua-resty-nonblocking-ffi that hosts a JVM.
//!
//! `load{ language = "java" }` loads this shared object, with the options as its
//! configuration. Every runtime has a class loader of its own in the one JVM of
//! the process. Pool threads enter the JVM once, and run task after task there.
//!
//! Each file imports only from those above it:
//!
//! | file          | role |
//! |---------------|------|
//! | [`config`]    | the options of `load` |
//! | [`locate`]    | which JVM |
//! | [`options`]   | its arguments |
//! | [`signals`]   | which signals are nginx's and which the JVM's |
//! | [`cancelled`] | tasks that nobody waits for any more |
//! | [`frame`]     | the memory that a pool thread and Java share |
//! | [`natives`]   | the functions that Java calls |
//! | [`java`]      | the methods of Java that are called from here |
//! | [`jvm`]       | making the JVM |
//! | [`thread`]    | pool threads in the JVM |
//! | [`runtime`]   | one runtime |
//!
//! The Java half is in `runtime/`: `Boot` is called from here, `Frame` is a pool
//! thread, `Handler` calls the user's method, `Pending` is a task that ends in
//! another thread, `Canceller` gives up tasks that nobody waits for. `api/` is
//! what the user's code sees.
//!
//! # Memory
//!
//! A request of up to 4 KiB is copied into the frame, and from there into a
//! `byte[]`, or shown as a slice of it; a response goes the other way. That costs
//! less than any object of JNI's. Larger ones are copied once, or not at all.
//!
//! # JNI
//!
//! The crate `jni` wraps JNI: its environment and its local references have a
//! lifetime, so none can leave its thread or its call.

mod cancelled;
mod config;
mod frame;
mod java;
pub mod jvm;
mod locate;
mod natives;
mod options;
mod runtime;
mod signals;
pub mod thread;

use nonblocking_ffi_plugin::sys;
use nonblocking_ffi_runtimes_common::entry;

static PLUGIN: sys::nbffi_plugin = entry::plugin::<runtime::Runtime>();

/// The entry function.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_plugin_entry(_host_abi_version: u32) -> *const sys::nbffi_plugin {
    &PLUGIN
}
