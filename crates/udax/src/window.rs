//! How far ahead of a fault to map: a window grows while faults come in order, and shrinks when they do not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use udax_core::{PMD_PAGES, PageIndex, PageRange};

/// 256 MiB: beyond it a fault more or less is lost in the cost of the pages themselves.
const LARGEST_PAGES: u64 = 128 * PMD_PAGES;
/// By how much a window for stores grows with each fault that comes in order.
const GROWTH: u64 = 4;
/// The same for loads. Zeros that nobody looks at cost no memory and little time, a fault in user space as much as the windows of 100 MiB: so 1 GiB takes four.
const LARGEST_LOAD: u64 = 512 * PMD_PAGES;
const LOAD_GROWTH: u64 = 8;
/// So many first stores here and there open what they need and no more; those that follow open four times as much each time. A few stores shall leave
/// most of a file to the zero page, many shall not cost a fault in user space each. What was opened and is not used is given back (see `opened`).
const SCATTERED: u64 = 4;

/// After so many windows that cover less than so small a part of the VMA, loads are sparse.
const SPARSE_FAULTS: u64 = 1000;
const SPARSE_PART: u64 = 256;
/// Storage that is had at once for who fills a file from one end to the other: a quarter of what was filled, 8 MiB at most. It may be more than is
/// stored to in the end.
const FILLED_PART: u64 = 4;
const FILLED_PAGES: u64 = 4 * PMD_PAGES;

/// Why more is opened than was stored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nobody knows whether stores will come there.
    Guess,
    /// Stores come in order.
    InOrder,
    /// They leave no page out.
    Filling,
}

/// Places at which accesses may go on in order: as many threads can each go through a part of their own, or one thread through several arrays.
const STREAMS: usize = 4;

/// Accesses that came in order up to here.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The page at which the next fault comes if they go on.
    expected: u64,
    /// Where they began.
    begun: u64,
    /// Pages mapped at the last fault.
    pages: u64,
}

impl Stream {
    /// A fault in `unit`: how many pages behind it to map, if so many times as many as last time are, up to `largest`.
    fn advance(&mut self, unit: PageRange, growth: u64, largest: u64) -> u64 {
        self.pages = grown(self.pages, growth, unit, largest);
        self.expected = unit.start.0 + self.pages;
        self.pages - unit.len()
    }
}

fn grown(last: u64, growth: u64, unit: PageRange, largest: u64) -> u64 {
    (last * growth).clamp(unit.len(), largest.max(unit.len()))
}

/// The window of one region, for loads or for stores. Only the fault thread makes it grow.
#[derive(Debug, Default)]
pub(crate) struct Window(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// The one that the last fault was of comes first.
    streams: Vec<Stream>,
    /// Faults that were in none.
    scattered: u64,
    /// Pages opened at the last of those.
    guessed: u64,
    /// Faults since the window was new.
    faults: u64,
    /// Pages mapped since.
    mapped: u64,
}

impl Progress {
    /// Puts the stream that goes on at `unit` in front, or a new one; where it stood, if it was there.
    fn stream_at(&mut self, unit: PageRange) -> (&mut Stream, Option<usize>) {
        let goes_on = |stream: &Stream| unit.start.0 != 0 && stream.expected == unit.start.0;
        let found = self.streams.iter().position(goes_on);
        let stream = match found {
            Some(place) => self.streams.remove(place),
            None => Stream { expected: unit.end.0, begun: unit.start.0, pages: 0 },
        };
        self.streams.truncate(STREAMS - 1);
        self.streams.insert(0, stream);
        (&mut self.streams[0], found)
    }

