//! Latencies by the million, and medians of a few runs.

use std::time::Duration;

/// How many of each latency, within 3 %.
#[derive(Clone)]
pub(crate) struct Latencies {
    counts: Vec<u32>,
    total: u64,
}

/// Buckets per power of two.
const STEPS: u64 = 32;

impl Latencies {
    /// None yet.
    pub(crate) fn new() -> Latencies {
        Latencies { counts: vec![0; 64 * STEPS as usize], total: 0 }
    }

    /// One more.
    pub(crate) fn record(&mut self, latency: Duration) {
        let nanoseconds = (latency.as_nanos() as u64).max(STEPS);
        // The leading five bits after the first choose the step within the power of two.
        let power = u64::from(nanoseconds.ilog2());
        let step = (nanoseconds >> (power - u64::from(STEPS.ilog2()))) - STEPS;
        self.counts[(power * STEPS + step) as usize] += 1;
        self.total += 1;
    }

    /// Those of `other` too.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The latency that `share` of all do not exceed, in microseconds; 0 when there are none.
    pub(crate) fn percentile_us(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if *count > 0 && seen >= rank {
                let (power, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
                return ((STEPS + step) << (power - u64::from(STEPS.ilog2()))) as f64 / 1_000.0;
            }
        }
        0.0
    }
}

/// The middle one; the mean of the middle two; 0 when there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_step() {
        let mut latencies = Latencies::new();
        for microseconds in 1..=1_000 {
            latencies.record(Duration::from_micros(microseconds));
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let told = latencies.percentile_us(share);
            assert!((told / exact - 1.0).abs() < 0.04, "{share}: {told} for {exact}");
        }
        assert!(Latencies::new().percentile_us(0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([1.0, 2.0]) - 1.5).abs() < f64::EPSILON);
    }
}
