//! Pools: named sets of threads with a bounded queue.
//!
//! | file       | role |
//! |------------|------|
//! | [`queues`] | where tasks wait, by priority, and which one is next |
//! | [`registry`] | the pools of the process, by name |
//! | [`idle`]   | who searches and who sleeps; no wake-up is lost or wasted |
//! | [`thread`] | the life of a pool thread |
//! | [`source`] | tasks that come from elsewhere, or go there |
//! | [`search`] | how a thread looks for a task: it spins, then it parks |
//! | [`spin`]   | how long an idle thread spins before it parks |
//! | [`spawn`]  | starting one: signals, name, niceness |
//!
//! The main thread posts; threads find, run, and when they find nothing spin
//! for a few microseconds and then sleep. A pool starts its threads with its
//! first task, since threads do not survive a `fork`.
//!
//! The system may refuse threads. A pool works with those it has, if it has
//! any: they are the first ones, by number. While some are missing, a post now
//! and then tries to start them, and so does each load.

pub mod idle;
pub mod queues;
mod registry;
pub mod search;
pub mod source;
mod spawn;
pub mod spin;
mod thread;

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

use crate::error::Error;
use crate::log::{LogSink, NOTICE, WARN};
use crate::stats::Counter;
use crate::sync::now_ns;
use crate::task::{Load, Priority, Slot, Task};
use idle::Idle;
use queues::Queues;
use source::{SharedSource, Sources, TaskSink};

pub use registry::{find, obtain};
pub use spawn::{cores, spawn_helper, thread_name};
pub use thread::{ThreadId, keep_inbox, last_begun, pull, running, thread_id};

/// What every thread of a pool does once when it is asked to.
pub type Broadcast = fn(thread: ThreadId);

/// What a thread of a pool does when it has nothing else to do.
#[derive(Debug, Clone, Copy)]
pub struct Chores {
    /// Whether there is something to do. Quick.
    pub is_due: fn() -> bool,
    /// Does some of it, for as long as a task may wait: some 50 microseconds.
    pub some: fn(thread: ThreadId),
}

/// Another thread is woken for short tasks if they add up to this.
const HELP_NS: u64 = 50_000;
/// Posts try to start missing threads this often.
const RETRY_NS: u64 = 1_000_000_000;

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The pool's name.
    pub name: String,
    /// How many threads it has, at least 1.
    pub threads: usize,
    /// How many tasks may wait while all threads are busy.
    pub max_queue: u64,
    /// By how much the threads are nicer than the worker.
    pub nice: i32,
}

/// What one thread tells of itself; only that thread writes.
#[derive(Debug, Default)]
struct ThreadState {
    /// Tasks it took from the queues.
    started: Counter,
    /// How often it was woken.
    wakeups: Counter,
    /// The runtime that it is running, or null.
    runtime: AtomicPtr<()>,
}

/// What a pool's threads and the main thread share.
#[derive(Debug)]
pub struct Shared {
    config: Config,
    queues: Queues,
    /// Where its threads look after the queues.
    sources: Sources,
    idle: Idle,
    threads: Box<[CachePadded<ThreadState>]>,
    /// How many threads were started: those of the lowest numbers.
    started: AtomicUsize,
    /// Tasks that were posted.
    posted: CachePadded<AtomicU64>,
    /// Tasks that ended, whoever ended them.
    ended: CachePadded<AtomicU64>,
    /// Tasks among the posted that never were in a queue.
    nested: AtomicU64,
    /// Threads that run a task that is not one of many short ones: they may
    /// not come back soon. Those that were not started count as such.
    engaged: CachePadded<AtomicU32>,
    /// Processors of this process. On one, nobody spins.
    cores: usize,
    /// What threads do when `interrupts` has changed.
    broadcast: OnceLock<Broadcast>,
    /// How often threads have been interrupted, to run `broadcast` if there is one.
    interrupts: AtomicU32,
    /// What threads do before they sleep.
    chores: OnceLock<Chores>,
}

