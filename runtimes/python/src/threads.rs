//! Threads that run Python.
//!
//! Each has a record: its thread state of Python's, made once, and what runs on
//! it, for the keeper to look at. A pool thread's record lives as long as the
//! process, a loop's as long as the loop.
//!
//! A record's `task` is written only by its own thread and only while that
//! thread has the GIL. So whoever has the GIL and reads a task there knows that
//! its function has begun and not returned: it is what stopping a task rests on
//! (see [`crate::keeper`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::api::{Api, PyThreadState};
use crate::keeper;
use crate::object::Gil;

/// What is known of a thread.
#[derive(Debug)]
pub struct Record {
    api: &'static Api,
    state: *mut PyThreadState,
    /// Python's name for it.
    pub ident: u64,
    /// What it runs, or 0: a task by the host's number; of a loop, the number
    /// of its turn. Written by the thread itself, with the GIL.
    task: AtomicU64,
    /// The runtime that it is in, or 0. As `task`.
    runtime: AtomicU64,
    /// Whether it is the thread of a loop.
    is_loop: bool,
    /// How many turns the loop has made.
    turns: AtomicU64,
    /// An exception was sent that may not have been met yet. Only with the GIL.
    pub stopped: AtomicBool,
    /// How many `with shield()` it is in. Only with the GIL.
    pub shields: AtomicU32,
}

// SAFETY: `state` is used by the thread that it belongs to only.
unsafe impl Send for Record {}
// SAFETY: as above; all else are atomics.
unsafe impl Sync for Record {}

static RECORDS: Mutex<Vec<&'static Record>> = Mutex::new(Vec::new());

thread_local! {
    static HERE: Cell<Option<&'static Record>> = const { Cell::new(None) };
}

/// The calling thread's record, if it has one.
pub fn here() -> Option<&'static Record> {
    HERE.get()
}

/// Does something with the list of all records. Whoever needs the GIL in there
/// has it before: threads come and go with the GIL.
pub fn with_records<T>(work: impl FnOnce(&mut Vec<&'static Record>) -> T) -> T {
    work(&mut RECORDS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The GIL, for as long as this lives.
#[derive(Debug)]
pub struct Attached {
    /// The calling thread's.
    pub record: &'static Record,
    gil: Gil,
}

impl Attached {
    /// What shows that the GIL is there.
    pub fn gil(&self) -> Gil {
        self.gil
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: this thread has the GIL.
        unsafe { (self.record.api.PyEval_SaveThread)() };
    }
}

/// Takes the GIL; waits for it if another thread has it. Not to be called by a
/// thread that has it.
pub fn attach(api: &'static Api) -> Attached {
    let record = match HERE.get() {
        Some(record) => {
            // SAFETY: the thread's own state, which nobody else uses; it has
            // not the GIL.
            unsafe { (api.PyEval_RestoreThread)(record.state) };
            record
        }
        None => {
            // Never released: that keeps the state for ever. C extensions that
            // ask for this thread's state find this one.
            // SAFETY: Python is initialised.
            unsafe { (api.PyGILState_Ensure)() };
            // SAFETY: the GIL is there.
            unsafe { register(api, false) }
        }
    };
    // SAFETY: taken above, and let go by the destructor.
    let gil = unsafe { Gil::assume(api) };
    Attached { record, gil }
}

/// Makes the record of the calling thread.
///
/// # Safety
///
/// The thread has the GIL, and no record. A loop's calls [`forget`] before it
/// ends; others never end.
unsafe fn register(api: &'static Api, is_loop: bool) -> &'static Record {
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
        task: AtomicU64::new(0),
        runtime: AtomicU64::new(0),
        is_loop,
        turns: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        shields: AtomicU32::new(0),
    }));
    HERE.set(Some(record));
    with_records(|records| records.push(record));
    record
}

/// The calling thread is that of a runtime's loop from now on.
///
/// # Safety
///
/// The thread has the GIL and no record, and calls [`forget`] before it ends.
pub unsafe fn serve(api: &'static Api, runtime: u64) {
    // SAFETY: by the contract.
    let record = unsafe { register(api, true) };
    record.runtime.store(runtime, Ordering::Relaxed);
}

/// Forgets the calling thread, if it is that of a loop.
pub fn forget() {
    let Some(record) = HERE.get().filter(|record| record.is_loop) else {
        return;
    };
    HERE.set(None);
    with_records(|records| records.retain(|other| !std::ptr::eq(*other, record)));
    // SAFETY: made by `register` from a box. Nobody has it any more: the keeper
    // finds records in the list only, and keeps none when it has left it.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(record).cast_mut()) });
}

impl Record {
    /// Enters a runtime; the keeper wakes if it sleeps.
    pub fn enter(&self, runtime: u64, task: u64) {
        // Relaxed: read by this thread, and with the GIL.
        self.runtime.store(runtime, Ordering::Relaxed);
        // SeqCst: before the look at the keeper; partner of the SeqCst in
        // `keeper::Pulse::rest`, which looks at the tasks after it has said
        // that it sleeps. One of the two sees the other.
        self.task.store(task, Ordering::SeqCst);
        keeper::PULSE.start();
    }

    /// Goes on with another task of the same runtime.
    pub fn switch(&self, task: u64) {
        // Relaxed: the GIL orders it for those who act on it; for the others
        // it is a hint.
        self.task.store(task, Ordering::Relaxed);
    }

    /// Leaves the runtime.
    pub fn leave(&self) {
        self.switch(0);
        // Relaxed: as in `enter`, and with the GIL.
        self.runtime.store(0, Ordering::Relaxed);
        self.shields.store(0, Ordering::Relaxed);
    }

    /// Runs something as `runtime`, without a task: its module is imported, or
    /// it is closed.
    pub fn visit<T>(&self, runtime: u64, work: impl FnOnce() -> T) -> T {
        self.runtime.store(runtime, Ordering::Relaxed);
        let result = work();
        self.runtime.store(0, Ordering::Relaxed);
        result
    }

    /// A loop begins a turn, or goes to wait.
    pub fn turn(&self, at_work: bool) {
        if !at_work {
            return self.switch(0);
        }
        // Relaxed: only this thread writes it.
        let turn = self.turns.load(Ordering::Relaxed) + 1;
        self.turns.store(turn, Ordering::Relaxed);
        // SeqCst: as in `enter`.
        self.task.store(turn, Ordering::SeqCst);
        keeper::PULSE.start();
    }

    /// Takes back an exception that was sent to this thread and was not met.
    pub fn take_back(&self, gil: Gil) {
        // Relaxed: with the GIL only, which orders it.
        if self.stopped.load(Ordering::Relaxed) {
            self.stopped.store(false, Ordering::Relaxed);
            gil.take_back(self.ident);
        }
    }

    /// Whether this is the thread of a loop, and its "task" is a turn.
    pub fn is_loop(&self) -> bool {
        self.is_loop
    }

    /// What runs here: a task, a turn, or 0. Exact with the GIL, a hint without.
    pub fn task(&self) -> u64 {
        // SeqCst: partner of the stores in `enter` and `turn`; for others than
        // the keeper that goes to sleep, Relaxed would do.
        self.task.load(Ordering::SeqCst)
    }

    /// The runtime that the thread is in, or 0.
    pub fn runtime(&self) -> u64 {
        self.runtime.load(Ordering::Relaxed)
    }
}
