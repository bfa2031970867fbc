//! Whether a caller should wait a moment for its result before it yields.
//!
//! The *spin wait*: while a pool thread is searching, a task of a microsecond is
//! done sooner than a coroutine can yield. It pays only for tasks that have
//! been that short lately and only if they then really are done in time, so
//! misses use up a credit, and without credit only one call in
//! [`PROBE_EVERY`] waits, to find out whether times have changed.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// The longest that a caller waits inline, in nanoseconds.
pub const SPIN_WAIT_NS: u64 = 4_700;
/// Tasks are worth waiting for if the short ones run for less than this.
pub const WORTH_NS: u64 = 4_000;

const MAX_CREDIT: i32 = 64;
const HIT_GAIN: i32 = 8;
const MISS_COST: i32 = 16;
const PROBE_EVERY: u32 = 64;

/// The credit of one runtime. Written by the main thread only, so all
/// orderings are relaxed.
#[derive(Debug)]
pub struct SpinWait {
    credit: AtomicI32,
    skipped: AtomicU32,
}

impl Default for SpinWait {
    fn default() -> Self {
        Self {
            credit: AtomicI32::new(MAX_CREDIT),
            skipped: AtomicU32::new(0),
        }
    }
}

impl SpinWait {
    /// Whether the next call may wait.
    pub fn is_due(&self) -> bool {
        if self.credit.load(Ordering::Relaxed) > 0 {
            return true;
        }
        let skipped = self.skipped.load(Ordering::Relaxed).wrapping_add(1);
        self.skipped.store(skipped, Ordering::Relaxed);
        skipped.is_multiple_of(PROBE_EVERY)
    }

    /// Notes whether waiting gave the result.
    pub fn note(&self, hit: bool) {
        let credit = self.credit.load(Ordering::Relaxed);
        let credit = if hit {
            credit + HIT_GAIN
        } else {
            credit - MISS_COST
        };
        self.credit
            .store(credit.clamp(0, MAX_CREDIT), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn misses_switch_it_off_and_hits_of_probes_on_again() {
        let spin_wait = SpinWait::default();
        for _ in 0..MAX_CREDIT / MISS_COST {
            assert!(spin_wait.is_due());
            spin_wait.note(false);
        }
        let due = (0..PROBE_EVERY).filter(|_| spin_wait.is_due()).count();
        assert_eq!(due, 1);
        spin_wait.note(true);
        assert!(spin_wait.is_due());
    }
}
