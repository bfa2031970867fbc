//! The plugin's descriptor: `init`, `call` and `close`, which catch panics.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nonblocking_ffi_plugin::glue::write_message;
use nonblocking_ffi_plugin::sys::{NBFFI_ABI_MAJOR, NBFFI_ASYNC, nbffi_host, nbffi_plugin};

use crate::host::{Host, Request};

/// What a panic that reaches C fails with.
pub const PANIC: &str = "panic in the language runtime";

/// A runtime of a language: an entry with one configuration, from `init` to
/// `close`.
///
/// # Safety
///
/// No copy of the [`Host`] is used once `open` has failed, or `close` or a panic
/// has dropped the runtime.
pub unsafe trait Runtime: Sized + Send + Sync {
    /// Opens it. The error is what `load` returns.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    fn open(host: Host) -> Result<Self, String>;

    /// Runs a task, or gives it to somebody who does.
    ///
    /// # Safety
    ///
    /// Inside of the `call` that has been given this task; nobody else completes
    /// it.
    unsafe fn call(&self, request: Request);

    /// Closes it, after the last call.
    fn close(self);
}

/// The descriptor of a plugin that opens such runtimes.
///
/// The plugin is asynchronous: a task may end after its call. It takes any host
/// of its major version, and uses what newer ones offer if it is there.
pub const fn plugin<R: Runtime>() -> nbffi_plugin {
    nbffi_plugin {
        abi_version: NBFFI_ABI_MAJOR << 16,
        size: size_of::<nbffi_plugin>() as u32,
        flags: NBFFI_ASYNC,
        reserved: 0,
        init: Some(init::<R>),
        call: Some(call::<R>),
        close: Some(close::<R>),
    }
}

unsafe extern "C" fn init<R: Runtime>(
    host: *const nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    // SAFETY: the host's table, and the promise of the trait.
    let open = || R::open(unsafe { Host::new(host) }?);
    // Unwind safety: what is half open is dropped.
    let opened = catch_unwind(AssertUnwindSafe(open));
    match opened.unwrap_or_else(|_| Err(PANIC.to_owned())) {
        Ok(runtime) => {
            // SAFETY: the host passes a pointer to write to.
            unsafe { *state = Box::into_raw(Box::new(runtime)).cast() };
            0
        }
        Err(message) => {
            // SAFETY: the host passes room for `err_size` bytes.
            unsafe { write_message(&message, err, err_size) };
            1
        }
    }
}

unsafe extern "C" fn call<R: Runtime>(
    state: *mut c_void,
    task: u64,
    request: *const c_void,
    len: u64,
) -> c_int {
    // SAFETY: what `init` stored; it is closed after the last call has returned.
    let runtime = unsafe { &*state.cast::<R>() };
    let request = Request::new(task, request, len);
    // SAFETY: the host's call for this task. Unwind safety: a runtime changes
    // only what is behind locks and atomics.
    let ran = catch_unwind(AssertUnwindSafe(|| unsafe { runtime.call(request) }));
    c_int::from(ran.is_err())
}

unsafe extern "C" fn close<R: Runtime>(state: *mut c_void) {
    // SAFETY: `init` made it from a box, and this is the last use.
    let runtime = unsafe { Box::from_raw(state.cast::<R>()) };
    // Nobody can be told of a panic. Unwind safety: nothing is used after it.
    let _ = catch_unwind(AssertUnwindSafe(|| runtime.close()));
}
