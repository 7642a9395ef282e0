//! What a pattern is to reach: a ratio of two medians of one run.

use super::sample::Sample;
use serde::Serialize;
use udax_host::HostKind;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Quantity {
    /// The time of the whole pattern.
    Time,
    /// The growth of the process's memory, page tables included.
    Memory,
    /// The growth of the file's storage.
    Storage,
    /// The median of single accesses.
    Typical,
    /// The 99.9th percentile of single accesses.
    Tail,
    /// Instructions of one operation.
    Instructions,
}

impl Quantity {
    /// Its value in a sample.
    pub(crate) fn of(self, sample: &Sample) -> f64 {
        // Far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds and bytes of one run")]
        let number = |value: u64| value as f64;
        match self {
            Self::Time => number(sample.nanos),
            Self::Memory => number(sample.memory_bytes),
            Self::Storage => number(sample.storage_bytes),
            Self::Typical => number(sample.percentile(500)),
            Self::Tail => number(sample.percentile(999)),
            Self::Instructions => number(sample.instructions),
        }
    }

    /// For people to read.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Typical => "p50",
            Self::Tail => "p99.9",
            Self::Instructions => "instructions",
        }
    }
}

/// With what udax is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Against {
    /// The program's own mmap(2); for the engine alone, what does the same work elsewhere.
    Plain,
    /// What the kernel could do at best.
    Floor,
}

/// Where a goal is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Everywhere,
    Tmpfs,
    Disk,
}

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AtMost {
    /// The median of the ratios.
    Ratio(f64),
    /// The median of udax's own values.
    Value(f64),
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) quantity: Quantity,
    pub(crate) against: Against,
    pub(crate) at_most: AtMost,
    place: Where,
}

impl Goal {
    pub(super) fn new(quantity: Quantity, against: Against, at_most: f64) -> Self {
        Self { quantity, against, at_most: AtMost::Ratio(at_most), place: Where::Everywhere }
    }

    /// Of udax's own; the other is shown beside it.
    pub(super) fn value(quantity: Quantity, at_most: f64) -> Self {
        let at_most = AtMost::Value(at_most);
        Self { quantity, against: Against::Plain, at_most, place: Where::Everywhere }
    }

    pub(super) fn only(self, place: Where) -> Self {
        Self { place, ..self }
    }

    /// Whether it is meant for files there.
    pub(crate) fn is_for(&self, kind: HostKind) -> bool {
        match self.place {
            Where::Everywhere => true,
            Where::Tmpfs => kind == HostKind::Tmpfs,
            Where::Disk => kind != HostKind::Tmpfs,
        }
    }
}
