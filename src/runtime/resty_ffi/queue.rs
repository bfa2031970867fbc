//! The task queue of a runtime: what lua-resty-ffi calls `tq`.
//!
//! The main thread pushes tasks; the plugin's threads *poll*: they take the
//! oldest, or sleep until there is one. Who is woken, and why no wake-up is
//! lost, is [`Idle`]'s business, as in a pool. There the threads are known and
//! numbered; here any thread may poll, so each is given a *parker*, by number,
//! when it first does, and gives it back when it ends. Threads that find all parkers
//! taken share the last one of each queue: one of them has it, the others wait for
//! that one to find a task.
//!
//! When the runtime is unloaded the queue is *finished*: the tasks that are in
//! it still go out, and then every poll ends without one. A queue is never freed,
//! but used again, by another runtime: see `leases`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;

use crate::error::Error;
use crate::pool::cores;
use crate::pool::idle::Idle;
use crate::pool::search::{Searcher, search};
use crate::pool::source::{TaskSink, TaskSource};
use crate::pool::spin::Window;
use crate::sync::{Semaphore, now_ns};
use crate::task::{Load, Running, Slot};

/// The parkers of a queue.
const PARKERS: usize = 256;
/// The one that threads share which have none of their own.
const SHARED_PARKER: usize = PARKERS - 1;

/// The queue of one runtime.
#[derive(Debug)]
pub struct TaskQueue {
    tasks: SegQueue<&'static Slot>,
    idle: Idle,
    /// Has a permit while nobody is on the shared parker.
    shared_parker: Semaphore,
    /// Tasks that wait, less threads that wait for one. Negative if there are
    /// more threads.
    waiting: CachePadded<AtomicI64>,
    /// Threads that poll.
    inside: CachePadded<AtomicU32>,
    /// How many runtimes have had it. A thread with another number gets nothing.
    generation: AtomicU32,
    max_queue: AtomicI64,
    finished: AtomicBool,
    /// Whether there is more than one processor: on one, nobody spins.
    spins: bool,
}

impl TaskQueue {
    /// An empty queue in which so many tasks may wait.
    pub fn new(max_queue: i64) -> Self {
        let shared_parker = Semaphore::new();
        shared_parker.post();
        Self {
            tasks: SegQueue::new(),
            idle: Idle::new(PARKERS),
            shared_parker,
            waiting: CachePadded::default(),
            inside: CachePadded::default(),
            generation: AtomicU32::new(0),
            max_queue: AtomicI64::new(max_queue),
            finished: AtomicBool::new(false),
            spins: cores() > 1,
        }
    }

    /// Which runtime has it, in the order in which they had it.
    pub fn generation(&self) -> u32 {
        // Relaxed: asked by the thread that has raised it, or behind it.
        self.generation.load(Ordering::Relaxed)
    }

    /// Its runtime is gone: no task is in it, and none will come.
    pub fn retire(&self) {
        self.finish();
        // SeqCst: partner of `poll`, see `leases`.
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether no thread is in it any more.
    pub fn is_left(&self) -> bool {
        // SeqCst: partner of `poll`, see `leases`. And Acquire: pairs with the
        // Release of the thread that leaves.
        self.inside.load(Ordering::SeqCst) == 0
    }

    /// Is another runtime's from now on. Nobody is in it, and nobody has its
    /// number yet.
    pub fn reopen(&self, max_queue: i64) {
        // Relaxed, all: its threads come after this.
        self.waiting.store(0, Ordering::Relaxed);
        self.max_queue.store(max_queue, Ordering::Relaxed);
        self.finished.store(false, Ordering::Relaxed);
    }

    /// Begins the oldest task, after waiting for one if need be; `None` if the
    /// queue is finished, or is another runtime's by now. From any thread.
    pub fn poll(&'static self, generation: u32) -> Option<Running> {
        // SeqCst, both: partners of `retire` and `is_left`, see `leases`.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let is_current = self.generation.load(Ordering::SeqCst) == generation;
        let task = if is_current { self.begin() } else { None };
        // Release: pairs with the Acquire in `is_left`.
        self.inside.fetch_sub(1, Ordering::Release);
        task
    }

    fn begin(&'static self) -> Option<Running> {
        self.count(-1);
        loop {
            let slot = match self.tasks.pop() {
                Some(slot) => slot,
                None => with_poller(|poller| self.wait(poller))?,
            };
            // SAFETY: this thread took the slot from the queue.
            let begun = unsafe { slot.begin(now_ns()) };
            if begun.is_some() {
                return begun;
            }
            // Nobody wants that one any more.
            self.count(-1);
        }
    }

    fn wait(&self, poller: &Poller) -> Option<&'static Slot> {
        if let Some(parker) = poller.parker {
            return self.search(parker, &poller.window);
        }
        self.shared_parker.wait();
        let found = self.search(SHARED_PARKER, &poller.window);
        self.shared_parker.post();
        found
    }

