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
const REGRETS: u32 = 32;
/// Units that were given back are remembered up to this number.
const REMEMBERED: usize = 1 << 16;
/// When more is opened the looks go on from here.
const AGAIN: u32 = QUICK_LOOKS / 2;
/// A unit that was passed over while so many pages a unit were touched elsewhere is given back: if accesses went everywhere alike, this would be one unit of 3,000.
const PASSED_OVER: u64 = 8;
/// So many looks in a row that find nothing new in a unit are enough, whatever happens elsewhere,
const QUIET: u32 = 8;
/// and so many if nothing happens elsewhere either,
const ALL_QUIET: u32 = 2;
/// and so many if the unit was not touched at all, but stores came in order and may yet come there.
const QUIET_IN_ORDER: u32 = 16;
/// Units given back in one go: a fault in the file may have to wait for that, some hundred microseconds.
const UNITS_AT_ONCE: usize = 16;
/// A unit with data in more of its 32 pieces of 64 KiB is no hole to speak of.
const FEW_PIECES: u32 = 16;

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

/// What a look came to. Neither is watched any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Runs to be given back.
    pub(crate) cool: Vec<PageRange>,
    /// Runs with data in many places.
    pub(crate) full: Vec<PageRange>,
}

/// Why a unit was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Stores come in order and may come there.
    InOrder,
    /// Nobody knows whether stores will come there.
    Guess,
    /// The same, and the kernel has been told that accesses are scattered: it is to be told when that is over.
    Scattered,
}

#[derive(Debug)]
struct Unit {
    /// What the last look found, if there was one.
    touched: Option<Touched>,
    /// Looks in a row that found the same.
    quiet: u32,
    /// Pages touched meanwhile in a unit on average, in [`PARTS`] of a page.
    passed_over: u64,
    why: Opening,
}

/// Parts of a page that are counted.
const PARTS: u64 = 64;

impl Unit {
    /// Looks again; `average` is what was touched in a unit since the last look, `all_quiet` how many looks found nothing new anywhere. Whether it is
    /// used no more.
    fn look(&mut self, now: Touched, average: u64, all_quiet: u32) -> bool {
        if self.touched.replace(now) != Some(now) {
            (self.quiet, self.passed_over) = (0, 0);
            return false;
        }
        self.quiet += 1;
        self.passed_over += average;
        if self.why == Opening::InOrder && now.pages == 0 {
            return self.quiet >= QUIET_IN_ORDER;
        }
        self.passed_over >= PASSED_OVER * PARTS || self.quiet >= QUIET || all_quiet >= ALL_QUIET
    }
}

/// The opened units of one file that are watched.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    units: BTreeMap<PageIndex, Unit>,
    looks: u32,
    /// Somebody is to look.
    looking: bool,
    /// Looks in a row that found nothing new anywhere.
    all_quiet: u32,
    given_back: BTreeSet<PageIndex>,
    /// Units that were opened again after they had been given back.
    regrets: u32,
}

impl Opened {
    /// `range` was opened because page `stored` was stored to. Says when to look, if nobody is to look yet.
    pub(crate) fn add(
        &mut self,
        range: PageRange,
        stored: PageIndex,
        why: Opening,
    ) -> Option<Duration> {
        self.looks = if self.units.is_empty() { 0 } else { self.looks.min(AGAIN) };
        if self.given_back.remove(&stored.align_down(Order::Pmd)) {
            self.regrets += 1;
        }
        self.watch(range, why);
        if self.looking { None } else { self.next_look() }
    }

    /// `range`, which was cool, could not be given back.
    pub(crate) fn add_again(&mut self, range: PageRange) {
        self.given_back.retain(|start| !range.contains(*start));
        self.watch(range, Opening::Guess);
    }

    fn watch(&mut self, range: PageRange, why: Opening) {
        let mut start = range.start.align_down(Order::Pmd);
        while start < range.end {
            let unit = Unit { touched: None, quiet: 0, passed_over: 0, why };
            // What is watched already goes on as it is.
            self.units.entry(start).or_insert(unit);
            start = start.plus(PMD_PAGES);
        }
    }

    /// The units that are watched, as runs of neighbours.
    pub(crate) fn runs(&self) -> Vec<PageRange> {
        runs_of(self.units.keys().copied())
    }

