//! Which pages of a VMA show what: the runs of trap and zero pages; everything else is plain.

use std::collections::BTreeMap;
use udax_core::{Order, PMD_PAGES, PageIndex, PageRange};

/// What a run of pages shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Nothing yet: registered anonymous memory without pages. The first touch is a fault.
    Trap,
    /// The kernel's zero page, registered and write-protected.
    Zero,
    /// The kernel's own mapping of the file.
    Plain,
}

/// Pages in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which pages.
    pub pages: PageRange,
    /// What they show.
    pub state: RunState,
}

/// The runs that are not plain, by their first page. Neighbours in the same state stay apart: each stands for a mapping of
/// the kernel's, and what is counted is those.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    by_start: BTreeMap<u64, (u64, RunState)>,
}

impl Runs {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.by_start.len() as u64
    }

    /// The state of one page.
    pub(crate) fn state_of(&self, page: PageIndex) -> RunState {
        self.at(page).map_or(RunState::Plain, |run| run.state)
    }

    /// The state of every page of `range`, if it is the same.
    pub(crate) fn only_state_of(&self, range: PageRange) -> Option<RunState> {
        let mut runs = self.in_range(range);
        let Some(first) = runs.next() else { return Some(RunState::Plain) };
        let mut pages = first.pages.len();
        for run in runs {
            if run.state != first.state {
                return None;
            }
            pages += run.pages.len();
        }
        (pages == range.len()).then_some(first.state)
    }

    /// The run that holds `page`, unless that is plain.
    pub(crate) fn at(&self, page: PageIndex) -> Option<Run> {
        let (start, (end, state)) = self.by_start.range(..=page.0).next_back()?;
        let run = run(*start, *end, *state);
        run.pages.contains(page).then_some(run)
    }

    /// The runs in `range`, cut to it, in order; plain ones left out.
    pub(crate) fn in_range(&self, range: PageRange) -> impl Iterator<Item = Run> + '_ {
        let before = self.by_start.range(..range.start.0).next_back();
        let inside = self.by_start.range(range.start.0..range.end.0.max(range.start.0));
        before
            .into_iter()
            .chain(inside)
            .map(move |(start, (end, state))| {
                let whole = run(*start, *end, *state);
                Run { pages: whole.pages.intersect(range), state: *state }
            })
            .filter(|run| !run.pages.is_empty())
    }

    /// Every run of `range`, plain ones too; neighbours in the same state are one.
    pub(crate) fn all(&self, range: PageRange) -> Vec<Run> {
        let mut all: Vec<Run> = Vec::new();
        let mut at = range.start;
        let end = Run { pages: PageRange::new(range.end, 0), state: RunState::Plain };
        for next in self.in_range(range).chain([end]) {
            for run in [
                Run { pages: PageRange::between(at, next.pages.start), state: RunState::Plain },
                next,
            ] {
                match all.last_mut() {
                    _ if run.pages.is_empty() => {}
                    Some(last) if last.state == run.state => last.pages.end = run.pages.end,
                    _ => all.push(run),
                }
            }
            at = next.pages.end;
        }
        all
    }

    /// Puts all of `range` into `state`.
    pub(crate) fn set(&mut self, range: PageRange, state: RunState) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let inside: Vec<u64> =
            self.by_start.range(range.start.0..range.end.0).map(|(start, _)| *start).collect();
        for start in inside {
            self.by_start.remove(&start);
        }
        if state != RunState::Plain {
            self.by_start.insert(range.start.0, (range.end.0, state));
        }
    }

    /// Makes `page` begin a run, if it is inside one.
    fn cut(&mut self, page: PageIndex) {
        let Some((_, (end, state))) = self.by_start.range_mut(..page.0).next_back() else { return };
        if *end > page.0 {
            let upper = (*end, *state);
            *end = page.0;
            self.by_start.insert(page.0, upper);
        }
    }

    /// Takes out what lies at `page` and behind.
    pub(crate) fn split_off(&mut self, page: PageIndex) -> Self {
        self.cut(page);
        Self { by_start: self.by_start.split_off(&page.0) }
    }
}

