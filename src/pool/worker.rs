//! The life of a pool thread: find a task, run it, and when there is none spin
//! for a moment and then sleep.
//!
//! # Spinning
//!
//! On a virtual machine, waking a thread on another core costs some 20 us, so
//! a thread that finds nothing looks on for a while before it sleeps. How long
//! adapts as KVM's halt polling does: a sleep that was so short that spinning
//! would have bridged it doubles the window, up to [`MAX_SPIN_NS`]; one that
//! was longer halves it, and below [`MIN_SPIN_NS`] it is nothing. So a thread
//! spins while tasks follow each other closely, and only then.

use crossbeam_deque::Worker;

use super::queues::Finder;
use super::{threads, Shared};
use crate::channel::outbox;
use crate::error::Error;
use crate::sync::{now_ns, spin_loop, Ordering};
use crate::task::state::Claim;
use crate::task::Slot;

/// The longest that a thread looks for a task before it sleeps.
const MAX_SPIN_NS: u64 = 50_000;
/// The shortest, but for not at all.
const MIN_SPIN_NS: u64 = 5_000;
/// What a wake-up adds to a pause.
const WAKE_UP_NS: u64 = 20_000;
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

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
            spin_ns: if shared.cores > 1 { MAX_SPIN_NS } else { 0 },
            now_ns: 0,
            bulk: false,
        }
        .live();
    })
}

struct Thread {
    shared: &'static Shared,
    index: usize,
    finder: Finder,
    /// How long to look for a task before sleeping.
    spin_ns: u64,
    /// The time if it is known, 0 if not.
    now_ns: u64,
    /// Whether the last task was one of many short ones.
    bulk: bool,
}

impl Thread {
    fn live(mut self) {
        outbox::hold();
        loop {
            let slot = match self.finder.find(self.bulk) {
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
        self.bulk = task.bulk;
        if !self.bulk {
            // What this thread holds must not wait for a long task.
            outbox::flush();
            // Relaxed: a hint; see `Shared::call_for_help`.
            self.shared.engaged.fetch_add(1, Ordering::Relaxed);
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
        thread
            .runtime
            .store(std::ptr::null_mut(), Ordering::Release);
        if !self.bulk {
            self.shared.engaged.fetch_sub(1, Ordering::Relaxed);
        }
        self.now_ns = outbox::take_last_end();
    }

    /// Waits for a task: spins if that has paid lately, then sleeps.
    fn wait(&mut self) -> &'static Slot {
        outbox::flush();
        let idle_since = match self.now_ns {
            0 => now_ns(),
            known => known,
        };
        self.now_ns = 0;
        let shared = self.shared;
        // One spinning thread is enough: the one that was first.
        let mut first = shared.idle.start_searching();
        let slot = loop {
            let spin_ns = if first { self.spin_ns } else { 0 };
            if let Some(slot) = self.search(idle_since + spin_ns, spin_ns > 0) {
                break slot;
            }
            shared.idle.sleep(self.index, || shared.queues.is_empty());
            shared.threads[self.index].wakeups.bump();
            self.adapt(now_ns().saturating_sub(idle_since));
            first = shared.idle.searchers() == 1;
        };
        if shared.idle.stop_searching() && !shared.queues.is_empty() {
            // SAFETY: this thread found the slot, and has not claimed it yet.
            shared.call_for_help(unsafe { slot.task() });
        }
        slot
    }

    fn search(&mut self, until: u64, spin: bool) -> Option<&'static Slot> {
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                let found = self.finder.find(self.bulk);
                if found.is_some() || !spin {
                    return found;
                }
                spin_loop();
            }
            if now_ns() >= until {
                return None;
            }
        }
    }

    /// Adapts the window to a pause that ended in a wake-up.
    fn adapt(&mut self, pause_ns: u64) {
        self.spin_ns = if self.shared.cores == 1 {
            0
        } else if pause_ns < MAX_SPIN_NS + WAKE_UP_NS {
            (self.spin_ns * 2).clamp(MIN_SPIN_NS, MAX_SPIN_NS)
        } else if self.spin_ns > MIN_SPIN_NS {
            self.spin_ns / 2
        } else {
            0
        };
    }
}

/// Ends a task that was claimed but shall not run.
fn refuse(slot: &'static Slot, error: Error) {
    slot.end(slot.state.generation(), |reply| reply.fail(error, 0, b""));
}