    /// A look at `runs` found this; units of them that are not named were not touched. Nothing is told of units that were opened meanwhile.
    pub(crate) fn looked(
        &mut self,
        runs: &[PageRange],
        found: &BTreeMap<PageIndex, Touched>,
    ) -> Looked {
        self.looks += 1;
        let was_seen = |start: PageIndex| runs.iter().any(|run| run.contains(start));
        let of = |start: PageIndex| found.get(&start).copied().unwrap_or_default();
        let grown: u64 = self
            .units
            .iter()
            .filter(|(start, _)| was_seen(**start))
            .filter_map(|(start, unit)| Some(of(*start).pages.saturating_sub(unit.touched?.pages)))
            .sum();
        let is_second = self.units.values().any(|unit| unit.touched.is_some());
        self.all_quiet = if grown == 0 && is_second { self.all_quiet + 1 } else { 0 };
        let average = grown * PARTS / (self.units.len() as u64).max(1);
        let all_quiet = self.all_quiet;
        let (mut cool, mut full) = (Vec::new(), Vec::new());
        self.units.retain(|&start, unit| {
            if !was_seen(start) {
                return true;
            }
            let now = of(start);
            let is_full = now.pieces.count_ones() > FEW_PIECES;
            let is_cool = unit.look(now, average, all_quiet);
            match (is_full, is_cool) {
                (true, true) => full.push(start),
                (true, false) if unit.why != Opening::Scattered => full.push(start),
                (false, true) => cool.push(start),
                (_, false) => return true,
            }
            false
        });
        let room = REMEMBERED.saturating_sub(self.given_back.len());
        self.given_back.extend(cool.iter().take(room));
        let few = |some: &[PageIndex]| runs_of(some.iter().copied());
        Looked {
            cool: cool.chunks(UNITS_AT_ONCE).flat_map(few).collect(),
            full: runs_of(full.into_iter()),
        }
    }

    /// When to look again, if there is anything to look at; whoever asks is to do that then.
    pub(crate) fn next_look(&mut self) -> Option<Duration> {
        self.looking = !self.units.is_empty();
        let doublings = self.looks.saturating_sub(QUICK_LOOKS).min(LAST_DOUBLING);
        let regretted = (self.regrets / REGRETS).min(LAST_DOUBLING);
        self.looking.then(|| FIRST_LOOK * 2_u32.pow(doublings + regretted))
    }

    /// Whether somebody is to look, or does.
    pub(crate) fn is_watched(&self) -> bool {
        self.looking
    }

