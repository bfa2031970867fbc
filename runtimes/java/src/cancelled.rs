//! Tasks that nobody waits for any more: from the host's thread, which must not
//! wait for the JVM, to a thread of Java's, which sleeps until there is one.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Condvar, Mutex, PoisonError};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::task;

/// Held for as long as it takes to add or to take a task.
static TASKS: Mutex<VecDeque<nbffi_task>> = Mutex::new(VecDeque::new());
static ADDED: Condvar = Condvar::new();

/// Has the task returned by [`wait`] when nobody waits for it any more. Does
/// nothing if the host is too old to tell.
pub fn subscribe(task: nbffi_task) {
    // If the task has ended there is nothing to do. If memory is out, the task
    // just is not cancelled.
    // SAFETY: `add` takes any argument, and does not unwind.
    let _ = unsafe { task::on_cancel(task, add, std::ptr::null_mut()) };
}

unsafe extern "C" fn add(_: *mut c_void, task: nbffi_task) {
    let mut tasks = TASKS.lock().unwrap_or_else(PoisonError::into_inner);
    if tasks.try_reserve(1).is_ok() {
        tasks.push_back(task);
        ADDED.notify_one();
    }
}

/// Waits for a task that nobody waits for.
pub fn wait() -> nbffi_task {
    let mut tasks = TASKS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match tasks.pop_front() {
            Some(task) => return task,
            None => tasks = ADDED.wait(tasks).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_returned_once_however_they_come() {
        const TASKS: u64 = 1000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for task in 1..=TASKS {
                    // SAFETY: it takes any argument.
                    unsafe { add(std::ptr::null_mut(), task) };
                }
            });
            let mut got: Vec<_> = (1..=TASKS).map(|_| wait()).collect();
            got.sort_unstable();
            assert!(got.into_iter().eq(1..=TASKS));
        });
    }
}
