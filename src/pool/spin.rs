//! How long an idle thread spins before it parks.
//!
//! On a virtual machine, waking a thread on another core costs some 20 us. The
//! window adapts as KVM's halt polling does: a sleep that spinning would have
//! bridged doubles it, up to [`MAX_SPIN_NS`]; a longer one halves it, and below
//! [`MIN_SPIN_NS`] it is nothing. So a thread spins only while tasks follow each
//! other closely.

use std::cell::Cell;

use crate::sync::{now_ns, spin_loop};

/// The longest that a thread looks for a task before it sleeps.
const MAX_SPIN_NS: u64 = 50_000;
/// The shortest, but for not at all.
const MIN_SPIN_NS: u64 = 5_000;
/// What a wake-up adds to a pause.
const WAKE_UP_NS: u64 = 20_000;
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

/// A thread's window.
#[derive(Debug)]
pub struct Window {
    ns: Cell<u64>,
    /// With one processor nobody spins.
    allowed: bool,
}

impl Window {
    /// For a thread of a process that may use so many processors.
    pub fn new(cores: usize) -> Self {
        let allowed = cores > 1;
        let ns = if allowed { MAX_SPIN_NS } else { 0 };
        Self {
            ns: Cell::new(ns),
            allowed,
        }
    }

    /// Looks for something until it is found or the window, which began at
    /// `since`, is over; only once unless `spin`.
    pub fn look<T>(
        &self,
        since: u64,
        spin: bool,
        mut find: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let spin = spin && self.ns.get() > 0;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                let found = find();
                if found.is_some() || !spin {
                    return found;
                }
                spin_loop();
            }
            if now_ns() >= since + self.ns.get() {
                return None;
            }
        }
    }

    /// Adapts to a pause that ended in a wake-up.
    pub fn adapt(&self, pause_ns: u64) {
        let ns = self.ns.get();
        self.ns.set(if !self.allowed {
            0
        } else if pause_ns < MAX_SPIN_NS + WAKE_UP_NS {
            (ns * 2).clamp(MIN_SPIN_NS, MAX_SPIN_NS)
        } else if ns > MIN_SPIN_NS {
            ns / 2
        } else {
            0
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_pauses() {
        let window = Window::new(2);
        for _ in 0..5 {
            window.adapt(1_000_000);
        }
        assert_eq!(window.ns.get(), 0, "long pauses are slept through");
        window.adapt(30_000);
        assert_eq!(window.ns.get(), MIN_SPIN_NS);
        for _ in 0..5 {
            window.adapt(30_000);
        }
        assert_eq!(window.ns.get(), MAX_SPIN_NS);
    }

    #[test]
    fn with_one_processor_nobody_spins() {
        let window = Window::new(1);
        window.adapt(1);
        assert_eq!(window.ns.get(), 0);
        let mut looks = 0;
        let found = window.look(now_ns(), true, || {
            looks += 1;
            None::<()>
        });
        assert_eq!((found, looks), (None, 1));
    }
}
