//! The keeper: a thread that stops tasks which run past their deadline, or
//! whose caller has cancelled them.
//!
//! It sleeps while nothing runs. While something does it looks every
//! [`TICK`], at the records of [`crate::threads`] only, without the GIL and
//! without a lock that a task could hold. What it sees twice has run for at
//! least a tick; only then does it ask the host about the task.
//!
//! # Stopping
//!
//! `PyThreadState_SetAsyncExc` has a thread raise an exception as soon as it
//! next runs Python code. The exception must hit the task that is too late and
//! no other. So the keeper takes the GIL first, and looks again: a record's
//! task changes only with the GIL, so the task is still in its function, and
//! will be until the keeper lets the GIL go. When the function returns without
//! having met the exception, its thread takes it back before anything else.
//!
//! The exception is no `Exception`, so that `except Exception` does not catch
//! it. What catches it nevertheless is stopped again, every [`AGAIN`].
//!
//! A thread that waits in C (`time.sleep`, a query) raises the exception when
//! it comes back; nothing can be done about it before.
//!
//! # The loop of asyncio
//!
//! is told by its own timer which tasks to cancel. That does not help if one of
//! them does not give the loop back. A turn of the loop that lasts for
//! [`TURN_TICKS`] is such a case; then Python is asked which task it is in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nonblocking_ffi_runtimes_common::task;

use crate::interpreter::Interpreter;
use crate::object::Gil;
use crate::threads::{self, Record};

/// How often it looks while something runs.
const TICK: Duration = Duration::from_millis(5);
/// After so many looks at nothing it goes to sleep: to wake it costs more than
/// many looks.
const IDLE_TICKS: u32 = 200;
/// After so many looks at the same turn a loop does not turn.
const TURN_TICKS: u32 = 4;
/// How long a task that was stopped has until it is stopped again.
const AGAIN: Duration = Duration::from_millis(50);

/// Whether the keeper is awake.
#[derive(Debug)]
pub struct Pulse {
    ticking: AtomicBool,
    wanted: Mutex<bool>,
    changed: Condvar,
}

/// The keeper's.
pub static PULSE: Pulse = Pulse {
    ticking: AtomicBool::new(false),
    wanted: Mutex::new(false),
    changed: Condvar::new(),
};

impl Pulse {
    /// Something runs: wakes the keeper unless it is awake. Cheap if it is.
    pub fn start(&self) {
        // SeqCst: partner of the store in `rest`; see `Record::enter`.
        if !self.ticking.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Wakes the keeper, whatever runs.
    fn wake(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Sleeps until something runs.
    fn rest(&self) {
        // SeqCst: before the look at the tasks; partner of the store of a task
        // in `Record::enter`, which comes before the look at `ticking`. If the
        // thread saw `true` there, its task is seen here.
        self.ticking.store(false, Ordering::SeqCst);
        let busy = threads::with_records(|records| records.iter().any(|r| r.task() != 0));
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy && !*wanted {
            let woken = self.changed.wait(wanted);
            wanted = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *wanted = false;
        // SeqCst: as above; who sees `true` too early is seen at the next look.
        self.ticking.store(true, Ordering::SeqCst);
    }
}

/// What was seen of a record at the last look.
#[derive(Debug)]
struct Sighting {
    record: *const Record,
    is_loop: bool,
    task: u64,
    ticks: u32,
    stopped: Option<Instant>,
}

/// Who waits for the end of Python, as the process ends.
static END: Mutex<Option<SyncSender<()>>> = Mutex::new(None);

/// Has the keeper, which is Python's main thread, do what is to be done when the
/// process ends. True if that took no longer than `limit`. To be called once.
pub fn end(limit: Duration) -> bool {
    let (done, is_done) = mpsc::sync_channel(1);
    *END.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
    PULSE.wake();
    is_done.recv_timeout(limit).is_ok()
}

fn end_if_asked(interpreter: &'static Interpreter) {
    let asked = END.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(done) = asked {
        interpreter.end(threads::attach(interpreter.api()).gil());
        // Nobody waits any more if it took too long.
        let _ = done.send(());
    }
}

/// The life of the keeper.
pub fn live(interpreter: &'static Interpreter) -> ! {
    let mut sightings: Vec<Sighting> = Vec::new();
    let mut idle = 0;
    loop {
        PULSE.rest();
        while idle < IDLE_TICKS {
            end_if_asked(interpreter);
            std::thread::sleep(TICK);
            idle = if look(&mut sightings) { 0 } else { idle + 1 };
            if sightings.iter().any(Sighting::is_suspect) {
                let attached = threads::attach(interpreter.api());
                for sighting in sightings.iter_mut().filter(|s| s.is_suspect()) {
                    sighting.stop(attached.gil(), interpreter);
                }
            }
        }
        idle = 0;
    }
}

/// Notes what all threads run. True if that has changed.
fn look(sightings: &mut Vec<Sighting>) -> bool {
    threads::with_records(|records| {
        let mut changed = false;
        sightings.retain(|s| records.iter().any(|&r| std::ptr::eq(r, s.record)));
        for &record in records.iter() {
            let task = record.task();
            let known = sightings
                .iter_mut()
                .find(|s| std::ptr::eq(s.record, record));
            match known {
                Some(sighting) if sighting.task == task => sighting.ticks += 1,
                Some(sighting) => {
                    *sighting = Sighting::new(record, task);
                    changed = true;
                }
                None => {
                    sightings.push(Sighting::new(record, task));
                    changed = true;
                }
            }
        }
        changed || sightings.iter().any(|s| s.task != 0)
    })
}

impl Sighting {
    fn new(record: &Record, task: u64) -> Self {
        Self {
            record,
            is_loop: record.is_loop(),
            task,
            ticks: 0,
            stopped: None,
        }
    }

    /// Whether it has run for long, and it is time to do something about it.
    fn is_suspect(&self) -> bool {
        if self.task == 0 || self.stopped.is_some_and(|when| when.elapsed() < AGAIN) {
            return false;
        }
        match self.is_loop {
            // The GIL is needed to know which task a loop is in.
            true => self.ticks >= TURN_TICKS,
            false => self.ticks >= 1 && task::is_unwanted(self.task),
        }
    }

    fn stop(&mut self, gil: Gil, interpreter: &Interpreter) {
        if self.is_loop {
            // The next question about this turn is one for later.
            self.ticks = 0;
            let mut of = 0;
            self.with_record(|record| of = record.runtime());
            let task = interpreter.task_of_loop(gil, of);
            if !task.is_some_and(task::is_unwanted) {
                return;
            }
        }
        // Python code may have run in between, and others have had the GIL.
        let mut sent = false;
        self.with_record(|record| {
            // Relaxed: written with the GIL only, which this thread has.
            record.stopped.store(true, Ordering::Relaxed);
            gil.stop(record.ident, interpreter.stopped());
            sent = true;
        });
        if sent {
            self.stopped = Some(Instant::now());
        }
    }

    /// Does something with the record if it is still there, runs the same, and
    /// may be stopped. With the GIL, so that this stays so.
    fn with_record(&self, work: impl FnOnce(&Record)) {
        threads::with_records(|records| {
            let found = records.iter().find(|&&r| std::ptr::eq(r, self.record));
            // Relaxed: as in `stop`.
            let found =
                found.filter(|r| r.task() == self.task && r.shields.load(Ordering::Relaxed) == 0);
            if let Some(record) = found {
                work(record);
            }
        });
    }
}
