//! Threads that run Python.
//!
//! Each has a record: its thread state of Python's, made once, and what runs on
//! it. A pool thread's record lives as long as the process, a loop's as long as
//! the loop.
//!
//! A record's `task` is written only by its own thread and only while that
//! thread has the GIL. So whoever has the GIL and reads a task there knows that
//! its function has begun and not returned: stopping a task rests on that (see
//! `interrupter`).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nonblocking_ffi_plugin::sys::nbffi_task;

use crate::api::{Api, PyThreadState};
use crate::object::{Bound, Gil};

/// What is known of a thread.
#[derive(Debug)]
pub struct Record {
    api: &'static Api,
    state: *mut PyThreadState,
    /// Python's name for it.
    ident: u64,
    /// Whether it is the thread of a loop.
    is_loop: bool,
    /// The runtime that it is in, or 0.
    runtime: AtomicU64,
    /// The task that a pool thread runs, or 0.
    task: AtomicU64,
    /// How many turns a loop has made.
    turns: AtomicU64,
    /// An exception was sent that may not have been met yet.
    stopped: AtomicBool,
    /// How many `with shield()` it is in.
    shields: AtomicU32,
}

// All orderings of a record are Relaxed: the GIL orders what is written with it
// for those who read with it, and for others it is a hint.

// SAFETY: `state` is used by the thread that it belongs to only.
unsafe impl Send for Record {}
// SAFETY: as above; all else are atomics, or never written.
unsafe impl Sync for Record {}

static RECORDS: Mutex<Vec<&'static Record>> = Mutex::new(Vec::new());

fn records() -> MutexGuard<'static, Vec<&'static Record>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static HERE: Cell<Option<&'static Record>> = const { Cell::new(None) };
}

/// The calling thread's record, if it has one.
pub fn here() -> Option<&'static Record> {
    HERE.get()
}

/// Does something with the first record that is right. Whoever needs the GIL in
/// there has it before: threads come and go with the GIL.
pub fn find(is_right: impl Fn(&Record) -> bool, work: impl FnOnce(&Record)) {
    let records = records();
    if let Some(record) = records.iter().find(|record| is_right(record)) {
        work(record);
    }
}

/// The GIL, for as long as this lives.
#[derive(Debug)]
pub struct Attached {
    /// The calling thread's.
    pub record: &'static Record,
}

impl Attached {
    /// What proves that the GIL is there.
    pub fn gil(&self) -> Gil<'_> {
        // SAFETY: taken by `attach`, and let go by the destructor.
        unsafe { Gil::assume(self.record.api) }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: this thread has the GIL.
        unsafe { (self.record.api.PyEval_SaveThread)() };
    }
}

/// Takes the GIL; waits for it if another thread has it.
///
/// # Safety
///
/// The calling thread does not have it. Python is initialised.
pub unsafe fn attach(api: &'static Api) -> Attached {
    let record = match HERE.get() {
        Some(record) => {
            // SAFETY: the thread's own state, which nobody else uses; by the
            // contract it does not have the GIL.
            unsafe { (api.PyEval_RestoreThread)(record.state) };
            record
        }
        None => {
            // Never released: that keeps the state for ever. C extensions that
            // ask for this thread's state find this one.
            // SAFETY: by the contract.
            unsafe { (api.PyGILState_Ensure)() };
            // SAFETY: the GIL is there; this thread has no record.
            unsafe { register(api, false, 0) }
        }
    };
    Attached { record }
}

/// Makes the record of the calling thread.
///
/// # Safety
///
/// The thread has the GIL, and no record. A loop's calls [`forget`] before it
/// ends; others never end.
unsafe fn register(api: &'static Api, is_loop: bool, runtime: u64) -> &'static Record {
    // SAFETY: the GIL is there; letting it go tells the thread's state.
    let (state, ident) = unsafe {
        let state = (api.PyEval_SaveThread)();
        (api.PyEval_RestoreThread)(state);
        (state, (api.PyThread_get_thread_ident)())
    };
    let record: &'static Record = Box::leak(Box::new(Record {
        api,
        state,
        ident,
        is_loop,
        runtime: AtomicU64::new(runtime),
        task: AtomicU64::new(0),
        turns: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        shields: AtomicU32::new(0),
    }));
    HERE.set(Some(record));
    records().push(record);
    record
}

/// The calling thread is that of a runtime's loop from now on.
///
/// # Safety
///
/// The thread calls [`forget`] before it ends.
pub unsafe fn serve(gil: Gil<'_>, runtime: u64) {
    if here().is_none() {
        // SAFETY: it has the GIL, and no record; the rest is the contract.
        unsafe { register(gil.api(), true, runtime) };
    }
}

/// Forgets the calling thread, if it is that of a loop.
pub fn forget() {
    let Some(record) = HERE.get().filter(|record| record.is_loop) else {
        return;
    };
    HERE.set(None);
    records().retain(|other| !std::ptr::eq(*other, record));
    // SAFETY: made by `register` from a box. Nobody has it any more: others find
    // records in the list only, and keep none when they let the list go.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(record).cast_mut()) });
}

impl Record {
    /// Enters a runtime, to open or close it, or to run its tasks.
    pub fn enter(&self, runtime: u64) {
        self.runtime.store(runtime, Ordering::Relaxed);
    }

    /// Leaves the runtime.
    pub fn leave(&self) {
        self.runtime.store(0, Ordering::Relaxed);
        self.shields.store(0, Ordering::Relaxed);
    }

    /// A task begins, or, with 0, has ended.
    pub fn set_task(&self, task: nbffi_task) {
        self.task.store(task, Ordering::Relaxed);
    }

    /// A loop has made a turn, and goes to wait.
    pub fn turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// How many turns a loop has made.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Begins or ends a `with shield()`. True if that was the last one.
    pub fn shield(&self, begins: bool) -> bool {
        // Saturating: `with` has them in pairs, but a generator may be closed
        // on another thread.
        let shields = self.shields.load(Ordering::Relaxed);
        let shields = match begins {
            true => shields.saturating_add(1),
            false => shields.saturating_sub(1),
        };
        self.shields.store(shields, Ordering::Relaxed);
        shields == 0
    }

    /// Has the thread raise an exception. False if it is shielded from that.
    pub fn stop(&self, class: &Bound<'_>, gil: Gil<'_>) -> bool {
        let may = self.shields.load(Ordering::Relaxed) == 0;
        if may {
            self.stopped.store(true, Ordering::Relaxed);
            gil.stop(self.ident, class);
        }
        may
    }

    /// Whether it was sent an exception that was not taken back.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Takes back an exception that was sent to this thread and was not met.
    pub fn take_back(&self, gil: Gil<'_>) {
        if self.stopped.load(Ordering::Relaxed) {
            self.stopped.store(false, Ordering::Relaxed);
            gil.take_back(self.ident);
        }
    }

    /// Whether this is the thread of a loop.
    pub fn is_loop(&self) -> bool {
        self.is_loop
    }

    /// The task that a pool thread runs, or 0.
    pub fn task(&self) -> nbffi_task {
        self.task.load(Ordering::Relaxed)
    }

    /// The runtime that the thread is in, or 0.
    pub fn runtime(&self) -> u64 {
        self.runtime.load(Ordering::Relaxed)
    }
}
