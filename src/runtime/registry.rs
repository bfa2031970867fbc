//! The runtimes of the process, by name, for code in other runtimes.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::Runtime;

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

/// The runtime of a name. It lives until [`Runtime::leave_nested`] has been
/// called twice: when the task is delivered, and when the call is over.
pub fn enter(name: &str) -> Option<NonNull<Runtime>> {
    let runtimes = lock();
    let runtime = runtimes.get(name)?.0;
    // SAFETY: it is removed, under the lock, before it is freed.
    unsafe { runtime.as_ref() }.enter_nested();
    Some(runtime)
}
