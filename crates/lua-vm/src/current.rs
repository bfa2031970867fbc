//! The VM that runs on the calling thread, for the C functions that its code calls.

use std::cell::Cell;
use std::ptr;

use crate::interrupt::Interrupt;
use crate::module::Module;
use crate::resources::Resources;
use crate::shared::Shared;

/// A VM that runs, and its task.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    pub(crate) interrupt: &'a Interrupt,
    /// Resources outside of its heap.
    pub resources: &'a Resources,
    /// Settings and log of its group.
    pub shared: &'a Shared,
    /// The module whose task runs; `None` while the VM starts or ends.
    pub module: Option<&'a Module>,
    /// The handle of the task, or [`NO_TASK`](crate::interrupt::NO_TASK).
    pub task: u64,
}

thread_local! {
    static CURRENT: Cell<*const Current<'static>> = const { Cell::new(ptr::null()) };
}

/// Calls `body` with the VM that runs on this thread, if one does.
pub fn with<T>(body: impl FnOnce(&Current<'_>) -> T) -> Option<T> {
    // SAFETY: set by `enter`, which has not returned and keeps it alive.
    unsafe { CURRENT.get().as_ref() }.map(body)
}

/// Runs code that the interrupter must not leave: machine code that is not Lua's.
pub fn in_foreign_code<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: as in `with`.
    match unsafe { CURRENT.get().as_ref() } {
        Some(vm) => vm.interrupt.in_foreign_code(body),
        None => body(),
    }
}

/// Whether the VM that runs on this thread must stop. Lua code is stopped by a hook or a
/// jump; a C function has to ask.
pub fn is_stopped() -> bool {
    with(|vm| vm.interrupt.is_stopped()).unwrap_or(false)
}

impl Current<'_> {
    /// Makes this VM the current one while `run` runs.
    pub(crate) fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        /// Restores the previous VM at the end, or at a panic.
        struct Before(*const Current<'static>);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _before = Before(CURRENT.replace(ptr::from_ref(self).cast()));
        run()
    }

    /// The task has ended, though its code may still run: it has no deadline now.
    pub fn responded(&self) {
        self.interrupt.responded();
    }
}