    fn search(&self, parker: usize, window: &Window) -> Option<&'static Slot> {
        let since = now_ns();
        let first = self.idle.start_searching();
        let found = search(self, &self.idle, parker, window, since, first);
        self.stop_searching();
        found
    }

    /// The calling thread does not look any more. Somebody else does if there
    /// is something to see.
    fn stop_searching(&self) {
        if self.idle.stop_searching() && (!self.is_empty() || self.is_over()) {
            self.idle.notify();
        }
    }

    fn count(&self, change: i64) {
        // Relaxed: a bound, not a hand-over.
        self.waiting.fetch_add(change, Ordering::Relaxed);
    }
}

impl TaskSource for TaskQueue {
    fn take(&self) -> Option<&'static Slot> {
        self.tasks.pop()
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

impl Searcher for TaskQueue {
    fn is_over(&self) -> bool {
        // Acquire: pairs with the Release in `finish`, so that what was pushed before
        // is seen.
        self.finished.load(Ordering::Acquire)
    }
}

impl Load for TaskQueue {
    /// Only tasks that wait are bounded, not those that run.
    fn task_ended(&self) {}
}

impl TaskSink for TaskQueue {
    fn reserve(&self) -> Result<(), Error> {
        // Relaxed, all: the main thread alone writes two, and adds to the third.
        if self.finished.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        if self.waiting.load(Ordering::Relaxed) >= self.max_queue.load(Ordering::Relaxed) {
            return Err(Error::QueueOverflow);
        }
        Ok(())
    }

    unsafe fn push(&self, slot: &'static Slot) {
        self.count(1);
        self.tasks.push(slot);
        self.idle.notify();
    }

    fn is_searching(&self) -> bool {
        self.spins && self.idle.searchers() > 0
    }

    fn finish(&self) {
        // Release: pairs with the Acquire in `is_over`. One thread is woken, which
        // wakes the next when it stops searching, and so on.
        self.finished.store(true, Ordering::Release);
        self.idle.notify();
    }
}

/// What a thread that polls keeps from one poll to the next.
struct Poller {
    /// Its number in `Idle`, if there was one left.
    parker: Option<usize>,
    window: Window,
}

thread_local! {
    static POLLER: Poller = Poller::new();
}

/// Runs `wait` with the calling thread's record.
fn with_poller<T>(wait: impl Fn(&Poller) -> T) -> T {
    // If the thread is ending, its record is gone, and its parker with it.
    POLLER
        .try_with(&wait)
        .unwrap_or_else(|_| wait(&Poller::without_parker()))
}

/// The parkers of the process, by number.
struct Parkers {
    free: Vec<usize>,
    /// So many have been given to threads, ever.
    given: usize,
}

fn parkers() -> MutexGuard<'static, Parkers> {
    // Each thread that polls comes here twice in its life.
    static PARKERS: Mutex<Parkers> = Mutex::new(Parkers {
        free: Vec::new(),
        given: 0,
    });
    PARKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Poller {
    fn new() -> Self {
        let mut parkers = parkers();
        let mut parker = parkers.free.pop();
        if parker.is_none() && parkers.given < SHARED_PARKER {
            parker = Some(parkers.given);
            parkers.given += 1;
        }
        Self {
            parker,
            window: Window::new(cores()),
        }
    }

    /// One without a parker.
    fn without_parker() -> Self {
        Self {
            parker: None,
            window: Window::new(1),
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if let Some(parker) = self.parker {
            parkers().free.push(parker);
        }
    }
}