    /// Nothing is watched any more.
    pub(crate) fn clear(&mut self) {
        self.units.clear();
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

    fn look(opened: &mut Opened, found: &BTreeMap<PageIndex, Touched>) -> Looked {
        let runs = opened.runs();
        opened.looked(&runs, found)
    }

    fn looks(opened: &mut Opened, found: &BTreeMap<PageIndex, Touched>, times: u32) {
        for _ in 0..times {
            assert_eq!(look(opened, found), Looked::default());
        }
    }

    #[test]
    fn what_is_opened_during_a_look_waits_for_the_next() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), units(0, 1).start, Opening::Guess);
        looks(&mut opened, &BTreeMap::new(), ALL_QUIET);
        let runs = opened.runs();
        opened.add(units(7, 1), units(7, 1).start, Opening::Guess);
        assert_eq!(opened.looked(&runs, &BTreeMap::new()).cool, [units(0, 1)]);
        assert_eq!(opened.runs(), [units(7, 1)]);
    }

    #[test]
    fn where_nothing_happens_at_all_few_looks_are_enough() {
        let mut opened = Opened::default();
        assert_eq!(opened.add(units(3, 2), units(3, 1).start, Opening::Guess), Some(FIRST_LOOK));
        assert_eq!(
            opened.add(units(9, 1), units(9, 1).start, Opening::Guess),
            None,
            "somebody will look already"
        );
        let found = BTreeMap::from([touched(3, &[1, 500])]);
        looks(&mut opened, &found, ALL_QUIET);
        assert_eq!(look(&mut opened, &found).cool, [units(3, 2), units(9, 1)]);
        assert_eq!(opened.next_look(), None);
    }

    #[test]
    fn a_quiet_unit_among_busy_ones_goes_when_it_was_passed_over_too_often() {
        let mut opened = Opened::default();
        opened.add(units(0, 4), units(0, 1).start, Opening::Guess);
        let busy = |pages: u64| -> BTreeMap<PageIndex, Touched> {
            let pages: Vec<u64> = (0..pages).collect();
            BTreeMap::from([touched(0, &pages), touched(1, &pages), touched(2, &pages)])
        };
        // Six pages a look in three units of four.
        looks(&mut opened, &busy(6), 1);
        looks(&mut opened, &busy(12), 1);
        assert_eq!(look(&mut opened, &busy(18)).cool, [units(3, 1)]);
        assert_eq!(look(&mut opened, &busy(24)), Looked::default());
    }

    #[test]
    fn a_quiet_unit_beside_a_slow_one_goes_after_some_looks() {
        let mut opened = Opened::default();
        opened.add(units(0, 100), units(0, 1).start, Opening::Guess);
        for pages in 1..=u64::from(QUIET) {
            let found = BTreeMap::from([touched(0, &(0..pages).collect::<Vec<_>>())]);
            looks(&mut opened, &found, 1);
        }
        let found = BTreeMap::from([touched(0, &[0, 100])]);
        assert_eq!(look(&mut opened, &found).cool.len(), 7, "99 units, 16 at once");
    }

    #[test]
    fn a_unit_with_data_all_over_stays_open_and_is_looked_at_no_more() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), units(0, 1).start, Opening::Guess);
        let pages: Vec<u64> = (0..17).map(|piece| piece * 16).collect();
        let looked = look(&mut opened, &BTreeMap::from([touched(0, &pages)]));
        assert_eq!((looked.cool, looked.full), (vec![], vec![units(0, 1)]));
        assert_eq!((opened.runs(), opened.next_look()), (vec![], None));
    }

    #[test]
    fn a_full_unit_with_scattered_stores_is_watched_until_they_end() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), units(0, 1).start, Opening::Scattered);
        for pages in 300..310 {
            let pages: Vec<u64> = (0..pages).collect();
            looks(&mut opened, &BTreeMap::from([touched(0, &pages)]), 1);
        }
        let pages: Vec<u64> = (0..309).collect();
        looks(&mut opened, &BTreeMap::from([touched(0, &pages)]), ALL_QUIET - 1);
        assert_eq!(look(&mut opened, &BTreeMap::from([touched(0, &pages)])).full, [units(0, 1)]);
    }

    #[test]
    fn what_was_opened_for_stores_in_order_waits_longer_for_them() {
        let mut opened = Opened::default();
        opened.add(units(0, 20), units(0, 1).start, Opening::InOrder);
        looks(&mut opened, &BTreeMap::new(), QUIET_IN_ORDER);
        assert_eq!(look(&mut opened, &BTreeMap::new()).cool, [units(0, 16), units(16, 4)]);
    }

    #[test]
    fn looks_become_rare_until_more_is_opened() {
        let mut opened = Opened::default();
        opened.add(units(0, 1), units(0, 1).start, Opening::InOrder);
        for time in 0..u64::from(QUICK_LOOKS) + 10 {
            look(&mut opened, &BTreeMap::from([touched(0, &[time % 2 * 100])]));
        }
        assert_eq!(opened.next_look(), Some(FIRST_LOOK * 64));
        opened.add(units(5, 1), units(5, 1).start, Opening::InOrder);
        assert_eq!(opened.next_look(), Some(FIRST_LOOK));
    }

    #[test]
    fn one_looks_and_no_other() {
        let mut opened = Opened::default();
        assert!(opened.add(units(0, 1), units(0, 1).start, Opening::Guess).is_some());
        looks(&mut opened, &BTreeMap::new(), ALL_QUIET);
        look(&mut opened, &BTreeMap::new());
        assert_eq!(
            opened.add(units(1, 1), units(1, 1).start, Opening::Guess),
            None,
            "the look is not over"
        );
        assert!(opened.next_look().is_some());
    }

    #[test]
    fn who_stores_again_to_what_was_given_back_is_looked_at_less() {
        let mut opened = Opened::default();
        for time in 0..3 * REGRETS {
            let doubled = 2_u32.pow(time / REGRETS);
            assert_eq!(
                opened.add(units(7, 1), units(7, 1).start, Opening::Guess),
                Some(FIRST_LOOK * doubled),
                "time {time}"
            );
            looks(&mut opened, &BTreeMap::new(), ALL_QUIET);
            assert_eq!(look(&mut opened, &BTreeMap::new()).cool, [units(7, 1)]);
            assert_eq!(opened.next_look(), None);
        }
    }
}
