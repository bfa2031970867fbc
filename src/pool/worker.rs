//! The life of a pool thread: find a task, run it, and when there is none spin
//! for a moment and then sleep.
//!
//! # Spinning
//!
//! On a virtual machine, waking a thread on another core costs some 20 us, so
//! a thread that finds nothing looks on for [`SPIN_NS`] before it sleeps. That
//! pays while calls follow each other closely. Where it does not, `credit`
//! runs out and the thread sleeps at once, but for one try in
//! [`PROBE_EVERY`] to find out whether times have changed.

use crossbeam_deque::Worker;

use super::queues::Finder;
use super::{threads, Shared};
use crate::channel::outbox;
use crate::error::Error;
use crate::sync::{now_ns, spin_loop, Ordering};
use crate::task::state::Claim;
use crate::task::{Failure, Slot};

/// How long a thread looks for a task before it sleeps.
const SPIN_NS: u64 = 10_000;
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;
/// Spins in vain before a thread stops to spin.
const MAX_CREDIT: u32 = 8;
/// A thread without credit spins once in so many times.
const PROBE_EVERY: u32 = 64;

/// Starts thread `index` of a pool.
pub fn start(
    shared: &'static Shared,
    index: usize,
    local: Worker<&'static Slot>,
) -> Result<(), String> {
    let config = &shared.config;
    threads::spawn(&config.name, index, config.nice, move || {
        Thread {
            shared,
            index,
            finder: Finder::new(&shared.queues, index, local),
            credit: MAX_CREDIT,
            naps: 0,
            now_ns: 0,
            batch: true,
        }
        .live();
    })
}

struct Thread {
    shared: &'static Shared,
    index: usize,
    finder: Finder,
    /// How many more times spinning may fail.
    credit: u32,
    /// How often the thread went to sleep.
    naps: u32,
    /// The time if it is known, 0 if not.
    now_ns: u64,
    /// Whether the last task was short.
    batch: bool,
}

impl Thread {
    fn live(mut self) {
        outbox::hold();
        loop {
            let slot = match self.finder.find(self.batch) {
                Some(slot) => slot,
                None => self.wait(),
            };
            self.run(slot);
        }
    }

    fn run(&mut self, slot: &'static Slot) {
        // SAFETY: this thread found the slot in the queue, so it will claim it.
        let task = unsafe { slot.task() };
        // SAFETY: the runtime outlives its tasks, and this one has not ended.
        let runtime = unsafe { task.runtime.as_ref() };
        self.batch = runtime.is_short();
        if !self.batch {
            // What this thread holds must not wait for a long task.
            outbox::flush();
            if self.finder.holds_tasks() {
                self.shared.idle.notify();
            }
        }
        let started = match self.now_ns {
            0 => now_ns(),
            known => known,
        };
        let thread = &self.shared.threads[self.index];
        thread.started.bump();
        // Relaxed: whoever looks for users of a runtime comes after the end of
        // its last task, and so after this.
        let address = task.runtime.as_ptr().cast();
        thread.runtime.store(address, Ordering::Relaxed);
        runtime.note_start();
        match slot.state.claim() {
            // SAFETY: the claim says so.
            Claim::Cancelled => unsafe { slot.drop_unrun() },
            Claim::Run if task.deadline_ns <= started => refuse(slot, Error::Timeout),
            Claim::Run if task.recipient.is_closed() => refuse(slot, Error::ShuttingDown),
            Claim::Run => {
                // SAFETY: claimed by this thread, and not passed on yet.
                unsafe { slot.set_started_ns(started) };
                runtime.run(slot);
            }
        }
        // Release: pairs with the Acquire in `Pool::users`; this thread's use
        // of the runtime is over.
        thread.runtime.store(std::ptr::null_mut(), Ordering::Release);
        self.now_ns = outbox::take_last_end();
    }

    /// Waits for a task: spins if that has paid lately, then sleeps.
    fn wait(&mut self) -> &'static Slot {
        outbox::flush();
        self.now_ns = 0;
        let shared = self.shared;
        shared.idle.start_searching();
        let slot = loop {
            if let Some(slot) = self.search() {
                break slot;
            }
            if shared.idle.sleep(|| shared.queues.is_empty()) {
                shared.threads[self.index].wakeups.bump();
            }
        };
        if shared.idle.stop_searching() && !shared.queues.is_empty() {
            shared.idle.notify();
        }
        slot
    }

    fn search(&mut self) -> Option<&'static Slot> {
        // What is there at once (after a sleep, usually something) says
        // nothing about spinning.
        let at_once = self.finder.find(self.batch);
        if at_once.is_some() || !self.may_spin() {
            return at_once;
        }
        let until = now_ns() + SPIN_NS;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                spin_loop();
                let found = self.finder.find(self.batch);
                if found.is_some() {
                    self.credit = MAX_CREDIT;
                    return found;
                }
            }
            if now_ns() >= until {
                self.credit = self.credit.saturating_sub(1);
                return None;
            }
        }
    }

    fn may_spin(&mut self) -> bool {
        self.naps = self.naps.wrapping_add(1);
        self.shared.spin && (self.credit > 0 || self.naps % PROBE_EVERY == 0)
    }
}

/// Ends a task that was claimed but shall not run.
fn refuse(slot: &'static Slot, error: Error) {
    let generation = slot.state.generation();
    // Cannot fail: the runtime has never seen the handle.
    let _ = slot.complete(generation, |_, _| Err(Failure::Ended(error)));
}
