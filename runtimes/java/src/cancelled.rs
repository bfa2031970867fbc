//! Tasks that nobody waits for any more: from the host's thread, which must not
//! wait for the JVM, to a thread of Java's, which sleeps until there is one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use nonblocking_ffi_plugin::sys::nbffi_task;
use nonblocking_ffi_runtimes_common::task::{self, OnCancel};

/// Held for as long as it takes to add or to take a task.
static TASKS: Mutex<VecDeque<nbffi_task>> = Mutex::new(VecDeque::new());
static ADDED: Condvar = Condvar::new();

/// Has the task returned by [`wait`] when nobody waits for it any more. Does
/// nothing if the host is too old to tell, or if memory is out.
pub fn subscribe(task: nbffi_task) {
    // SAFETY: a constant lives for ever.
    unsafe { task::on_cancel(task, &Queue) };
}

/// What the host's thread tells.
struct Queue;

impl OnCancel for Queue {
    fn on_cancel(&self, task: nbffi_task) {
        let mut tasks = TASKS.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.try_reserve(1).is_ok() {
            tasks.push_back(task);
            ADDED.notify_one();
        }
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
                    Queue.on_cancel(task);
                }
            });
            let mut got: Vec<_> = (1..=TASKS).map(|_| wait()).collect();
            got.sort_unstable();
            assert!(got.into_iter().eq(1..=TASKS));
        });
    }
}
