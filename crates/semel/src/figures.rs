//! Figures that a store keeps of itself, for whoever shows them: in atomics, so that keeping them costs next to nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds for durations in microseconds, from a write to a fast disk to an origin that takes its time.
pub const DURATION_BOUNDS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// Upper bounds for how many were done at once.
pub const COUNT_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// How often a value was how large. Values are whole numbers; durations are counted in microseconds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than there are bounds: the last is for what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a [`Histogram`] had counted when it was read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Each upper bound, and how many values were at most that and above the bound before.
    pub buckets: Vec<(u64, u64)>,
    /// How many were above every bound.
    pub over: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl Counted {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.over
    }
}

impl Histogram {
    /// Empty, with these upper bounds in ascending order.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts a duration.
    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it has counted so far. What is counted at the same moment may be in the sum and not in a bucket.
    pub fn read(&self) -> Counted {
        let (over, counts) = self.counts.split_last().expect("there is one more than bounds");
        let buckets = self.bounds.iter().zip(counts).map(|(bound, count)| (*bound, count.load(Relaxed))).collect();
        Counted { buckets, over: over.load(Relaxed), sum: self.sum.load(Relaxed) }
    }
}

/// What a store knows of itself without asking anybody; `None`: it has no such thing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// How many swaps were made durable at once: by one barrier of the disk, or in one round trip to a server.
    pub batches: Option<Counted>,
    /// Connections to the store's server that are open now.
    pub connections: Option<u64>,
    /// Records that it has; those past their retention count until they are swept.
    pub records: Option<u64>,
    /// Their bytes.
    pub record_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[1, 10]);
        for value in [0, 1, 2, 10, 11, 1_000] {
            histogram.record(value);
        }
        histogram.record_time(Duration::from_micros(3));
        let counted = histogram.read();
        assert_eq!(counted, Counted { buckets: vec![(1, 2), (10, 3)], over: 2, sum: 1_027 });
        assert_eq!(counted.count(), 7);
    }
}
