//! What stores have opened in a file, and when it is given back: a 2 MiB unit in which few pieces were touched and nothing happens any more
//! shows its holes by the zero page again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use udax_core::{Order, PMD_PAGES, PageIndex, PageRange};

/// How long after a unit was opened it is first looked at, and how long after that again.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// So many looks come at that pace; each later one comes after twice the time of the one before, up to 640 ms.
const QUICK_LOOKS: u32 = 16;
const LAST_DOUBLING: u32 = 6;
/// So many units that were given back and are stored to once more double the time between looks, for good: a program that stores all over a
/// large file shall not pay for each store with a fault.
const REGRETS: u32 = 256;
/// Units that were given back are remembered up to this number.
const REMEMBERED: usize = 1 << 16;
/// When more is opened the looks go on from here.
const AGAIN: u32 = QUICK_LOOKS / 2;
/// Looks that find nothing new in a unit before it is given back.
const QUIET: u32 = 2;
/// The same for a unit that was not touched at all, if the stores came in order and may yet come there.
const QUIET_IN_ORDER: u32 = 4;
/// Units given back in one go: a fault in the file may have to wait for that, some hundred microseconds.
const UNITS_AT_ONCE: usize = 16;
/// A unit with data in more of its 32 pieces of 64 KiB is no hole to speak of.
const FEW_PIECES: u32 = 16;
/// From so many pages on it pays to have the neighbours of a page as well.
const WARM_PAGES: u64 = 8;

/// What was found in a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pages: u64,
    /// A bit for each 64 KiB.
    pieces: u32,
}

impl Touched {
    /// Adds what of `pages` lies in `unit`.
    pub(crate) fn add(&mut self, unit: PageRange, pages: PageRange) {
        let pages = pages.intersect(unit);
        self.pages += pages.len();
        for index in pages.start.0..pages.end.0 {
            self.pieces |= 1 << (PageIndex(index).colour() * 32 / PMD_PAGES);
        }
    }
}

/// What a look came to. The first two are not watched any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Runs to be given back.
    pub(crate) cool: Vec<PageRange>,
    /// Runs with data in many places.
    pub(crate) full: Vec<PageRange>,
    /// Runs in which so much was stored to that accesses are not far apart any more; they are still watched.
    pub(crate) warm: Vec<PageRange>,
}

#[derive(Debug)]
struct Unit {
    /// What the last look found, if there was one.
    touched: Option<Touched>,
    /// Looks in a row that found the same.
    quiet: u32,
    /// How many it takes.
    patience: u32,
}

/// The opened units of one file that are watched.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    units: BTreeMap<PageIndex, Unit>,
    looks: u32,
    given_back: BTreeSet<PageIndex>,
    /// Units that were opened again after they had been given back.
    regrets: u32,
}

impl Opened {
    /// `range` was opened; `guessed` if nobody knows whether stores will come there. Says when to look, if nobody is to look yet.
    pub(crate) fn add(&mut self, range: PageRange, guessed: bool) -> Option<Duration> {
        let begins = self.units.is_empty();
        self.looks = if begins { 0 } else { self.looks.min(AGAIN) };
        // Only the first has been stored to; the others were opened because of it.
        if self.given_back.remove(&range.start.align_down(Order::Pmd)) {
            self.regrets += 1;
        }
        let patience = if guessed { QUIET } else { QUIET_IN_ORDER };
        let mut start = range.start.align_down(Order::Pmd);
        while start < range.end {
            let unit = Unit { touched: None, quiet: 0, patience };
            self.units.insert(start, unit);
            start = start.plus(PMD_PAGES);
        }
        if begins { self.next_look() } else { None }
    }

    /// The units that are watched, as runs of neighbours.
    pub(crate) fn runs(&self) -> Vec<PageRange> {
        runs_of(self.units.keys().copied())
    }

    /// A look found this; units that are not named were not touched.
    pub(crate) fn looked(&mut self, found: &BTreeMap<PageIndex, Touched>) -> Looked {
        self.looks += 1;
        let (mut cool, mut full, mut warm) = (Vec::new(), Vec::new(), Vec::new());
        self.units.retain(|&start, unit| {
            let now = found.get(&start).copied().unwrap_or_default();
            if now.pieces.count_ones() > FEW_PIECES {
                full.push(start);
                return false;
            }
            let before = unit.touched.map_or(0, |touched| touched.pages);
            if before < WARM_PAGES && now.pages >= WARM_PAGES {
                warm.push(start);
            }
            unit.quiet = if unit.touched == Some(now) { unit.quiet + 1 } else { 0 };
            unit.touched = Some(now);
            let patience = if now.pages > 0 { QUIET } else { unit.patience };
            let is_cool = unit.quiet >= patience;
            if is_cool {
                cool.push(start);
            }
            !is_cool
        });
        let room = REMEMBERED.saturating_sub(self.given_back.len());
        self.given_back.extend(cool.iter().take(room));
        let few = |some: &[PageIndex]| runs_of(some.iter().copied());
        Looked {
            cool: cool.chunks(UNITS_AT_ONCE).flat_map(few).collect(),
            full: runs_of(full.into_iter()),
            warm: runs_of(warm.into_iter()),
        }
    }

