//! What the host knows of all tasks, and who is told that one is unwanted.
//!
//! Task functions do not say for which runtime they are called, so tasks of all
//! runtimes in the process are in one place, with numbers that are used once.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::null;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Callback, Options, Outcome, PATIENCE, Via, lock, measured};
use crate::glue::monotonic_ns;
use crate::sys::*;

/// What was submitted.
pub(super) struct Task {
    pub request: Vec<u8>,
    pub options: Options,
    pub deadline_ns: u64,
    pub buffer: Option<Vec<u8>>,
    pub status: Option<(i64, String)>,
    /// What the task of a blocking plugin ends with if it is left pending after
    /// `alloc` refused a buffer.
    pub refused: Option<Outcome>,
    pub outcome: Option<Outcome>,
    /// Completions that came too late.
    stale: usize,
    /// What `on_cancel` was given.
    watch: Option<Callback>,
    runtime: usize,
    /// Whether the test has dropped its [`TestTask`].
    forgotten: bool,
}

impl Task {
    /// Whether nobody waits for it.
    pub fn is_unwanted(&self) -> bool {
        self.options.cancelled || self.deadline_ns <= monotonic_ns()
    }
}

#[derive(Default)]
struct Tasks {
    last: u64,
    all: Option<HashMap<u64, Task>>,
    /// Tasks for which `on_cancel` was called.
    watched: Vec<u64>,
    /// The runtime whose function is being called, or 0.
    inside: usize,
}

static TASKS: Mutex<Tasks> = Mutex::new(Tasks {
    last: 0,
    all: None,
    watched: Vec::new(),
    inside: 0,
});
/// A task has ended, or a function of `on_cancel` has returned.
static ENDED: Condvar = Condvar::new();
/// A watched task was cancelled, or is new.
static UNWANTED: Condvar = Condvar::new();

impl Tasks {
    fn get(&mut self, task: u64) -> Option<&mut Task> {
        self.all.as_mut()?.get_mut(&task)
    }
}

/// Does something with a task that has not been forgotten.
fn with<R>(task: u64, work: impl FnOnce(&mut Task) -> R) -> Option<R> {
    lock(&TASKS).get(task).map(work)
}

/// Does something with a task that has not ended.
pub(super) fn pending<R>(task: u64, work: impl FnOnce(&mut Task) -> R) -> Option<R> {
    with(task, |task| task.outcome.is_none().then(|| work(task))).flatten()
}

/// Ends a task, or says why not.
pub(super) fn complete(task: u64, end: impl FnOnce(&mut Task) -> Result<Outcome, c_int>) -> c_int {
    let mut tasks = lock(&TASKS);
    let Some(found) = tasks.get(task) else {
        return NBFFI_STALE;
    };
    if found.outcome.is_some() {
        found.stale += 1;
        return NBFFI_STALE;
    }
    let (code, outcome) = match end(found) {
        Ok(outcome) => (NBFFI_OK, outcome),
        Err(NBFFI_TOO_LARGE) => (NBFFI_TOO_LARGE, Outcome::TooLarge),
        Err(code) => return code,
    };
    finish(tasks, task, outcome);
    code
}

fn finish(mut tasks: MutexGuard<'_, Tasks>, task: u64, outcome: Outcome) {
    let Some(found) = tasks.get(task) else {
        return;
    };
    found.outcome = Some(outcome);
    // Whoever reads it now does what it may not.
    let some = found.request.len().min(4096);
    found.request[..some].fill(0xDD);
    let then = found.options.then;
    if found.forgotten
        && let Some(all) = &mut tasks.all
    {
        all.remove(&task);
    }
    drop(tasks);
    ENDED.notify_all();
    if let Some(then) = then {
        then();
    }
}

/// Ends a task that its plugin has returned from, unless it is complete.
pub(super) fn settle(task: u64, code: c_int, blocking: bool) {
    let mut tasks = lock(&TASKS);
    let Some(found) = tasks.get(task).filter(|task| task.outcome.is_none()) else {
        return;
    };
    let outcome = if blocking && let Some(refused) = found.refused.take() {
        refused
    } else if code != 0 {
        let message = format!("code {code}");
        let code = code.into();
        Outcome::Failed { code, message }
    } else if blocking {
        let status = found.status.take();
        let (data, via) = (Vec::new(), Via::Nothing);
        Outcome::Response { data, status, via }
    } else {
        return;
    };
    finish(tasks, task, outcome);
}

/// Where a task's request is, until the task has ended.
pub(super) fn request_of(task: u64) -> (*const c_void, u64) {
    if measured::is(task) {
        return measured::request();
    }
    let place = with(task, |task| match task.request.len() {
        // NULL for an empty one: the plugin must not mind.
        0 => (null(), 0),
        len => (task.request.as_ptr().cast(), len as u64),
    });
    place.expect("a task that was made and not forgotten")
}

