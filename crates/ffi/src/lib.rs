//! The C functions that nginx's Lua calls, mirroring the core's modules.
//! `lua/resty/nonblocking_ffi/core/cdefs.lua` declares them. The shared object only
//! exports these and what code in VMs calls, [`nonblocking_ffi_lua_vm::exports`].
//!
//! | file        | role |
//! |-------------|------|
//! | [`calls`]   | post, drain, release, cancel: the call path |
//! | [`client`]  | a Lua VM's client: channel, log lines, exit |
//! | [`lua`]     | Lua runtimes |
//! | [`process`] | what is done to a worker, once: its exit, what children inherit |
//! | [`resty_ffi`] | plugins of lua-resty-ffi: what they call, making theirs |
//! | [`runtime`] | pools and runtimes: making and freeing |
//! | [`stats`]   | statistics |
//!
//! Each function is called by the thread of the Lua VM that made the client, catches
//! panics, and returns a status: 0 or more is success, `-n` the error of code `n`. Longer
//! errors go into a caller-owned buffer.

#[cfg(all(feature = "host-luajit", feature = "vendored-luajit"))]
compile_error!(
    "host-luajit and vendored-luajit exclude each other: with --features vendored-luajit, say \
     --no-default-features"
);
#[cfg(not(any(feature = "host-luajit", feature = "vendored-luajit")))]
compile_error!("one of host-luajit (the default) and vendored-luajit is needed");

pub mod calls;
pub mod client;
pub mod lua;
pub mod process;
pub mod resty_ffi;
pub mod runtime;
pub mod stats;

use nonblocking_ffi_core::catch::catch;
use nonblocking_ffi_core::error::Error;
use nonblocking_ffi_core::memory;
use nonblocking_ffi_core::text::{ErrorBuffer, Text};

#[global_allocator]
static MEMORY: memory::Memory = memory::Memory;

/// Changes whenever a function or structure here does, so that Lua files and
/// shared object of different versions do not meet.
const INTERFACE: u32 = 4;

/// What is returned for a panic.
const PANICKED: i32 = -(Error::Runtime as i32);

/// What functions write that have no code for it.
const NO_MEMORY: &str = "no memory";

/// The number of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_interface() -> u32 {
    INTERFACE
}