    /// Stores here and there come before `unit` as well as behind: a block that begins at a multiple of its size. What follows it would be in order.
    fn guess(&mut self, unit: PageRange) -> PageRange {
        let growth = if self.scattered < SCATTERED { 0 } else { GROWTH };
        self.scattered += 1;
        self.guessed = grown(self.guessed, growth, unit, LARGEST_PAGES);
        let size = self.guessed.next_power_of_two();
        let start = PageIndex(unit.start.0 / size * size);
        let block = PageRange::between(start, unit.end.max(start.plus(size)));
        let stream = &mut self.streams[0];
        (stream.expected, stream.pages) = (block.end.0, self.guessed);
        block
    }
}

impl Window {
    /// A load met a hole: how many pages behind the 2 MiB of `index` to map as well.
    pub(crate) fn ahead_of_load(&self, index: PageIndex) -> u64 {
        let start = PageIndex(index.0 - index.colour());
        let unit = PageRange::new(start, PMD_PAGES);
        let mut progress = self.progress();
        let (stream, found) = progress.stream_at(unit);
        let growth = if found.is_some() { LOAD_GROWTH } else { 0 };
        let ahead = stream.advance(unit, growth, LARGEST_LOAD);
        progress.faults += 1;
        progress.mapped += unit.len() + ahead;
        ahead
    }

    /// Whether loads in a VMA of `pages` are so far apart that a window of zeros serves but one of them. It then costs as much memory as the page
    /// that it spares (a page table goes with it), and a fault in user space.
    pub(crate) fn are_sparse(&self, pages: PageRange) -> bool {
        let progress = self.progress();
        progress.faults >= SPARSE_FAULTS && progress.mapped < pages.len() / SPARSE_PART
    }

    /// The first store to `unit`: what to open to stores, which has that in it; all that is not behind it is a guess. `was_filled` tells whether every page
    /// before it was stored to.
    pub(crate) fn around_store(
        &self,
        unit: PageRange,
        was_filled: impl FnOnce() -> bool,
    ) -> (PageRange, Reason) {
        let mut progress = self.progress();
        let (stream, found) = progress.stream_at(unit);
        let Some(place) = found else { return (progress.guess(unit), Reason::Guess) };
        // Of those who fill several parts at the same time each is better served by the kernel, beside the others, than one after another here.
        if place > 0 || !was_filled() {
            return (reach(unit, stream.advance(unit, GROWTH, LARGEST_PAGES)), Reason::InOrder);
        }
        let filled = unit.start.0 - stream.begun;
        let units = (filled / FILLED_PART).min(FILLED_PAGES) / PMD_PAGES;
        stream.pages = units * PMD_PAGES;
        let reason = if units > 0 { Reason::Filling } else { Reason::InOrder };
        (reach(unit, stream.advance(unit, 1, LARGEST_PAGES)), reason)
    }