    /// When to look again, if there is anything to look at.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let doublings = self.looks.saturating_sub(QUICK_LOOKS).min(LAST_DOUBLING);
        let regretted = (self.regrets / REGRETS).min(LAST_DOUBLING);
        (!self.units.is_empty()).then(|| FIRST_LOOK * 2_u32.pow(doublings + regretted))
    }

    /// Nothing is watched any more. What was.
    pub(crate) fn take(&mut self) -> Vec<PageRange> {
        let runs = self.runs();
        self.units.clear();
        runs
    }
}

fn runs_of(units: impl Iterator<Item = PageIndex>) -> Vec<PageRange> {
    let mut runs: Vec<PageRange> = Vec::new();
    for start in units {
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = start.plus(PMD_PAGES),
            Some(_) | None => runs.push(PageRange::new(start, PMD_PAGES)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(first: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(first * PMD_PAGES), count * PMD_PAGES)
    }

    fn touched(unit: u64, pages: &[u64]) -> (PageIndex, Touched) {
        let range = units(unit, 1);
        let mut touched = Touched::default();
        for &page in pages {
            touched.add(range, PageRange::new(range.start.plus(page), 1));
        }
        (range.start, touched)
    }

    #[test]
    fn a_unit_with_few_pages_is_given_back_when_looks_find_nothing_new() {
        let mut opened = Opened::default();
        assert_eq!(opened.add(units(3, 2), true), Some(FIRST_LOOK));
        assert_eq!(opened.add(units(9, 1), true), None, "somebody will look already");
        let first = BTreeMap::from([touched(3, &[1, 500]), touched(4, &[7])]);
        assert_eq!(opened.looked(&first), Looked::default());
        assert_eq!(opened.looked(&first), Looked::default());
        let second = BTreeMap::from([touched(3, &[1, 500]), touched(4, &[7, 8])]);
        assert_eq!(opened.looked(&second).cool, [units(3, 1), units(9, 1)]);
        assert_eq!(opened.looked(&second), Looked::default());
        assert_eq!(opened.looked(&second).cool, [units(4, 1)]);
        assert_eq!(opened.next_look(), None);
    }

    #[test]
    fn a_unit_with_data_all_over_stays_open_and_is_looked_at_no_more() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), true);
        let pages: Vec<u64> = (0..17).map(|piece| piece * 16).collect();
        let looked = opened.looked(&BTreeMap::from([touched(0, &pages)]));
        assert_eq!((looked.cool, looked.full), (vec![], vec![units(0, 1)]));
        assert_eq!((opened.runs(), opened.next_look()), (vec![], None));
    }

    #[test]
    fn what_was_opened_for_stores_in_order_waits_longer_for_them() {
        let mut opened = Opened::default();
        opened.add(units(0, 20), false);
        let nothing = BTreeMap::new();
        for _ in 0..QUIET_IN_ORDER {
            assert_eq!(opened.looked(&nothing), Looked::default());
        }
        assert_eq!(opened.looked(&nothing).cool, [units(0, 16), units(16, 4)]);
    }

    #[test]
    fn looks_become_rare_until_more_is_opened() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), false);
        for look in 0..u64::from(QUICK_LOOKS) + 10 {
            opened.looked(&BTreeMap::from([touched(0, &[look % 2 * 100])]));
        }
        assert_eq!(opened.next_look(), Some(FIRST_LOOK * 64));
        opened.add(units(5, 1), false);
        assert_eq!(opened.next_look(), Some(FIRST_LOOK));
    }

    #[test]
    fn who_stores_again_to_what_was_given_back_is_looked_at_less() {
        let mut opened = Opened::default();
        for time in 0..3 * REGRETS {
            let doubled = 2_u32.pow(time / REGRETS);
            assert_eq!(opened.add(units(7, 1), true), Some(FIRST_LOOK * doubled), "time {time}");
            for _ in 0..=QUIET {
                assert_eq!(opened.next_look().is_some(), !opened.runs().is_empty());
                opened.looked(&BTreeMap::new());
            }
            assert_eq!(opened.runs(), []);
        }
    }
}