impl Shared {
    /// Whether there is nothing that any thread may take.
    fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.sources.is_empty()
    }

    /// Tasks that no thread has taken to run.
    fn queued(&self) -> u64 {
        let started: u64 = self.threads.iter().map(|t| t.started.get()).sum();
        let begun = started + self.nested.load(Ordering::Relaxed);
        self.posted.load(Ordering::Relaxed).saturating_sub(begun)
    }

    /// Sees to it that somebody comes for what waits in the queues, of which
    /// `task` is one. For one of many short tasks a thread that is awake and
    /// not busy with something else is enough, unless they pile up and there
    /// is a processor for one more.
    #[inline]
    fn call_for_help(&self, task: &Task) {
        if task.bulk {
            let engaged = self.engaged.load(Ordering::Relaxed) as usize;
            let free = self.idle.awake().saturating_sub(engaged);
            // SAFETY: the runtime outlives its tasks, and this one has not
            // ended.
            let typical_ns = unsafe { task.runtime.as_ref() }.stats().recent_mean_ns();
            // The main thread needs a processor, too.
            let spare = free + 1 < self.cores;
            if free > 0 && !(spare && self.queued() * typical_ns > HELP_NS) {
                return;
            }
        }
        self.idle.notify();
    }
}

impl Load for Shared {
    fn task_ended(&self) {
        // Relaxed: a bound, not a hand-over.
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A pool. Lives as long as the process: its threads do.
pub struct Pool {
    shared: &'static Shared,
    /// `posted` may grow up to here before `ended` must be looked at again. 0
    /// while threads are missing, so that every post looks. With an `overflow`,
    /// every post looks whose task would wait.
    room_until: AtomicU64,
    overflow: OnceLock<&'static dyn TaskSink>,
    start: Mutex<Start>,
    log: OnceLock<&'static dyn LogSink>,
}

/// What is known of missing threads.
#[derive(Debug, Default)]
struct Start {
    /// When the last attempt to start them was.
    tried_ns: u64,
    /// Whether the log says that some are missing.
    is_reported: bool,
}

/// What a pool says of itself.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct PoolStats {
    /// The threads that were started.
    pub threads: f64,
    /// Its bound.
    pub max_queue: f64,
    /// Tasks posted and not ended.
    pub in_flight: f64,
    /// Tasks that have not started.
    pub queued: f64,
    /// Tasks that have started and not ended.
    pub running: f64,
    /// How often a thread was woken from its sleep.
    pub wakeups: f64,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Pool").field(self.config()).finish()
    }
}

