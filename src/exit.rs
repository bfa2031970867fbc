//! Leaving the process while pool threads, or a plugin's own, are running.
//!
//! `exit` runs the destructors and exit handlers of every library in the
//! process. Under a thread that is in such a library, that is a crash waiting
//! to happen. So an exit handler of ours ends the process at once. Handlers run
//! in the reverse order of their registration, so it is registered again after
//! each library that is loaded, and runs before what that one registered.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

/// The process whose exit is guarded: a child that a plugin forks is not ours.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Guards the exit of this process against what has been registered so far.
pub fn guard() {
    // Relaxed: read by the handler in whichever thread exits; a plain number.
    OWNER.store(std::process::id(), Ordering::Relaxed);
    register();
}

/// Ends the process now, with this status and without any exit handler.
pub fn now(status: c_int) -> ! {
    // SAFETY: `_exit` may be called at any time.
    unsafe { libc::_exit(status) }
}

fn leave(status: c_int) {
    if OWNER.load(Ordering::Relaxed) == std::process::id() {
        now(status);
    }
}

#[cfg(target_env = "gnu")]
fn register() {
    extern "C" {
        fn on_exit(handler: extern "C" fn(c_int, *mut c_void), arg: *mut c_void) -> c_int;
    }
    extern "C" fn handler(status: c_int, _arg: *mut c_void) {
        leave(status);
    }
    // SAFETY: the handler lives as long as the process, as this object is
    // never unloaded. If there is no room for it, exit is as it was before.
    unsafe { on_exit(handler, std::ptr::null_mut()) };
}

#[cfg(not(target_env = "gnu"))]
fn register() {
    // Only glibc tells a handler the status; nginx's workers exit with 0 but
    // for fatal errors, and then do not load plugins.
    extern "C" fn handler() {
        leave(0);
    }
    // SAFETY: as above.
    unsafe { libc::atexit(handler) };
}
