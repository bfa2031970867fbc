//! Java in nginx workers: a plugin of lua-resty-nonblocking-ffi that hosts a JVM.
//!
//! `load{ runtime = "java" }` loads this shared object, with the options as its
//! configuration. Every runtime has a class loader of its own in the one JVM of
//! the process; pool threads enter the JVM once, and take task after task there.
//!
//! | file          | role |
//! |---------------|------|
//! | [`config`]    | what `load` was given |
//! | [`locate`]    | which JVM |
//! | [`options`]   | its arguments |
//! | [`jvm`]       | making it |
//! | [`signals`]   | whose signals are whose |
//! | [`end`]       | shutdown hooks run when the process ends |
//! | [`env`]       | the functions of JNI |
//! | [`java`]      | the Java half, as seen from here |
//! | [`natives`]   | this half, as seen from Java |
//! | [`frame`]     | the memory between the two; interrupting a thread |
//! | [`thread`]    | pool threads in the JVM |
//! | [`runtime`]   | one runtime |
//!
//! The Java half is in `host/`: `Boot` is called from here, `Worker` is a pool
//! thread, `Handler` calls the user's method, `Pending` is a task that ends in
//! another thread, `Watch` looks for those that nobody waits for. `api/` is what
//! the user's code sees.
//!
//! # Memory
//!
//! A request of up to 4 KiB is copied into the frame, and from there into a
//! `byte[]`, or shown as a slice of it; a response goes the other way. That costs
//! less than any object of JNI's. Larger ones are copied once, or not at all.

mod config;
mod end;
mod env;
mod frame;
mod java;
mod jvm;
mod locate;
mod natives;
mod options;
mod runtime;
mod signals;
mod thread;

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nonblocking_ffi_plugin::sys;

use runtime::Runtime;

/// The plugin. It is asynchronous, as some methods return futures; a task of any
/// other is completed inside of the call.
static PLUGIN: sys::nbffi_plugin = sys::nbffi_plugin {
    // A host of version 1.0 will do: `next` is used if it is there.
    abi_version: sys::NBFFI_ABI_MAJOR << 16,
    size: size_of::<sys::nbffi_plugin>() as u32,
    flags: sys::NBFFI_ASYNC,
    reserved: 0,
    init: Some(init),
    call: Some(call),
    close: Some(close),
};

/// The entry function.
#[unsafe(no_mangle)]
pub extern "C" fn nbffi_plugin_entry(_host_abi_version: u32) -> *const sys::nbffi_plugin {
    &PLUGIN
}

unsafe extern "C" fn init(
    host: *const sys::nbffi_host,
    state: *mut *mut c_void,
    err: *mut c_char,
    err_size: u64,
) -> c_int {
    // SAFETY: the host calls init as the header says.
    let opened = catch_unwind(AssertUnwindSafe(|| unsafe { Runtime::open(host) }));
    let message = match opened {
        Ok(Ok(runtime)) => {
            // SAFETY: the host passes a pointer to write to.
            unsafe { *state = Box::into_raw(Box::new(runtime)).cast() };
            return 0;
        }
        Ok(Err(message)) => message,
        Err(_) => "panic in the Java host".to_owned(),
    };
    // SAFETY: `err` has room for `err_size` bytes.
    unsafe { write_message(&message, err, err_size) };
    1
}

/// Writes as much of a message as fits, in whole characters, and a NUL.
///
/// # Safety
/// `err` is null or has room for `err_size` bytes.
unsafe fn write_message(message: &str, err: *mut c_char, err_size: u64) {
    if err.is_null() || err_size == 0 {
        return;
    }
    let message = message.replace('\0', "\u{fffd}");
    let mut end = message.len().min(err_size as usize - 1);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    // SAFETY: by the contract; `end` is less than `err_size`.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr(), err.cast::<u8>(), end);
        *err.add(end) = 0;
    }
}

unsafe extern "C" fn call(state: *mut c_void, task: u64, req: *const c_void, len: u64) -> c_int {
    // SAFETY: what `init` stored; not closed before every call has returned.
    let runtime = unsafe { &*state.cast::<Runtime>() };
    // SAFETY: a pool thread, in a call for this task.
    let done = catch_unwind(AssertUnwindSafe(|| unsafe {
        runtime.call(task, req.cast(), len);
    }));
    c_int::from(done.is_err())
}

unsafe extern "C" fn close(state: *mut c_void) {
    // SAFETY: called once, last, with what `init` stored.
    let runtime = unsafe { Box::from_raw(state.cast::<Runtime>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| runtime.close()));
}
