//! Posts that are held back, to wake a pool once for many.
//!
//! A wake-up costs the main thread about a microsecond, which is as much as all the
//! rest of a call. So while several short tasks are in flight at a time (many
//! requests are served at once), posts are *held back* until [`Batch::publish`],
//! which Lua calls at the end of the event loop's turn, or until [`MAX_HELD`] are
//! there. A task that is not short, or is alone, goes to the pool at once.

use std::ptr;

use crate::pool::Pool;
use crate::task::{Slot, Task};

/// Tasks are short if they run for less than this on average: handing one to
/// another thread costs about as much.
const SHORT_NS: u64 = 20_000;
/// Posts are held back up to this many ...
const MAX_HELD: usize = 64;
/// ... or up to this many if they came within this time, so that running them
/// meanwhile pays. (45 us are a tenth better for tables, but requests of HTTP then
/// cost a third more: 16 of them come in that time.)
const DENSE_HELD: usize = 16;
const DENSE_NS: u64 = 16_000;
/// Posts are held back while on average this many tasks are in flight.
const HOLD_DEPTH: u32 = 2;
/// The running mean of tasks in flight is kept in 1/16ths ...
const DEPTH_UNIT: u32 = 16;
/// ... and moves by 1/8 of the difference with each post.
const DEPTH_SHIFT: u32 = 3;

struct Held {
    slot: &'static Slot,
    pool: &'static Pool,
    task: Task,
}

/// What one client holds back.
pub struct Batch {
    /// Whether somebody publishes at the end of the turn.
    pub allowed: bool,
    /// A running mean of the tasks in flight at posts, in units of 1/`DEPTH_UNIT`.
    depth: u32,
    held: Vec<Held>,
    /// The pool that many short tasks were posted to.
    watched: Option<&'static Pool>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            allowed: false,
            depth: 0,
            held: Vec::with_capacity(MAX_HELD),
            watched: None,
        }
    }
}

impl Batch {
    /// Notes how many tasks were in flight at a post.
    #[inline]
    pub fn note_depth(&mut self, in_flight: u32) {
        let depth = self.depth as i32;
        let sample = (in_flight * DEPTH_UNIT) as i32;
        self.depth = (depth + ((sample - depth) >> DEPTH_SHIFT)) as u32;
    }

    /// Whether many tasks are in flight at a time.
    #[inline]
    pub fn is_busy(&self) -> bool {
        self.depth >= HOLD_DEPTH * DEPTH_UNIT
    }

    /// Whether a task that runs for so long on average would be held back.
    #[inline]
    pub fn suits(&self, typical_ns: u64) -> bool {
        self.allowed && typical_ns < SHORT_NS && self.is_busy()
    }

    /// Holds an offered task back, at the time `now`.
    ///
    /// # Safety
    /// The slot was offered with this task, and is in no queue.
    #[inline]
    pub unsafe fn hold(&mut self, slot: &'static Slot, pool: &'static Pool, task: Task, now: u64) {
        self.held.push(Held { slot, pool, task });
        let count = self.held.len();
        let since = self.held[0].task.posted_ns;
        if count >= MAX_HELD || (count >= DENSE_HELD && now - since < DENSE_NS) {
            self.publish();
        }
    }

    /// Sends what is held back to the pools. True if `watch` should be called in some
    /// milliseconds.
    pub fn publish(&mut self) -> bool {
        let mut first: Option<Held> = None;
        for held in self.held.drain(..) {
            // SAFETY: by the contract of `hold`.
            unsafe { held.pool.push(held.slot, held.task.priority) };
            if first.as_ref().is_some_and(|f| ptr::eq(f.pool, held.pool)) {
                continue;
            }
            if let Some(done) = first.replace(held) {
                done.pool.notify_bulk(&done.task);
            }
        }
        if let Some(last) = first {
            last.pool.notify_bulk(&last.task);
            self.watched = Some(last.pool);
        }
        self.watched.is_some()
    }

    /// Looks whether many short tasks that were posted are taken care of: the thread
    /// that was expected to do so may have met a long one among them. True if it
    /// should be called again in some milliseconds.
    pub fn watch(&mut self, in_flight: u32) -> bool {
        self.publish();
        if in_flight == 0 {
            self.watched = None;
        } else if let Some(pool) = self.watched {
            pool.notify_if_queued();
        }
        self.watched.is_some()
    }
}
