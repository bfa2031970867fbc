//! The slot: the fixed-size record of one task in flight.
//!
//! A slot is written by one thread at a time, and the state word says which:
//! the main thread while FREE and after DONE, the claimer from QUEUED to
//! RUNNING, the thread that won `edit` from there to DONE.

use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};

use crate::error::Error;
use crate::stats::RuntimeStats;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence, now_ns};
use crate::task::handle::{Handle, Running};
use crate::task::reply::Reply;
use crate::task::state::{Claim, State};

/// No deadline.
pub const NO_DEADLINE: u64 = u64::MAX;

/// Timeouts of a year or more mean no deadline. So no sum of times can overflow, here
/// or in a plugin, whose times may have a sign.
const MAX_SECONDS: f64 = 365.0 * 86400.0;

/// The deadline of what may take so many seconds from `now` on.
#[inline]
pub fn deadline_after(now: u64, seconds: f64) -> u64 {
    // Also if it is no number.
    if seconds < MAX_SECONDS {
        now + (seconds.max(0.0) * 1e9) as u64
    } else {
        NO_DEADLINE
    }
}

/// Which queue of the pool a task waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// The default.
    Normal = 1,
    /// When nothing else waits; now and then nevertheless.
    Low = 2,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// The priority of a number as Lua passes it; anything else is `Normal`.
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::High,
            2 => Self::Low,
            _ => Self::Normal,
        }
    }
}

/// What runs tasks. Implemented by `runtime::Runtime`; a trait here because
/// tasks know nothing of runtimes but this.
pub trait Runner: Sync {
    /// Runs a task on the calling thread. The task may end in here or, if the
    /// runtime is asynchronous, later.
    fn run(&self, task: &Running);
    /// What it counts and measures.
    fn stats(&self) -> &RuntimeStats;
    /// The longest response allowed, in bytes.
    fn max_response(&self) -> usize;
    /// A nested task does not use the runtime any more, which may be freed now.
    ///
    /// # Safety
    /// Called once for each nested task.
    unsafe fn leave_nested(&self);
}

/// The load of a pool. Implemented by `pool::Shared`.
pub trait Load: Sync {
    /// One task less is in the pool. Called before its end can be seen, so
    /// that whoever sees it finds room.
    fn task_ended(&self);
}

/// Who is told that a task is done. Implemented by `wake::Mailbox`.
pub trait Recipient: Sync {
    /// Takes a slot that is done since `ended_ns`, from any thread.
    fn deliver(&'static self, slot: &'static Slot, ended_ns: u64);
    /// Whether tasks that have not started should not start any more.
    fn is_closed(&self) -> bool;
}

/// What a pool thread is to do with the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Load and initialise it.
    Init,
    /// Run a request.
    Call,
    /// Close it.
    Close,
}

/// Why a step of a plugin's failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The task is complete already, or gone.
    Stale,
    /// An argument is wrong; the task is as it was.
    Invalid,
    /// The step ended the task with this error.
    Ended(Error),
}

/// One request, written by the main thread before the offer.
#[derive(Clone, Copy)]
pub struct Task {
    /// What is to be done.
    pub kind: Kind,
    /// By which runtime; it outlives the task (see `runtime::Runtime`).
    pub runtime: NonNull<dyn Runner>,
    /// Who is told about the end.
    pub recipient: &'static dyn Recipient,
    /// The pool, which counts the task until it ends.
    pub pool: &'static dyn Load,
    /// The request: a Lua string that Lua keeps alive until the completion.
    pub request: *const u8,
    /// Its length in bytes.
    pub request_len: usize,
    /// When the task was posted, ns of `CLOCK_MONOTONIC`.
    pub posted_ns: u64,
    /// When its caller stops waiting, likewise, or [`NO_DEADLINE`].
    pub deadline_ns: u64,
    /// Its queue.
    pub priority: Priority,
    /// Whether it is one of many short tasks, posted together.
    pub bulk: bool,
    /// Whether code of another runtime has posted it, on the thread that runs it.
    pub nested: bool,
    /// A number of the runtime's own, for instance which function to run.
    pub tag: u32,
}

