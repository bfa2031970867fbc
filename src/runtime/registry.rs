//! The runtimes of the process, by name, for code in other runtimes.

use std::collections::HashMap;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::Runtime;
use crate::task::Runner;

/// A runtime that has not been closed.
#[derive(Clone, Copy)]
struct Known(NonNull<Runtime>);

// SAFETY: only the address goes from thread to thread; runtimes are shared.
unsafe impl Send for Known {}

static RUNTIMES: LazyLock<Mutex<HashMap<String, Known>>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, HashMap<String, Known>> {
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an initialised runtime known by its name. It must be removed before it
/// is freed.
pub(super) fn add(runtime: &Runtime) {
    let known = Known(NonNull::from(runtime));
    lock().insert(runtime.options.name.clone(), known);
}

/// Removes a runtime: nobody can enter it from now on.
pub(super) fn remove(runtime: &Runtime) {
    let mut runtimes = lock();
    let name = &runtime.options.name;
    // Another one may have its name by now.
    if runtimes
        .get(name)
        .is_some_and(|known| known.0 == NonNull::from(runtime))
    {
        runtimes.remove(name);
    }
}

/// A runtime that is not closed, and not freed, while this lives.
pub struct Entered(NonNull<Runtime>);

impl Deref for Entered {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        // SAFETY: it was entered, so it waits for `leave_nested` before it closes.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: entered once, for this.
        unsafe { self.0.as_ref().leave_nested() };
    }
}

/// The runtime of a name.
pub fn enter(name: &str) -> Option<Entered> {
    let runtimes = lock();
    let runtime = runtimes.get(name)?.0;
    // SAFETY: it is removed, under the lock, before it is freed.
    unsafe { runtime.as_ref() }.enter_nested();
    Some(Entered(runtime))
}
