//! The end of the process: shutdown hooks run, on a thread of the host's. The JVM
//! itself is not destroyed, as threads go on running Java.

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nonblocking_ffi_plugin::sys::{NBFFI_OK, nbffi_exit_fn, nbffi_host};

use crate::jvm::Jvm;
use crate::{runtime, thread};

/// nginx's level "error".
const ERROR: c_int = 4;

/// Has the host call [`end`], if it can: `at_exit` came with version 1.3.
///
/// # Errors
/// If there is no memory for that.
///
/// # Safety
/// `host` is what `init` was given.
pub unsafe fn register(host: *const nbffi_host, jvm: &'static Jvm) -> Result<(), String> {
    // SAFETY: `size` leads the structure in every version, and says whether the
    // function is there.
    let status = unsafe {
        if ((*host).size as usize) < offset_of!(nbffi_host, at_exit) + size_of::<usize>() {
            return Ok(());
        }
        let function: nbffi_exit_fn = end;
        // The same arguments each time: the host takes them once.
        let arg = std::ptr::from_ref(jvm).cast_mut();
        ((*host).at_exit)(host, Some(function), arg.cast())
    };
    match status {
        NBFFI_OK => Ok(()),
        status => Err(format!("the host does not take at_exit: {status}")),
    }
}

unsafe extern "C" fn end(arg: *mut c_void, _deadline_ns: u64) {
    // SAFETY: what `register` passed: it lives for ever.
    let jvm = unsafe { &*arg.cast::<Jvm>() };
    // Nobody can be told of a panic. Unwind safety: nothing is used after it.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let ended = thread::with_env(jvm, |env| jvm.java().end(env));
        if let Err(text) = ended.and_then(|ended| ended.map_err(|thrown| thrown.0)) {
            let line = format!("at the end of the worker: {text}");
            runtime::log(0, ERROR, line.as_bytes());
        }
    }));
}
