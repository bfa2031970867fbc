//! The end of the process. Python is not finalised, but what it does before it
//! finalises is done: threads that are not daemons are joined, `atexit` is run,
//! files are flushed (`python/exit.py`).
//!
//! All that belongs on Python's main thread, which is the keeper. If it hangs
//! there, for a thread that does not end, the rest is done here, so that files
//! are flushed in any case.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nonblocking_ffi_plugin::sys::{NBFFI_OK, nbffi_exit_fn, nbffi_host};

use crate::interpreter::Interpreter;
use crate::runtime::monotonic_ns;
use crate::{keeper, threads};

/// The main thread has this part of the time for itself.
const MAIN_SHARE: f64 = 0.6;

/// Has the host call [`end`], if it can: `at_exit` came with version 1.3.
///
/// # Errors
///
/// If there is no memory for that.
///
/// # Safety
///
/// `host` is what `init` was given.
pub unsafe fn register(
    host: *const nbffi_host,
    interpreter: &'static Interpreter,
) -> Result<(), String> {
    // SAFETY: `size` leads the structure in every version, and says whether the
    // function is there.
    let status = unsafe {
        if ((*host).size as usize) < offset_of!(nbffi_host, at_exit) + size_of::<usize>() {
            return Ok(());
        }
        // The same arguments each time: the host takes them once.
        let arg = std::ptr::from_ref(interpreter).cast_mut();
        let function: nbffi_exit_fn = end;
        ((*host).at_exit)(host, Some(function), arg.cast::<c_void>())
    };
    match status {
        NBFFI_OK => Ok(()),
        status => Err(format!(
            "the host does not take at_exit: {}",
            status as c_int
        )),
    }
}

unsafe extern "C" fn end(arg: *mut c_void, deadline_ns: u64) {
    // SAFETY: what `register` passed: it lives for ever.
    let interpreter = unsafe { &*arg.cast::<Interpreter>() };
    // Nobody can be told of a panic. Unwind safety: nothing is used after it.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
        if !keeper::end(left.mul_f64(MAIN_SHARE)) {
            interpreter.finish(threads::attach(interpreter.api()).gil());
        }
    }));
}
