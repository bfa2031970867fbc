//! What Python's main thread sleeps on.

use std::sync::mpsc::{self, SyncSender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nonblocking_ffi_plugin::sys::nbffi_task;

/// A task that nobody wants any more.
#[derive(Clone, Copy, Debug)]
pub struct Unwanted {
    /// The task.
    pub task: nbffi_task,
    /// The runtime whose loop has it, or 0 if a pool thread has it.
    pub loop_of: u64,
}

/// What was posted since the last [`wait`].
#[derive(Debug, Default)]
pub struct Posted {
    /// Tasks to interrupt.
    pub unwanted: Vec<Unwanted>,
    /// Who waits for the end of Python, as the process ends.
    pub end: Option<SyncSender<()>>,
}

static POSTED: Mutex<Posted> = Mutex::new(Posted {
    unwanted: Vec::new(),
    end: None,
});
static CHANGED: Condvar = Condvar::new();

fn posted() -> MutexGuard<'static, Posted> {
    POSTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the main thread interrupt a task. Without the GIL; never waits for long.
pub fn interrupt(unwanted: Unwanted) {
    posted().unwanted.push(unwanted);
    CHANGED.notify_one();
}

/// Has the main thread do what is to be done when the process ends. True if that
/// took no longer than `limit`. To be called once.
pub fn end(limit: Duration) -> bool {
    let (done, is_done) = mpsc::sync_channel(1);
    posted().end = Some(done);
    CHANGED.notify_one();
    is_done.recv_timeout(limit).is_ok()
}

/// Sleeps until something is posted, or until this time.
pub fn wait(until: Option<Instant>) -> Posted {
    let mut posted = posted();
    while posted.unwanted.is_empty() && posted.end.is_none() {
        posted = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => break,
            Some(left) => {
                let woken = CHANGED.wait_timeout(posted, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => CHANGED.wait(posted).unwrap_or_else(PoisonError::into_inner),
        };
    }
    std::mem::take(&mut *posted)
}
