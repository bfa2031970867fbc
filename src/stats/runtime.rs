//! What a runtime counts and measures.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::{Counter, Histogram, Summary};
use crate::error::Error;

/// Threads share this many sets of histograms, so that two pool threads seldom
/// write the same cache line.
const SHARDS: usize = 4;

/// The running mean moves by 1/8 of the difference with each task.
const MEAN_SHIFT: u32 = 3;
/// What exceeds the mean by this factor and time counts as no more than that.
const OUTLIER: u64 = 8;
const OUTLIER_NS: u64 = 4_000;
/// The running minimum rises by 1/32 of the difference.
const BEST_SHIFT: u32 = 5;

#[derive(Debug, Default)]
struct Times {
    started: Counter,
    queue: Histogram,
    run: Histogram,
}

/// Counters and histograms of one runtime. Counters are written by the main
/// thread only.
#[derive(Debug, Default)]
pub struct RuntimeStats {
    /// Tasks posted.
    pub posted: Counter,
    /// Tasks that other runtimes ran on their own threads; any thread writes.
    pub nested: Counter,
    /// Tasks collected.
    pub collected: Counter,
    /// Tasks that ended with a response.
    pub ok: Counter,
    /// Tasks that ended with each error, by its code minus one. An error is
    /// counted once per call: when the caller stops waiting, or else when the
    /// task is collected.
    pub errors: [Counter; Error::ALL.len()],
    /// Tasks whose deadline passed in the queue, so that they never ran.
    pub expired: Counter,
    /// Calls that the spin wait answered.
    pub spin_hits: Counter,
    /// Calls whose spin wait was in vain.
    pub spin_misses: Counter,
    recent: CachePadded<Recent>,
    total: Histogram,
    times: [CachePadded<Times>; SHARDS],
}

/// How long tasks have run lately, in nanoseconds. All accesses are relaxed
/// and a sample may get lost between two threads: these are hints.
#[derive(Debug, Default)]
struct Recent {
    /// A running mean.
    mean_ns: AtomicU64,
    /// A running minimum, which rises slowly.
    best_ns: AtomicU64,
}

impl Recent {
    fn add(&self, run_ns: u64) {
        let mean = self.mean_ns.load(Ordering::Relaxed);
        // A thread that lost its processor for a moment is no long task.
        let sample = run_ns.min(mean * OUTLIER + OUTLIER_NS);
        let moved = mean - (mean >> MEAN_SHIFT) + (sample >> MEAN_SHIFT);
        self.mean_ns.store(moved, Ordering::Relaxed);
        let best = self.best_ns.load(Ordering::Relaxed);
        let moved = if run_ns > best {
            best + ((run_ns - best) >> BEST_SHIFT)
        } else {
            run_ns
        };
        self.best_ns.store(moved, Ordering::Relaxed);
    }
}

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.get().unwrap_or_else(|| {
        // Relaxed: only the number matters.
        let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        SHARD.set(Some(shard));
        shard
    })
}

impl RuntimeStats {
    /// Tasks posted and not collected.
    pub fn in_flight(&self) -> u64 {
        self.posted.get().saturating_sub(self.collected.get())
    }

    /// Notes that a task left the queue, from any thread.
    pub fn note_start(&self) {
        self.times[shard()].started.bump_shared();
    }

    /// Tasks that have left the queue.
    pub fn started(&self) -> u64 {
        self.times.iter().map(|times| times.started.get()).sum()
    }

    /// Records how long a task queued and ran, from any thread.
    pub fn record(&self, queue_ns: u64, run_ns: u64) {
        let times = &self.times[shard()];
        times.queue.record(queue_ns);
        times.run.record(run_ns);
        self.recent.add(run_ns);
    }

    /// How long tasks have run lately, on average, in nanoseconds.
    pub fn recent_mean_ns(&self) -> u64 {
        self.recent.mean_ns.load(Ordering::Relaxed)
    }

    /// How long the shortest of them have run, in nanoseconds.
    pub fn recent_best_ns(&self) -> u64 {
        self.recent.best_ns.load(Ordering::Relaxed)
    }

    /// Records how long a call took from post to collection.
    pub fn record_total(&self, total_ns: u64) {
        self.total.record(total_ns);
    }

    /// Counts how a call ended.
    pub fn count(&self, result: Result<(), Error>) {
        match result {
            Ok(()) => self.ok.bump(),
            Err(error) => self.errors[error.code() as usize - 1].bump(),
        }
    }

    /// Summaries of queue, run and total time.
    pub fn times(&self) -> [Summary; 3] {
        [
            Histogram::summary(self.times.iter().map(|times| &times.queue)),
            Histogram::summary(self.times.iter().map(|times| &times.run)),
            Histogram::summary([&self.total].into_iter()),
        ]
    }
}
