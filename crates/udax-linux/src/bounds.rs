//! Two addresses between which all lies that was ever served.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All zero is none at all.
#[derive(Default)]
pub(crate) struct Bounds {
    /// The lowest, with all its bits turned: it grows too.
    lowest_turned: AtomicUsize,
    highest: AtomicUsize,
}

impl Bounds {
    pub(crate) fn include(&self, addresses: &Range<usize>) {
        self.lowest_turned.fetch_max(!addresses.start, Ordering::AcqRel);
        self.highest.fetch_max(addresses.end, Ordering::AcqRel);
    }

    /// Whether any of `addresses` lies between them. No lock; whoever knows an address that is served has it from the call that began that.
    pub(crate) fn meet(&self, addresses: &Range<usize>) -> bool {
        addresses.start < self.highest.load(Ordering::Acquire)
            && !self.lowest_turned.load(Ordering::Acquire) < addresses.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_ranges_counts_and_nothing_does_at_first() {
        let bounds = Bounds::default();
        assert!(!bounds.meet(&(0..usize::MAX)));
        bounds.include(&(40..50));
        bounds.include(&(20..30));
        for (start, end, meets) in
            [(0, 20, false), (0, 21, true), (35, 36, true), (49, 60, true), (50, 60, false)]
        {
            assert_eq!(bounds.meet(&(start..end)), meets, "{start}..{end}");
        }
    }
}