/// A task that was submitted, as its caller sees it.
#[derive(Debug)]
pub struct TestTask(u64);

impl TestTask {
    pub(super) fn new(request: Vec<u8>, options: Options, runtime: usize) -> Self {
        let after = |time: Duration| monotonic_ns() + time.as_nanos() as u64;
        let task = Task {
            request,
            deadline_ns: options.timeout.map_or(NBFFI_NO_DEADLINE, after),
            options,
            buffer: None,
            status: None,
            refused: None,
            outcome: None,
            stale: 0,
            watch: None,
            runtime,
            forgotten: false,
        };
        let mut tasks = lock(&TASKS);
        tasks.last += 1;
        let id = tasks.last;
        tasks.all.get_or_insert_default().insert(id, task);
        Self(id)
    }

    fn with<R>(&self, work: impl FnOnce(&mut Task) -> R) -> R {
        with(self.0, work).expect("a task is known until its TestTask is dropped")
    }

    /// The handle that the plugin has.
    pub fn id(&self) -> u64 {
        self.0
    }

    /// How it ended; `None` if it is pending.
    pub fn outcome(&self) -> Option<Outcome> {
        self.with(|task| task.outcome.clone())
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// If it does not end within a minute.
    #[track_caller]
    pub fn wait(&self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        let mut tasks = lock(&TASKS);
        loop {
            if let Some(outcome) = tasks.get(self.0).and_then(|task| task.outcome.clone()) {
                return outcome;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(tasks);
                panic!("task {} was not completed", self.0);
            }
            let woken = ENDED.wait_timeout(tasks, left);
            tasks = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its caller gives up.
    pub fn cancel(&self) {
        self.with(|task| task.options.cancelled = true);
        UNWANTED.notify_one();
    }

    /// How many completions came after the first, and were refused with
    /// `NBFFI_STALE`.
    pub fn stale(&self) -> usize {
        self.with(|task| task.stale)
    }
}

impl Drop for TestTask {
    fn drop(&mut self) {
        let mut tasks = lock(&TASKS);
        if let Some(all) = &mut tasks.all
            && let Some(task) = all.get_mut(&self.0)
        {
            task.forgotten = true;
            if task.outcome.is_some() {
                all.remove(&self.0);
            }
        }
    }
}

/// The host function `on_cancel`.
pub(super) fn watch(task: u64, callback: Callback) -> c_int {
    static TIMER: Once = Once::new();
    TIMER.call_once(|| drop(thread::spawn(tell)));
    if pending(task, |task| task.watch = Some(callback)).is_none() {
        return NBFFI_STALE;
    }
    lock(&TASKS).watched.push(task);
    UNWANTED.notify_one();
    NBFFI_OK
}

/// Tells plugins about tasks that are unwanted, on the timer's thread.
fn tell() {
    let mut tasks = lock(&TASKS);
    loop {
        let (mut due, mut next_ns) = (Vec::new(), NBFFI_NO_DEADLINE);
        let mut watched = std::mem::take(&mut tasks.watched);
        watched.retain(|&id| match tasks.get(id) {
            Some(task) if task.outcome.is_none() && task.is_unwanted() => {
                due.push(id);
                false
            }
            Some(task) if task.outcome.is_none() => {
                next_ns = next_ns.min(task.deadline_ns);
                true
            }
            _ => false,
        });
        tasks.watched = watched;
        if due.is_empty() {
            let left = next_ns.saturating_sub(monotonic_ns());
            let woken = UNWANTED.wait_timeout(tasks, Duration::from_nanos(left).min(PATIENCE));
            tasks = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        for id in due {
            let task = tasks.get(id).filter(|task| task.outcome.is_none());
            let Some((callback, runtime)) = task.and_then(|t| Some((t.watch.take()?, t.runtime)))
            else {
                continue;
            };
            tasks.inside = runtime;
            drop(tasks);
            callback.call(id);
            tasks = lock(&TASKS);
            tasks.inside = 0;
            ENDED.notify_all();
        }
    }
}

/// Waits until no function of a runtime is being called, and has none called later.
pub(super) fn leave(runtime: usize) {
    let mut tasks = lock(&TASKS);
    for task in tasks.all.iter_mut().flat_map(HashMap::values_mut) {
        if task.runtime == runtime {
            task.watch = None;
        }
    }
    while tasks.inside == runtime {
        tasks = ENDED.wait(tasks).unwrap_or_else(PoisonError::into_inner);
    }
}
