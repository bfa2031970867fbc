//! Leaving the process while pool threads, or a plugin's own, are running.
//!
//! `exit` runs the destructors and exit handlers of every library in the
//! process. Under a thread that is in such a library, that is a crash waiting
//! to happen. So an exit handler of ours ends the process at once. Handlers run
//! in the reverse order of their registration, so it is moved to the end of the
//! list after each library that is loaded, and runs before what that one registered.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// The thread that moves the handler, which takes it off by having it called.
#[cfg(target_env = "gnu")]
static MOVER: Mutex<()> = Mutex::new(());
#[cfg(target_env = "gnu")]
static MOVING: AtomicI32 = AtomicI32::new(0);

/// Registers the handler behind all others. It is in the list once: a list that grew
/// with every runtime would never end.
#[cfg(target_env = "gnu")]
fn register() {
    extern "C" {
        fn __cxa_atexit(
            handler: extern "C" fn(*mut c_void, c_int),
            arg: *mut c_void,
            library: *const c_void,
        ) -> c_int;
        fn __cxa_finalize(library: *const c_void);
    }
    extern "C" fn handler(_arg: *mut c_void, status: c_int) {
        // Relaxed: written by this thread, if it says so.
        if MOVING.load(Ordering::Relaxed) != thread() {
            leave(status);
        }
    }
    fn thread() -> i32 {
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc::gettid() }
    }
    // By its address, the handler is told from others.
    static KEY: u8 = 0;
    let key = std::ptr::from_ref(&KEY).cast();
    let _mover = MOVER.lock().unwrap_or_else(PoisonError::into_inner);
    MOVING.store(thread(), Ordering::Relaxed);
    // SAFETY: takes off what was registered with the key: the handler, if anything.
    unsafe { __cxa_finalize(key) };
    MOVING.store(0, Ordering::Relaxed);
    // SAFETY: the handler lives as long as the process, as this object is never
    // unloaded; glibc gives it the status. If there is no room for it, exit is as it
    // was before.
    unsafe { __cxa_atexit(handler, std::ptr::null_mut(), key) };
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