impl Task {
    /// Whether some bytes are a part of the request.
    pub fn is_of_request(&self, bytes: &[u8]) -> bool {
        let request = self.request..self.request.wrapping_add(self.request_len);
        let part = bytes.as_ptr_range();
        request.start <= part.start && part.end <= request.end
    }
}

/// The record. Aligned so that two tasks never share a cache line.
#[repr(align(128))]
pub struct Slot {
    /// Which step the task has reached.
    pub(crate) state: State,
    /// The next slot in a chain of completions.
    pub(crate) next: AtomicPtr<Slot>,
    /// The slot below in the timer's stack, see `runtime::cancel` ...
    pub(crate) below: AtomicPtr<Slot>,
    /// ... and whether it is there: 1 if so.
    pub(crate) stacked: AtomicU32,
    /// When the timer looks at the slot by itself, or [`NO_DEADLINE`]. Changed by
    /// the timer only.
    pub(crate) alarm_ns: AtomicU64,
    /// The slot's number in the arena.
    pub index: u32,
    task: UnsafeCell<Option<Task>>,
    reply: UnsafeCell<Reply>,
    started_ns: UnsafeCell<u64>,
}

// SAFETY: the cells are accessed by one thread at a time, handed over by the
// state word with Release/Acquire; see the module's comment.
unsafe impl Sync for Slot {}
// SAFETY: as above; the raw pointers in a task are to memory that outlives it.
unsafe impl Send for Slot {}

impl Slot {
    /// A free slot.
    pub fn new(index: u32) -> Self {
        Self {
            state: State::default(),
            next: AtomicPtr::new(ptr::null_mut()),
            below: AtomicPtr::new(ptr::null_mut()),
            stacked: AtomicU32::new(0),
            alarm_ns: AtomicU64::new(NO_DEADLINE),
            index,
            task: UnsafeCell::new(None),
            reply: UnsafeCell::new(Reply::default()),
            started_ns: UnsafeCell::new(0),
        }
    }

    /// Puts a task in and offers it. `inline`: the caller is about to spin on its
    /// state.
    ///
    /// # Safety
    /// The slot is free, and the caller is the thread that owns it.
    #[inline]
    pub unsafe fn offer(&self, task: Task, inline: bool) {
        // SAFETY: a free slot is its owner's alone.
        unsafe {
            *self.task.get() = Some(task);
            *self.started_ns.get() = 0;
        }
        self.state.offer(inline);
    }

    /// The task in the slot.
    ///
    /// # Safety
    /// The slot holds a task (from its offer to its release), and the caller
    /// is its claimer, its completer or the main thread, all of which are
    /// ordered after `offer` by the state word or by the pool's queue.
    pub unsafe fn task(&self) -> &Task {
        // SAFETY: the task is written only by `offer`, which the contract puts
        // before this call, and only read until the release.
        match unsafe { &*self.task.get() } {
            Some(task) => task,
            None => unreachable!("slot {} holds no task", self.index),
        }
    }

    /// The reply, for the thread that the state word gives it to.
    ///
    /// # Safety
    /// The caller won `edit` and has not yet ended it or finished, or it is the
    /// main thread and the slot is done or free; and it holds no other
    /// reference to the reply.
    #[allow(clippy::mut_from_ref, reason = "the state word is the borrow")]
    pub unsafe fn reply(&self) -> &mut Reply {
        // SAFETY: exclusive by the contract.
        unsafe { &mut *self.reply.get() }
    }

    /// When the task started to run; 0 if it never did.
    ///
    /// # Safety
    /// As for [`Slot::task`], after the claim.
    pub unsafe fn started_ns(&self) -> u64 {
        // SAFETY: written by the claimer only, before any completion.
        unsafe { *self.started_ns.get() }
    }

