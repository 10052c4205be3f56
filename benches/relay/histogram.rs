//! Durations counted in buckets: bounded in memory however long a run, exact below 64 µs and to 3 % above.

use std::time::Duration;

const BUCKETS: usize = 32 * 58 + 64; // every u64 has one

/// How often which duration was seen.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    /// Counts `duration`.
    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Adds all that `other` has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
    }

    /// The duration in milliseconds that `share` (0 to 1) of all seen do not exceed; 0 when nothing was seen.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            rank <= seen
        });
        found.map_or(0.0, |bucket| upper_edge(bucket) as f64 / 1e3)
    }
}

/// Five bits behind the leading one choose the bucket.
fn bucket(micros: u64) -> usize {
    let exponent = micros.max(32).ilog2() - 5;
    let bucket = 32 * u64::from(exponent) + (micros >> exponent);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn upper_edge(bucket: usize) -> u64 {
    let exponent = (bucket / 32).saturating_sub(1);
    let mantissa = (bucket - 32 * exponent) as u64;
    (mantissa << exponent) + ((1u64 << exponent) - 1)
}
