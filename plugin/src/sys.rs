//! The plugin ABI, version 1.3: `include/nonblocking_ffi.h` in Rust.
//!
//! Names are those of the header, which documents them. `tests/abi.rs`
//! compiles the header and compares every offset, size, type and constant.
//! Use it directly only for what the safe types do not offer.
#![allow(non_camel_case_types, reason = "the names are those of the C header")]

use std::ffi::{c_char, c_int, c_void};

/// Major version of the ABI; plugin and host must agree.
pub const NBFFI_ABI_MAJOR: u32 = 1;
/// Minor version of the ABI; the host's must not be older.
pub const NBFFI_ABI_MINOR: u32 = 3;
/// Both versions in one number.
pub const NBFFI_ABI_VERSION: u32 = (NBFFI_ABI_MAJOR << 16) | NBFFI_ABI_MINOR;

/// Success.
pub const NBFFI_OK: c_int = 0;
/// The task was completed before, or never existed.
pub const NBFFI_STALE: c_int = -1;
/// The response is larger than the runtime's `max_response`.
pub const NBFFI_TOO_LARGE: c_int = -2;
/// The host is out of memory.
pub const NBFFI_NO_MEMORY: c_int = -3;
/// An argument is wrong.
pub const NBFFI_INVALID: c_int = -4;

/// Log level.
pub const NBFFI_LOG_EMERG: c_int = 1;
/// Log level.
pub const NBFFI_LOG_ALERT: c_int = 2;
/// Log level.
pub const NBFFI_LOG_CRIT: c_int = 3;
/// Log level.
pub const NBFFI_LOG_ERR: c_int = 4;
/// Log level.
pub const NBFFI_LOG_WARN: c_int = 5;
/// Log level.
pub const NBFFI_LOG_NOTICE: c_int = 6;
/// Log level.
pub const NBFFI_LOG_INFO: c_int = 7;
/// Log level.
pub const NBFFI_LOG_DEBUG: c_int = 8;

/// Flag of an asynchronous plugin.
pub const NBFFI_ASYNC: u32 = 1;

/// `deadline_ns` of a task that has none.
pub const NBFFI_NO_DEADLINE: u64 = u64::MAX;

/// A task: an opaque handle, never 0.
pub type nbffi_task = u64;

/// Releases what was handed over to `respond_owned`.
pub type nbffi_release_fn = unsafe extern "C" fn(arg: *mut c_void, data: *mut c_void);

/// What `at_exit` has called.
pub type nbffi_exit_fn = unsafe extern "C" fn(arg: *mut c_void, deadline_ns: u64);

/// What `on_cancel` has called.
pub type nbffi_cancel_fn = unsafe extern "C" fn(arg: *mut c_void, task: nbffi_task);

/// The host's functions, as one runtime sees them.
#[repr(C)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct nbffi_host {
    pub abi_version: u32,
    pub size: u32,
    pub log:
        unsafe extern "C" fn(host: *const nbffi_host, level: c_int, msg: *const c_char, len: u64),
    pub config: unsafe extern "C" fn(host: *const nbffi_host, len: *mut u64) -> *const c_char,
    pub name: unsafe extern "C" fn(host: *const nbffi_host, len: *mut u64) -> *const c_char,
    pub deadline_ns: unsafe extern "C" fn(task: nbffi_task) -> u64,
    pub is_cancelled: unsafe extern "C" fn(task: nbffi_task) -> c_int,
    pub alloc: unsafe extern "C" fn(task: nbffi_task, size: u64) -> *mut c_void,
    pub respond_buffer: unsafe extern "C" fn(task: nbffi_task, len: u64) -> c_int,
    pub respond: unsafe extern "C" fn(task: nbffi_task, data: *const c_void, len: u64) -> c_int,
    pub respond_owned: unsafe extern "C" fn(
        task: nbffi_task,
        data: *mut c_void,
        len: u64,
        release: Option<nbffi_release_fn>,
        arg: *mut c_void,
    ) -> c_int,
    pub fail:
        unsafe extern "C" fn(task: nbffi_task, code: i64, msg: *const c_char, len: u64) -> c_int,
    pub set_status:
        unsafe extern "C" fn(task: nbffi_task, code: i64, msg: *const c_char, len: u64) -> c_int,
    /// Since 1.1.
    pub next: unsafe extern "C" fn(
        host: *const nbffi_host,
        task: *mut nbffi_task,
        req: *mut *const c_void,
        len: *mut u64,
    ) -> c_int,
    /// Since 1.2.
    pub await_next: unsafe extern "C" fn(
        host: *const nbffi_host,
        task: *mut nbffi_task,
        req: *mut *const c_void,
        len: *mut u64,
    ) -> c_int,
    /// Since 1.3.
    pub at_exit: unsafe extern "C" fn(
        host: *const nbffi_host,
        function: Option<nbffi_exit_fn>,
        arg: *mut c_void,
    ) -> c_int,
    /// Since 1.3.
    pub on_cancel: unsafe extern "C" fn(
        task: nbffi_task,
        function: Option<nbffi_cancel_fn>,
        arg: *mut c_void,
    ) -> c_int,
}

/// What a plugin is.
#[repr(C)]
#[allow(missing_docs, reason = "documented in the header")]
pub struct nbffi_plugin {
    pub abi_version: u32,
    pub size: u32,
    pub flags: u32,
    pub reserved: u32,
    pub init: Option<
        unsafe extern "C" fn(
            host: *const nbffi_host,
            state: *mut *mut c_void,
            err: *mut c_char,
            err_size: u64,
        ) -> c_int,
    >,
    pub call: Option<
        unsafe extern "C" fn(
            state: *mut c_void,
            task: nbffi_task,
            req: *const c_void,
            len: u64,
        ) -> c_int,
    >,
    pub close: Option<unsafe extern "C" fn(state: *mut c_void)>,
}

/// The entry function.
pub type nbffi_plugin_entry_fn = unsafe extern "C" fn(host_abi_version: u32) -> *const nbffi_plugin;