impl Pool {
    /// A pool without threads yet. Never freed.
    pub fn new(config: Config) -> &'static Pool {
        let counters = || CachePadded::new(ThreadState::default());
        let shared = Shared {
            queues: Queues::new(config.threads),
            sources: Sources::default(),
            idle: Idle::new(config.threads),
            threads: (0..config.threads).map(|_| counters()).collect(),
            started: AtomicUsize::new(0),
            posted: CachePadded::default(),
            ended: CachePadded::default(),
            nested: AtomicU64::new(0),
            engaged: CachePadded::new(AtomicU32::new(config.threads as u32)),
            cores: cores(),
            broadcast: OnceLock::new(),
            interrupts: AtomicU32::new(0),
            chores: OnceLock::new(),
            config,
        };
        Box::leak(Box::new(Pool {
            shared: Box::leak(Box::new(shared)),
            room_until: AtomicU64::new(0),
            overflow: OnceLock::new(),
            start: Mutex::default(),
            log: OnceLock::new(),
        }))
    }

    /// How the pool was made.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What tasks of this pool report their end to.
    pub fn load(&self) -> &'static dyn Load {
        self.shared
    }

    /// Starts the threads that have not been started, as many as the system
    /// allows; what is missing is logged. The error says why the pool has no thread
    /// at all. In the worker, never before `fork`, and on the main thread.
    pub fn start(&self) -> Result<(), String> {
        let shared = self.shared;
        let wanted = self.config().threads;
        // Relaxed: only the main thread starts threads.
        let before = shared.started.load(Ordering::Relaxed);
        if before == wanted {
            return Ok(());
        }
        let mut start = self.start.lock().unwrap_or_else(PoisonError::into_inner);
        start.tried_ns = now_ns();
        let mut started = before;
        let mut refused = None;
        while started < wanted && refused.is_none() {
            match thread::start(shared, started) {
                Ok(()) => {
                    started += 1;
                    // Relaxed, both: a thread is sure to come and look.
                    shared.started.store(started, Ordering::Relaxed);
                    shared.engaged.fetch_sub(1, Ordering::Relaxed);
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if started == 0 => return Err(error),
            Some(error) if !start.is_reported => {
                let text = format!("has {started} of {wanted} threads: {error}");
                self.log(WARN, &text);
                start.is_reported = true;
            }
            None if start.is_reported => {
                let text = format!("has all of its {wanted} threads now");
                self.log(NOTICE, &text);
                start.is_reported = false;
            }
            _ => {}
        }
        // Posts look again how many tasks have room, and for missing threads.
        self.room_until.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Says where to log what becomes of its threads.
    pub fn log_to(&self, log: &'static dyn LogSink) {
        // Pools are shared by the clients of a process: the first one's it is.
        let _ = self.log.set(log);
    }

    fn log(&self, level: u8, text: &str) {
        if let Some(log) = self.log.get() {
            log.log(level, &self.config().name, text.as_bytes());
        }
    }

    /// How many threads there are.
    fn started(&self) -> usize {
        // Relaxed: a number; a thread takes what was posted before it came.
        self.shared.started.load(Ordering::Relaxed)
    }

    /// Has its threads look for tasks there, too, when they find none in the pool's own
    /// queues. After each push, the source calls [`Pool::notify`].
    pub fn add_source(&self, source: SharedSource) {
        self.shared.sources.add(source);
        // It may have tasks already.
        self.notify();
    }

    /// Offers each task that would wait, or finds the queue full, to `sink`. A task that
    /// it declines stays here. A pool has only one such sink. On the main thread.
    pub fn overflow_to(&self, sink: &'static dyn TaskSink) {
        let _ = self.overflow.set(sink);
        // Relaxed: only the main thread posts.
        self.room_until.store(0, Ordering::Relaxed);
    }

    /// Reserves room for one task: one may run per thread, and `max_queue` may
    /// wait. Each reserved task must be pushed, to the sink that is returned if there
    /// is one.
    #[inline]
    pub fn reserve(&self) -> Result<Option<&'static dyn TaskSink>, Error> {
        // Relaxed throughout: counts, which order nothing.
        let posted = self.shared.posted.load(Ordering::Relaxed);
        if posted >= self.room_until.load(Ordering::Relaxed)
            && let Some(sink) = self.look_for_room(posted)?
        {
            return Ok(Some(sink));
        }
        self.shared.posted.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// The rest of `reserve`, now and then: whether there is room, and where.
    #[cold]
    fn look_for_room(&self, posted: u64) -> Result<Option<&'static dyn TaskSink>, Error> {
        // Relaxed, all: as in `reserve`.
        let config = self.config();
        if self.started() < config.threads {
            let tried_ns = self
                .start
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .tried_ns;
            if now_ns().saturating_sub(tried_ns) >= RETRY_NS {
                // It has a thread, or a task could not be posted.
                let _ = self.start();
            }
        }
        let threads = self.started();
        let waits_from = self.shared.ended.load(Ordering::Relaxed) + threads as u64;
        let until = waits_from + config.max_queue;
        let overflow = self.overflow.get();
        let look_again_at = match overflow {
            _ if threads < config.threads => 0,
            Some(_) => waits_from,
            None => until,
        };
        self.room_until.store(look_again_at, Ordering::Relaxed);
        let taken = overflow.filter(|sink| posted >= waits_from && sink.reserve().is_ok());
        if taken.is_none() && posted >= until {
            return Err(Error::QueueOverflow);
        }
        Ok(taken.copied())
    }

    /// Counts a task that is not bounded by the queue.
    pub fn reserve_always(&self) {
        self.shared.posted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a task that the calling thread, which may be another pool's, runs
    /// at once: it is not queued.
    pub fn reserve_nested(&self) {
        // Relaxed: statistics.
        self.shared.nested.fetch_add(1, Ordering::Relaxed);
        self.shared.posted.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts an offered task into its queue, without waking anybody.
    ///
    /// # Safety
    /// The slot was offered, and is in no other queue.
    #[inline]
    pub unsafe fn push(&self, slot: &'static Slot, priority: Priority) {
        self.shared.queues.push(slot, priority);
    }

    /// Puts an offered task into the inbox of the thread that a key belongs to,
    /// and sees to it that this thread, or another if it is engaged, will find it.
    ///
    /// # Safety
    /// As for [`Pool::push`].
    pub unsafe fn push_to(&self, slot: &'static Slot, key: u32) {
        let shared = self.shared;
        // A thread that was not started would never look.
        let thread = key as usize % self.started().max(1);
        shared.queues.push_to(slot, thread);
        shared.idle.wake(thread);
        if shared.queues.is_engaged(thread) {
            shared.idle.notify();
        }
    }

    /// What every thread does, from now on, when it finds no task, before it
    /// sleeps. There is one such thing per pool: later calls say the same.
    pub fn when_idle(&self, chores: Chores) {
        let _ = self.shared.chores.set(chores);
    }

    /// Has every thread call `broadcast` once, soon: when it is between tasks.
    /// A pool has only one such function.
    pub fn broadcast(&self, broadcast: Broadcast) {
        let _ = self.shared.broadcast.set(broadcast);
        self.interrupt();
    }

    /// Has threads that run or await tasks inside of a runtime leave it, as soon as
    /// the task that they run is over.
    pub fn interrupt(&self) {
        let shared = self.shared;
        // Release: pairs with the Acquire in `Thread::answer_interrupt`; `wake` orders
        // it before the look at who sleeps.
        shared.interrupts.fetch_add(1, Ordering::Release);
        // One that is started later finds that it has been interrupted.
        for thread in 0..self.started() {
            shared.idle.wake(thread);
        }
    }

    /// Sees to it that a thread will find what was pushed: at most one is
    /// woken, and none if one is searching already.
    #[inline]
    pub fn notify(&self) {
        self.shared.idle.notify();
    }

    /// Like `notify`, but for many short tasks that were pushed, the first of
    /// which is `task`: a thread that is awake will come to them. It might
    /// meet a long one among them, so somebody must look again after a while
    /// (`notify_if_queued`).
    #[inline]
    pub fn notify_bulk(&self, task: &Task) {
        self.shared.call_for_help(task);
    }

    /// Wakes a thread if tasks wait and none searches.
    pub fn notify_if_queued(&self) {
        if self.shared.queued() > 0 {
            self.shared.idle.notify();
        }
    }

    /// Whether a thread is searching at this moment, and would take a task
    /// within a fraction of a microsecond.
    #[inline]
    pub fn is_searching(&self) -> bool {
        self.shared.cores > 1 && self.shared.idle.searchers() > 0
    }

    /// How many threads are inside a runtime, given by its address.
    pub fn users(&self, runtime: *const ()) -> usize {
        let uses = |thread: &&CachePadded<ThreadState>| {
            // Acquire: pairs with the Release of the thread that leaves.
            std::ptr::eq(thread.runtime.load(Ordering::Acquire), runtime)
        };
        self.shared.threads.iter().filter(uses).count()
    }

    fn in_flight(&self) -> u64 {
        let ended = self.shared.ended.load(Ordering::Relaxed);
        self.shared
            .posted
            .load(Ordering::Relaxed)
            .saturating_sub(ended)
    }

    /// The pool's statistics.
    pub fn stats(&self) -> PoolStats {
        let shared = self.shared;
        let sum = |pick: fn(&ThreadState) -> &Counter| {
            let counts = shared.threads.iter().map(|thread| pick(thread).get());
            counts.sum::<u64>()
        };
        let in_flight = self.in_flight();
        let queued = shared.queued();
        PoolStats {
            threads: self.started() as f64,
            max_queue: shared.config.max_queue as f64,
            in_flight: in_flight as f64,
            queued: queued as f64,
            running: in_flight.saturating_sub(queued) as f64,
            wakeups: sum(|thread| &thread.wakeups) as f64,
        }
    }
}
