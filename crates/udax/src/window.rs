//! How far ahead of a fault to map: the window grows while faults come in order, and shrinks when they do not.

use std::sync::atomic::{AtomicU64, Ordering};
use udax_core::{PMD_PAGES, PageIndex};

/// 256 MiB: beyond it a fault more or less is lost in the cost of the pages themselves.
const LARGEST_PAGES: u64 = 128 * PMD_PAGES;
/// By how much the window grows with each fault that comes in order.
const GROWTH: u64 = 4;

/// The window of one region. Only the fault thread uses it; the atomics are there so that it may be shared.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// The page at which the next fault comes if accesses go upwards.
    expected: AtomicU64,
    /// Pages to map at the last fault.
    pages: AtomicU64,
}

impl Window {
    /// How many pages behind the 2 MiB of `index` to map as well.
    pub(crate) fn ahead(&self, index: PageIndex) -> u64 {
        let unit = index.0 - index.colour();
        let in_order = self.expected.load(Ordering::Relaxed) == unit && unit != 0;
        let pages = if in_order {
            (self.pages.load(Ordering::Relaxed) * GROWTH).clamp(PMD_PAGES, LARGEST_PAGES)
        } else {
            PMD_PAGES
        };
        self.pages.store(pages, Ordering::Relaxed);
        self.expected.store(unit + pages, Ordering::Relaxed);
        pages - PMD_PAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_order_grow_the_window_and_a_jump_shrinks_it() {
        let window = Window::default();
        assert_eq!(window.ahead(PageIndex(0)), 0);
        assert_eq!(window.ahead(PageIndex(PMD_PAGES)), 3 * PMD_PAGES);
        assert_eq!(window.ahead(PageIndex(5 * PMD_PAGES)), 15 * PMD_PAGES);
        assert_eq!(window.ahead(PageIndex(1_000_000)), 0);
    }

    #[test]
    fn the_window_stops_growing_at_256_mib() {
        let window = Window::default();
        let mut next = 0;
        let mut largest = 0;
        for _ in 0..12 {
            let ahead = window.ahead(PageIndex(next));
            largest = largest.max(ahead);
            next += PMD_PAGES + ahead;
        }
        assert_eq!(largest, LARGEST_PAGES - PMD_PAGES);
    }
}
