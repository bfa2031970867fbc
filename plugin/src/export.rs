//! The C side: the functions behind a descriptor, for any plugin type.
//!
//! Each of them catches panics, so that none unwinds into the host.

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::calls::{Raw, request_address};
use crate::glue::write_message;
use crate::sys::{self, nbffi_cancel_fn, nbffi_host, nbffi_plugin, nbffi_task};
use crate::task::Submission;
use crate::{AsyncPlugin, Calls, Error, Host, OwnedTask, Plugin, Task};

/// What `state` points to.
struct Runtime<P> {
    plugin: P,
    host: Host,
    raw_host: NonNull<nbffi_host>,
}

/// The descriptor of a blocking plugin.
pub const fn blocking<P: Plugin>() -> nbffi_plugin {
    nbffi_plugin {
        abi_version: sys::NBFFI_ABI_VERSION,
        size: size_of::<nbffi_plugin>() as u32,
        flags: 0,
        reserved: 0,
        init: Some(init_blocking::<P>),
        call: Some(call_blocking::<P>),
        close: Some(close_blocking::<P>),
    }
}

/// The descriptor of an asynchronous plugin.
pub const fn asynchronous<P: AsyncPlugin>() -> nbffi_plugin {
    nbffi_plugin {
        abi_version: sys::NBFFI_ABI_VERSION,
        size: size_of::<nbffi_plugin>() as u32,
        flags: sys::NBFFI_ASYNC,
        reserved: 0,
        init: Some(init_async::<P>),
        call: Some(call_async::<P>),
        close: Some(close_async::<P>),
    }
}

unsafe extern "C" fn init_blocking<P: Plugin>(
    host: *const nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    // SAFETY: the host calls init as the header says.
    unsafe { init(P::init, host, state, err, err_size) }
}

unsafe extern "C" fn init_async<P: AsyncPlugin>(
    host: *const nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    // SAFETY: the host calls init as the header says.
    unsafe { init(P::init, host, state, err, err_size) }
}

/// # Safety
///
/// The arguments are those of the header's `init`.
unsafe fn init<P>(
    make: fn(Host) -> Result<P, Error>,
    host: *const nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    let attempt = || -> Result<(), Error> {
        let raw_host = NonNull::new(host.cast_mut())
            .ok_or_else(|| Error::msg("the host passed no host table"))?;
        // SAFETY: valid until close has returned, or until init has if it
        // fails; it is disconnected before either.
        let host = unsafe { Host::new(raw_host)? };
        let made = catch_unwind(AssertUnwindSafe(|| make(host.clone())));
        match made.unwrap_or_else(|payload| Err(Error::from_panic(payload))) {
            Ok(plugin) => {
                let runtime = Box::new(Runtime {
                    plugin,
                    host,
                    raw_host,
                });
                // SAFETY: the host passes a pointer to write to.
                unsafe { *state = Box::into_raw(runtime).cast() };
                Ok(())
            }
            Err(error) => {
                host.disconnect();
                Err(error)
            }
        }
    };
    match attempt() {
        Ok(()) => 0,
        Err(error) => {
            // SAFETY: err has room for err_size bytes.
            unsafe { write_message(error.message(), err, err_size) };
            1
        }
    }
}

unsafe extern "C" fn call_blocking<P: Plugin>(
    state: *mut c_void,
    raw: nbffi_task,
    req: *const c_void,
    len: u64,
) -> c_int {
    // SAFETY: state is what init stored; it lives until close, and is shared.
    let runtime = unsafe { &*state.cast::<Runtime<P>>() };
    let first = Raw {
        task: raw,
        req,
        len,
    };
    // SAFETY: the host has called with this task, and the value does not leave
    // this call: it can neither be sent to another thread nor outlive `runtime`.
    let calls = unsafe { Calls::new(&runtime.plugin, runtime.raw_host, first) };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runtime.plugin.call_batch(calls))) {
        // Calls have their own panics; this one is of nobody's.
        let error = Error::from_panic(payload);
        runtime.host.error(format_args!("call_batch: {error}"));
    }
    0
}

unsafe extern "C" fn call_async<P: AsyncPlugin>(
    state: *mut c_void,
    raw: nbffi_task,
    req: *const c_void,
    len: u64,
) -> c_int {
    // SAFETY: state is what init stored. It lives until close, which can come
    // as soon as the task is completed, but not before this call returns: the
    // host runs close after the last call, on which its pool thread is now.
    let runtime = unsafe { &*state.cast::<Runtime<P>>() };
    let raw_host = runtime.raw_host;
    // SAFETY: pending, and readable, until this value completes the task;
    // nobody else does, since we return 0.
    let task = unsafe {
        let told = (told::<P> as nbffi_cancel_fn, state);
        OwnedTask::new(raw_host, raw, request_address(req), len as usize, told)
    };
    Submission::begin(raw);
    let result = catch_unwind(AssertUnwindSafe(|| runtime.plugin.submit(task)));
    let pending = Submission::end();
    if let Err(payload) = result {
        let error = Error::from_panic(payload);
        if pending {
            // SAFETY: the OwnedTask is gone and has left the task to us.
            unsafe { Task::new(raw_host, raw).fail(&error) };
        } else {
            // The task is completed, or in other hands.
            runtime.host.error(format_args!("submit: {error}"));
        }
    }
    0
}

/// What `on_cancel` calls.
unsafe extern "C" fn told<P: AsyncPlugin>(state: *mut c_void, task: nbffi_task) {
    // SAFETY: state is what init stored; the host calls this before it closes.
    let runtime = unsafe { &*state.cast::<Runtime<P>>() };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runtime.plugin.cancelled(task))) {
        let error = Error::from_panic(payload);
        runtime.host.error(format_args!("cancelled: {error}"));
    }
}

unsafe extern "C" fn close_blocking<P: Plugin>(state: *mut c_void) {
    // SAFETY: the host calls close once, last, with what init stored.
    unsafe { close(P::close, state) }
}

unsafe extern "C" fn close_async<P: AsyncPlugin>(state: *mut c_void) {
    // SAFETY: the host calls close once, last, with what init stored.
    unsafe { close(P::close, state) }
}

/// # Safety
///
/// `state` is what `init` stored for the same type, and nobody uses it.
unsafe fn close<P>(end: fn(P), state: *mut c_void) {
    // SAFETY: init made the pointer from such a box.
    let Runtime { plugin, host, .. } = *unsafe { Box::from_raw(state.cast::<Runtime<P>>()) };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| end(plugin))) {
        host.error(format_args!("close: {}", Error::from_panic(payload)));
    }
    host.disconnect();
}
