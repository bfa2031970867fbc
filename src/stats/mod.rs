//! Counters and histograms that any thread may write and the main thread reads.

mod histogram;
mod runtime;

pub use histogram::{Histogram, Summary};
pub use runtime::RuntimeStats;

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer at a time, readable from any thread.
///
/// All orderings are `Relaxed`: a statistic orders nothing else.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only for counters that a single thread writes: it is a load
    /// and a store, not a read-modify-write.
    #[inline]
    pub fn bump(&self) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Adds one, from any thread.
    #[inline]
    pub fn bump_shared(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