    /// What was opened was not used: begins anew.
    pub(crate) fn shrink(&self) {
        let mut progress = self.progress();
        progress.streams.iter_mut().for_each(|stream| stream.pages = 0);
        (progress.scattered, progress.guessed) = (0, 0);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Numbers, none of which depends on another.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `unit` and so many pages behind it.
fn reach(unit: PageRange, ahead: u64) -> PageRange {
    PageRange::between(unit.start, unit.end.plus(ahead))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(number: u64) -> PageRange {
        PageRange::new(PageIndex(number * PMD_PAGES), PMD_PAGES)
    }

    #[test]
    fn loads_in_order_grow_the_window_and_a_jump_shrinks_it() {
        let window = Window::default();
        assert_eq!(window.ahead_of_load(PageIndex(0)), 0);
        assert_eq!(window.ahead_of_load(PageIndex(PMD_PAGES)), 7 * PMD_PAGES);
        assert_eq!(window.ahead_of_load(PageIndex(9 * PMD_PAGES)), 63 * PMD_PAGES);
        assert_eq!(window.ahead_of_load(PageIndex(1_000_000)), 0);
    }

    #[test]
    fn the_window_stops_growing_at_a_gib() {
        let window = Window::default();
        let mut next = 0;
        let mut largest = 0;
        for _ in 0..12 {
            let ahead = window.ahead_of_load(PageIndex(next));
            largest = largest.max(ahead);
            next += PMD_PAGES + ahead;
        }
        assert_eq!(largest, LARGEST_LOAD - PMD_PAGES);
    }

    #[test]
    fn a_thousand_windows_in_a_small_part_of_a_vma_are_sparse() {
        let (large, small) =
            (PageRange::new(PageIndex(0), 1 << 32), PageRange::new(PageIndex(0), 1 << 26));
        let window = Window::default();
        for load in 1..SPARSE_FAULTS {
            window.ahead_of_load(PageIndex(load << 18));
            assert!(!window.are_sparse(large));
        }
        window.ahead_of_load(PageIndex(SPARSE_FAULTS << 18));
        assert!(window.are_sparse(large) && !window.are_sparse(small));
    }

    fn units(first: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(first * PMD_PAGES), count * PMD_PAGES)
    }

    #[test]
    fn scattered_stores_open_their_units_until_there_are_many() {
        let window = Window::default();
        let guess = |start| window.around_store(unit(start), || panic!("not in order"));
        for store in 0..SCATTERED {
            let start = store * 7 % 100;
            assert_eq!(guess(start), (unit(start), Reason::Guess));
        }
        assert_eq!(guess(302), (units(300, 4), Reason::Guess));
        assert_eq!(guess(207), (units(192, 16), Reason::Guess));
        window.shrink();
        assert_eq!(guess(500), (unit(500), Reason::Guess));
    }

    #[test]
    fn what_follows_a_guess_comes_in_order() {
        let window = Window::default();
        for store in 0..SCATTERED {
            window.around_store(unit(store * 7 % 100), || panic!("not in order"));
        }
        window.around_store(unit(302), || panic!("not in order"));
        assert_eq!(window.around_store(unit(304), || false), (units(304, 16), Reason::InOrder));
    }

    #[test]
    fn stores_in_order_are_no_guess_and_open_the_less_the_more_they_fill() {
        let window = Window::default();
        let store = |start, filled| window.around_store(unit(start), || filled);
        assert_eq!(store(100, false), (units(100, 1), Reason::Guess));
        assert_eq!(store(101, false), (units(101, 4), Reason::InOrder));
        assert_eq!(store(105, false), (units(105, 16), Reason::InOrder));
        assert_eq!(store(121, true), (units(121, 4), Reason::Filling));
        assert_eq!(store(125, true), (units(125, 4), Reason::Filling));
    }

    #[test]
    fn several_go_through_parts_of_their_own() {
        let window = Window::default();
        let store = |start| window.around_store(unit(start), || true);
        for start in [100, 200, 300, 400] {
            assert_eq!(store(start), (unit(start), Reason::Guess));
        }
        for start in [101, 201, 301, 401] {
            assert_eq!(store(start), (units(start, 4), Reason::InOrder), "none is a guess");
        }
        assert_eq!(store(405), (unit(405), Reason::Filling), "for the moment it is alone");
        // The oldest is forgotten.
        assert_eq!(store(500), (units(500, 4), Reason::Guess));
        assert_eq!(store(105), (units(96, 16), Reason::Guess));
        let loads = Window::default();
        let load = |unit: u64| loads.ahead_of_load(PageIndex(unit * PMD_PAGES)) / PMD_PAGES;
        assert_eq!([load(10), load(20), load(11), load(21), load(15)], [0, 0, 7, 7, 0]);
    }

    #[test]
    fn of_storage_no_more_than_a_quarter_of_what_was_filled_is_had_ahead() {
        let window = Window::default();
        let store = |start| window.around_store(unit(start), || true);
        for start in 0..4 {
            let (opened, reason) = store(start);
            assert_eq!(opened, unit(start));
            assert!(matches!(reason, Reason::Guess | Reason::InOrder));
        }
        for start in 4..8 {
            assert_eq!(store(start), (unit(start), Reason::Filling));
        }
        assert_eq!(store(8), (units(8, 2), Reason::Filling));
    }
}