const fn run(start: u64, end: u64, state: RunState) -> Run {
    Run { pages: PageRange::between(PageIndex(start), PageIndex(end)), state }
}

/// Stretches of one request that are mapped one by one; more of them are mapped in one go, with what lies between.
const STRETCH_LIMIT: usize = 8;

/// The runs of `range` in one of `states`, neighbours taken together.
pub(crate) fn stretches(runs: &Runs, range: PageRange, states: &[RunState]) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for run in runs.in_range(range).filter(|run| states.contains(&run.state)) {
        match found.last_mut() {
            Some(last) if last.pages.end == run.pages.start => last.pages.end = run.pages.end,
            _ => found.push(run),
        }
    }
    found
}

/// All of `stretches` as one, if they are many.
pub(crate) fn together(stretches: Vec<Run>) -> Vec<Run> {
    match (stretches.first(), stretches.last()) {
        (Some(first), Some(last)) if stretches.len() > STRETCH_LIMIT => {
            vec![Run { pages: PageRange::between(first.pages.start, last.pages.end), ..*first }]
        }
        _ => stretches,
    }
}

/// `range` in pieces that end at 2 MiB borders.
pub(crate) fn units(range: PageRange) -> impl Iterator<Item = PageRange> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = at.align_down(Order::Pmd).plus(PMD_PAGES).min(range.end);
        let unit = PageRange::between(at, end);
        at = end;
        (!unit.is_empty()).then_some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::to_usize;

    const PAGES: u64 = 24;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::between(PageIndex(start), PageIndex(end))
    }

    /// A small generator of the SplitMix kind; a failure names the seed.
    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    fn check(runs: &Runs, model: &[RunState], seed: u64) {
        for (page, state) in (0..).zip(model) {
            assert_eq!(runs.state_of(PageIndex(page)), *state, "page {page}, seed {seed}");
        }
        let all = runs.all(range(0, PAGES));
        let mut at = 0;
        for (position, run) in all.iter().enumerate() {
            assert_eq!(run.pages.start.0, at, "seed {seed}: no gaps");
            assert!(!run.pages.is_empty(), "seed {seed}");
            assert!(
                position == 0 || all[position - 1].state != run.state,
                "seed {seed}: coalesced"
            );
            at = run.pages.end.0;
        }
        assert_eq!(at, PAGES, "seed {seed}");
        for (start, states) in (0..).zip(model.windows(4)) {
            let only = states.iter().all(|state| *state == states[0]).then_some(states[0]);
            let found = runs.only_state_of(range(start, start + 4));
            assert_eq!(found, only, "pages {start} to {}, seed {seed}", start + 4);
        }
    }

    #[test]
    fn runs_agree_with_a_state_per_page() {
        for seed in 0..2000 {
            let mut random = seed;
            let mut runs = Runs::default();
            let mut model = [RunState::Plain; to_usize(PAGES)];
            for _ in 0..12 {
                let (start, end) = (next(&mut random) % PAGES, next(&mut random) % (PAGES + 1));
                let states = [RunState::Trap, RunState::Zero, RunState::Plain];
                let state = states[to_usize(next(&mut random) % 3)];
                let changed = range(start, end);
                runs.set(changed, state);
                for page in changed.start.0..changed.end.0 {
                    model[to_usize(page)] = state;
                }
                check(&runs, &model, seed);
            }
            let at = next(&mut random) % PAGES;
            let upper = runs.split_off(PageIndex(at));
            for page in 0..PAGES {
                let (lower_state, upper_state) =
                    (runs.state_of(PageIndex(page)), upper.state_of(PageIndex(page)));
                let (mine, other) =
                    if page < at { (lower_state, upper_state) } else { (upper_state, lower_state) };
                assert_eq!((mine, other), (model[to_usize(page)], RunState::Plain), "seed {seed}");
            }
        }
    }
}
