//! A concurrent histogram of durations with a bounded relative error.
//!
//! The layout is that of Gil Tene's HdrHistogram: each power of two is cut
//! into the same number of buckets, so a value's bucket follows from its
//! leading bits, and the relative error is the same everywhere.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per power of two: 2^5, a relative error of at most 1/32.
const PRECISION_BITS: u32 = 5;
const BUCKETS_PER_OCTAVE: usize = 1 << PRECISION_BITS;
/// Durations from 2^40 ns (18 minutes) on share the last bucket.
const MAX_BITS: u32 = 40;
const BUCKETS: usize = ((MAX_BITS - PRECISION_BITS + 1) as usize) * BUCKETS_PER_OCTAVE;

/// A histogram of durations in nanoseconds. Recording is two relaxed atomic
/// additions and, for a new maximum, one more; reading never stops a writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

/// What a histogram says, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub struct Summary {
    /// How many durations were recorded.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The longest duration, exact.
    pub max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

fn bucket_of(ns: u64) -> usize {
    let octave = (u64::BITS - ns.leading_zeros()).saturating_sub(PRECISION_BITS + 1);
    let within = (ns >> octave) as usize;
    (octave as usize * BUCKETS_PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The largest duration that falls into a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let octave = (bucket / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let within = (bucket - octave * BUCKETS_PER_OCTAVE) as u64;
    ((within + 1) << octave) - 1
}

impl Histogram {
    /// Records one duration.
    #[inline]
    pub fn record(&self, ns: u64) {
        // Relaxed throughout: each figure stands for itself, and a reader that
        // sees one of them a moment before another does no harm.
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(ns, Ordering::Relaxed);
        if ns > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// Summarises several histograms as if all had been recorded in one.
    pub fn summary<'a>(shards: impl Iterator<Item = &'a Histogram> + Clone) -> Summary {
        let mut merged = vec![0_u64; BUCKETS];
        for shard in shards.clone() {
            for (total, bucket) in merged.iter_mut().zip(&shard.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
        }
        let count: u64 = merged.iter().sum();
        if count == 0 {
            return Summary::default();
        }
        let figure = |pick: fn(&Histogram) -> &AtomicU64| {
            let pick = move |shard| pick(shard).load(Ordering::Relaxed);
            shards.clone().map(pick)
        };
        let max = figure(|shard| &shard.max).max().unwrap_or(0);
        let sum: u64 = figure(|shard| &shard.sum).sum();
        let percentile = |fraction: f64| {
            let rank = (count as f64 * fraction).ceil() as u64;
            let mut seen = 0;
            let position = merged.iter().position(|&bucket| {
                seen += bucket;
                seen >= rank
            });
            seconds(position.map_or(max, |bucket| upper_bound(bucket).min(max)))
        };
        Summary {
            count: count as f64,
            mean: seconds(sum) / count as f64,
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p999: percentile(0.999),
            max: seconds(max),
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_value_once_and_in_order() {
        let mut values: Vec<u64> = (0..5000).collect();
        values.extend((13..MAX_BITS).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        let mut previous = 0;
        for value in values {
            let bucket = bucket_of(value);
            assert!(bucket >= previous, "{value} goes back to bucket {bucket}");
            previous = bucket;
            assert!(value <= upper_bound(bucket), "{value} in bucket {bucket}");
            if bucket > 0 {
                assert!(value > upper_bound(bucket - 1), "{value} in {bucket}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_within_the_promised_error() {
        let (one, other) = (Histogram::default(), Histogram::default());
        for value in 1..=10_000_u64 {
            let shard = if value % 2 == 0 { &one } else { &other };
            shard.record(value * 1000);
        }
        let summary = Histogram::summary([&one, &other].into_iter());
        assert_eq!(summary.count, 10_000.0);
        assert_eq!(summary.max, 0.01);
        assert!((summary.mean - 0.005_000_5).abs() < 1e-9);
        for (figure, exact) in [
            (summary.p50, 0.005),
            (summary.p90, 0.009),
            (summary.p99, 0.0099),
            (summary.p999, 0.00999),
        ] {
            assert!((figure / exact - 1.0).abs() <= 1.0 / 32.0, "{figure}");
        }
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        let empty = Histogram::default();
        assert_eq!(Histogram::summary([&empty].into_iter()), Summary::default());
    }
}
