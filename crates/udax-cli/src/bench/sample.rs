//! One measurement, and what many of them come to.

use serde::{Deserialize, Serialize};

/// What one run of a pattern cost, in a process of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// From the first access to the last.
    pub(crate) nanos: u64,
    /// How much the process's memory grew, page tables included.
    pub(crate) memory_bytes: u64,
    /// How much the file's storage grew.
    pub(crate) storage_bytes: u64,
    /// Faults that the kernel counted.
    pub(crate) kernel_faults: u64,
    /// Faults that were served in user space.
    pub(crate) user_space_faults: u64,
    /// System calls that udax made, but for those that only wait.
    pub(crate) calls: u64,
    /// How many more VMAs the process had at the end.
    pub(crate) vmas: u64,
    /// Of one operation, where the pattern is about those.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) instructions: u64,
    /// Nanoseconds of single accesses, sorted, where the pattern is about those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) latencies: Vec<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Sample {
    /// The latency that so many of a thousand accesses did not exceed; 0 if there are none.
    pub(crate) fn percentile(&self, per_mille: usize) -> u64 {
        let rank = (self.latencies.len() * per_mille).div_ceil(1000);
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

/// The middle of some numbers, and the quarters around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
}

impl Spread {
    /// Of `values`, in any order; all zero if there are none.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 2),
            lower_quartile: quantile(&sorted, 1),
            upper_quartile: quantile(&sorted, 3),
        }
    }
}

/// The value a number of quarters up in `sorted`, between two neighbours where it falls there.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let (below, rest) = (last * quarters / 4, last * quarters % 4);
    let above = (below + 1).min(last);
    let part = [0.0, 0.25, 0.5, 0.75][rest];
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_fall_between_neighbours() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (spread.lower_quartile, spread.median, spread.upper_quartile),
            (1.75, 2.5, 3.25)
        );
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let sample = Sample { latencies: (1..=1000).collect(), ..Sample::default() };
        assert_eq!((sample.percentile(500), sample.percentile(999)), (500, 999));
        assert_eq!(Sample::default().percentile(500), 0);
    }
}
