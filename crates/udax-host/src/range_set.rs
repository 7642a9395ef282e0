//! A set of pages, kept as disjoint runs that never touch.

use std::collections::BTreeMap;
use udax_core::{PageIndex, PageRange};

/// Pages, as few runs as can say it. Every operation costs the logarithm of the number of runs, and one step for each run
/// that the range meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First page of a run -> the page after its last.
    runs: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// No page.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// Whether there is no page in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs it takes.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// Puts `range` in, and says whether any page of it was missing.
    pub fn insert(&mut self, range: PageRange) -> bool {
        if range.is_empty() || self.covers(range) {
            return false;
        }
        let (mut start, mut end) = (range.start.0, range.end.0);
        // Runs that only touch are swallowed too: the set has one form for one content.
        while let Some((&low, &high)) = self.runs.range(..=end).next_back() {
            if high < start {
                break;
            }
            self.runs.remove(&low);
            start = start.min(low);
            end = end.max(high);
        }
        self.runs.insert(start, end);
        true
    }

    /// Takes `range` out, and says whether any page of it was there.
    pub fn remove(&mut self, range: PageRange) -> bool {
        let mut changed = false;
        while let Some(run) = self.last_run_in(range) {
            changed = true;
            self.runs.remove(&run.start.0);
            if run.start < range.start {
                self.runs.insert(run.start.0, range.start.0);
            }
            if range.end < run.end {
                self.runs.insert(range.end.0, run.end.0);
            }
        }
        changed
    }

    /// Whether `index` is in it.
    #[must_use]
    pub fn contains(&self, index: PageIndex) -> bool {
        self.run_at(index).is_some()
    }

    /// Whether all of `range` is in it; true of an empty one.
    #[must_use]
    pub fn covers(&self, range: PageRange) -> bool {
        range.is_empty() || self.run_at(range.start).is_some_and(|run| range.end <= run.end)
    }

    /// The run that holds `index`.
    #[must_use]
    pub fn run_at(&self, index: PageIndex) -> Option<PageRange> {
        let (&start, &end) = self.runs.range(..=index.0).next_back()?;
        Some(run(start, end)).filter(|run| run.contains(index))
    }

    /// The first run that has a page in `range`, cut to `range`.
    #[must_use]
    pub fn first_in(&self, range: PageRange) -> Option<PageRange> {
        if range.is_empty() {
            return None;
        }
        let found = self.run_at(range.start).or_else(|| {
            let (&start, &end) = self.runs.range(range.start.0..range.end.0).next()?;
            Some(run(start, end))
        })?;
        Some(found.intersect(range))
    }

    /// The runs that have pages in `range`, in order, cut to `range`.
    pub fn iter_in(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let mut rest = range;
        std::iter::from_fn(move || {
            let found = self.first_in(rest)?;
            rest = PageRange::between(found.end, range.end);
            Some(found)
        })
    }

    /// How many pages of `range` are in it.
    #[must_use]
    pub fn pages_in(&self, range: PageRange) -> u64 {
        self.iter_in(range).map(PageRange::len).sum()
    }

    /// The last run that has a page in `range`, whole.
    fn last_run_in(&self, range: PageRange) -> Option<PageRange> {
        if range.is_empty() {
            return None;
        }
        let (&start, &end) = self.runs.range(..range.end.0).next_back()?;
        Some(run(start, end)).filter(|run| run.end > range.start)
    }
}

const fn run(start: u64, end: u64) -> PageRange {
    PageRange::between(PageIndex(start), PageIndex(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 24;

    /// The set against one flag per page, through every public question.
    fn check(set: &RangeSet, model: &[bool]) {
        let mut previous_end = None;
        for (&start, &end) in &set.runs {
            assert!(start < end, "an empty run");
            assert!(previous_end.is_none_or(|previous| previous < start), "runs that touch");
            previous_end = Some(end);
        }
        let at = |page: u64| model.get(usize::try_from(page).unwrap()).copied().unwrap_or(false);
        for start in 0..=PAGES {
            assert_eq!(set.contains(PageIndex(start)), at(start));
            for end in start..=PAGES {
                let range = run(start, end);
                let here: Vec<u64> = (start..end).filter(|&page| at(page)).collect();
                assert_eq!(set.pages_in(range), here.len() as u64);
                assert_eq!(set.covers(range), here.len() as u64 == range.len());
                assert_eq!(set.first_in(range).map(|run| run.start.0), here.first().copied());
                let listed: Vec<u64> =
                    set.iter_in(range).flat_map(|run| run.start.0..run.end.0).collect();
                assert_eq!(listed, here);
            }
        }
        assert_eq!(set.is_empty(), !model.contains(&true));
    }

    proptest! {
        #[test]
        fn any_sequence_agrees_with_one_flag_per_page(
            steps in prop::collection::vec((any::<bool>(), 0..=PAGES, 0..=PAGES), 1..40)
        ) {
            let mut set = RangeSet::new();
            let mut model = vec![false; usize::try_from(PAGES).unwrap()];
            for (put, a, b) in steps {
                let range = run(a.min(b), a.max(b));
                let place = |index: PageIndex| usize::try_from(index.0).unwrap();
                let (low, high) = (place(range.start), place(range.end));
                let differs = model[low..high].contains(&!put);
                let changed = if put { set.insert(range) } else { set.remove(range) };
                model[low..high].fill(put);
                prop_assert_eq!(changed, differs);
                check(&set, &model);
            }
        }
    }

    #[test]
    fn the_last_page_there_is_can_be_put_in_and_taken_out() {
        let mut set = RangeSet::new();
        assert!(set.insert(PageRange::from(PageIndex(5))));
        assert!(set.covers(PageRange::from(PageIndex(9))));
        assert!(set.remove(PageRange::from(PageIndex(7))));
        assert_eq!(set.run_at(PageIndex(6)), Some(run(5, 7)));
        assert_eq!(set.run_count(), 1);
    }
}