    /// Claims a task that waits, for the thread that is to run it at the time
    /// `now`. `None` if it shall not run; then it has ended.
    ///
    /// # Safety
    /// The caller has taken the slot from the queue that the task was put in.
    #[inline]
    pub unsafe fn begin(&'static self, now: u64) -> Option<Running> {
        // SAFETY: by the contract this thread claims the task.
        let task = unsafe { self.task() };
        // SAFETY: the runtime outlives its tasks, and this one has not ended.
        unsafe { task.runtime.as_ref() }.stats().note_start();
        let refused = match self.state.claim() {
            Claim::Cancelled => {
                // SAFETY: the claim says so.
                unsafe { self.drop_unrun() };
                return None;
            }
            Claim::Run if task.deadline_ns <= now => Error::Timeout,
            Claim::Run if task.recipient.is_closed() => Error::ShuttingDown,
            Claim::Run => {
                // SAFETY: claimed by this thread, and not passed on yet.
                unsafe { *self.started_ns.get() = now };
                return Some(Running::new(self, task));
            }
        };
        self.handle().end(|reply| reply.fail(refused, 0, b""));
        None
    }

    /// Brings the slot into the cache. With thousands of tasks in flight, each has
    /// left it by the time it is used again.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        for line in (0..size_of::<Slot>()).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; it reads nothing that the program can see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(self).cast::<i8>().add(line)) };
        }
    }

    /// Whether the timer looks at the slot at the deadline, or before. For a thread
    /// that has just had its task watched.
    pub(crate) fn is_armed(&self, deadline_ns: u64) -> bool {
        // Loom knows SeqCst of fences only.
        #[cfg(loom)]
        fence(Ordering::SeqCst);
        // SeqCst: as the change of the state word before, partner of the fence in
        // `disarm`. Either this sees that the alarm is gone, or the timer sees that
        // the task is watched.
        self.alarm_ns.load(Ordering::SeqCst) <= deadline_ns
    }

    /// The timer looks at the slot now, and not again by itself.
    pub(crate) fn disarm(&self) {
        self.alarm_ns.store(NO_DEADLINE, Ordering::Relaxed);
        // SeqCst: see `is_armed`.
        fence(Ordering::SeqCst);
    }

    /// The name of the task that the slot holds, or will hold next.
    pub fn handle(&'static self) -> Handle {
        Handle::of(self)
    }

    /// Ends a task that was cancelled before it ran.
    ///
    /// # Safety
    /// The caller's claim returned `Claim::Cancelled`.
    unsafe fn drop_unrun(&'static self) {
        // SAFETY: by the contract the state is COMPLETING, this thread's.
        let (task, reply) = unsafe { (self.task(), self.reply()) };
        reply.fail(Error::Cancelled, 0, b"");
        self.deliver(task, reply);
    }

    /// Tells whoever waits that the task has ended; its reply is written.
    pub(super) fn deliver(&'static self, task: &Task, reply: &mut Reply) {
        let ended_ns = now_ns();
        reply.ended_ns = ended_ns;
        // After `finish` the main thread may release the slot, so everything
        // that is still needed is read before.
        let (recipient, pool) = (task.recipient, task.pool);
        // SAFETY: the runtime outlives its tasks, and this one has not ended.
        let runtime = unsafe { task.runtime.as_ref() };
        // SAFETY: the claimer wrote it before it passed the task on.
        let started = unsafe { self.started_ns() };
        if task.kind == Kind::Call && started != 0 {
            let queued = started.saturating_sub(task.posted_ns);
            let run = ended_ns.saturating_sub(started);
            runtime.stats().record(queued, run);
        }
        if task.nested {
            // SAFETY: a task ends once; this is its last use of the runtime.
            unsafe { runtime.leave_nested() };
        }
        pool.task_ended();
        if !self.state.finish() {
            recipient.deliver(self, ended_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_do_not_overflow() {
        let now = 5_000_000_000;
        assert_eq!(deadline_after(now, 0.25), 5_250_000_000);
        assert_eq!(deadline_after(now, 0.0), now);
        assert_eq!(deadline_after(now, -3.0), now);
        let days = 364.0 * 86400.0;
        assert_eq!(deadline_after(now, days), now + 31_449_600_000_000_000);
        for seconds in [
            3.2e7,
            1e10,
            1e12,
            2f64.powi(63),
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ] {
            assert_eq!(deadline_after(now, seconds), NO_DEADLINE, "{seconds}");
        }
    }
}
