//! What plugins want to be run when the process ends: `at_exit` of the plugin
//! ABI. Each runs on a thread of its own, so that one that hangs takes nothing
//! from the others; the main thread waits for all, until the deadline.

use std::ffi::c_void;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nonblocking_ffi_plugin::sys::nbffi_exit_fn;

use crate::log::stderr;
use crate::pool::spawn_helper;
use crate::sync::now_ns;

/// A function of a plugin.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    function: nbffi_exit_fn,
    arg: *mut c_void,
}

// SAFETY: the ABI says that the function is called on another thread, with the
// same argument.
unsafe impl Send for Hook {}

impl Hook {
    /// Calls `function` with `arg` at the end.
    ///
    /// # Safety
    /// That may be done once, on any thread, until the process has ended.
    pub unsafe fn new(function: nbffi_exit_fn, arg: *mut c_void) -> Self {
        Self { function, arg }
    }

    fn is(self, other: Self) -> bool {
        std::ptr::fn_addr_eq(self.function, other.function) && self.arg == other.arg
    }

    fn run(self, deadline_ns: u64) {
        // SAFETY: by the contract of `new`; it is taken from the list once.
        unsafe { (self.function)(self.arg, deadline_ns) };
    }
}

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Adds a hook, unless it is there already. False if there is no memory.
pub fn add(hook: Hook) -> bool {
    let mut hooks = HOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    if hooks.iter().any(|other| other.is(hook)) {
        return true;
    }
    if hooks.try_reserve(1).is_err() {
        return false;
    }
    hooks.push(hook);
    true
}

/// Runs all hooks, and returns when all have returned, or at the deadline.
pub(super) fn run(deadline: Instant) {
    let hooks = std::mem::take(&mut *HOOKS.lock().unwrap_or_else(PoisonError::into_inner));
    let left = deadline.saturating_duration_since(Instant::now());
    let deadline_ns = now_ns().saturating_add(left.as_nanos() as u64);
    let (done, all_done) = mpsc::channel::<()>();
    for hook in hooks {
        let done = done.clone();
        start("end", move || {
            // The whole of it, not its fields, goes to the thread.
            let hook: Hook = hook;
            hook.run(deadline_ns);
            drop(done);
        });
    }
    drop(done);
    wait(&all_done, deadline);
}

/// Does something on a thread of its own, and returns when it is done, or at
/// the deadline.
pub(super) fn run_bounded(name: &str, deadline: Instant, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel::<()>();
    start(name, move || {
        work();
        drop(done);
    });
    wait(&is_done, deadline);
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = spawn_helper(name, work) {
        stderr::write(&["at the end of the worker: ", &error]);
    }
}

/// Waits until all senders are gone.
fn wait(done: &mpsc::Receiver<()>, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let ended = done.recv_timeout(left);
    debug_assert_ne!(ended, Ok(()));
    let _: Result<(), RecvTimeoutError> = ended;
}
