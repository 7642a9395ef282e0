//! What is known of a file's holes, and the answers that follow from it. No system calls here.
//!
//! Three sets of pages, disjoint but for `data` and `assigned`; a page in none of them is *unknown*, and unknown counts as
//! mapped: the host kernel's own mapping is always right.
//! - `holes`: a survey saw no data, and no mapping may show these pages natively. They, and they alone, may be zeros.
//! - `data`: a survey saw data there, or passed over it.
//! - `assigned`: some mapping may show these pages natively. A store there tells nobody, so no survey can make them holes. A part of them is
//!   *kept*: whoever shows them, or writes them, cannot be stopped from it, so they stay assigned.
//!
//! Holes and data are learnt only while the map is trusted: while somebody vouches that nobody writes the file unseen.

use crate::range_set::RangeSet;
use udax_core::{Backing, Frame, Intent, Iomap, Order, PMD_PAGES, PageIndex, PageRange};

/// No answer goes further than this: 1 GiB.
const LOOK_AHEAD_PAGES: u64 = 1 << 18;
/// Pages of the smallest hole that is offered where data comes behind it: 16 KiB.
pub const SMALLEST_HOLE: u64 = 4;

/// The moment at which somebody looked: what was seen may be learnt only if nothing has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    changes: u64,
    trusts: u64,
}

/// Why nothing was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Something was assigned or released since, or trust was lost and won: look again.
    Changed,
    /// Nobody vouches for the file any more.
    Distrusted,
}

#[derive(Debug, Default)]
pub(crate) struct HoleMap {
    holes: RangeSet,
    data: RangeSet,
    assigned: RangeSet,
    kept: RangeSet,
    /// How many times anything was assigned or released.
    changes: u64,
    /// Odd while the map is trusted.
    trusts: u64,
}

impl HoleMap {
    pub(crate) fn now(&self) -> Moment {
        Moment { changes: self.changes, trusts: self.trusts }
    }

    /// Whether somebody vouches for the file.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trusts % 2 == 1
    }

    /// Whether page `index` is in one of the three sets, or nobody vouches for the file, so that nothing could be learnt.
    pub(crate) fn knows(&self, index: PageIndex) -> bool {
        let known = [&self.holes, &self.data, &self.assigned];
        !self.is_trusted() || known.iter().any(|set| set.contains(index))
    }

    /// The answer for the start of `range`, which is not empty. Whatever is answered as mapped is assigned by that.
    pub(crate) fn answer(&mut self, range: PageRange, intent: Intent, eof: PageIndex) -> Iomap {
        if range.start >= eof {
            return self.answer_past_eof(range, intent);
        }
        let unit = range.start.align_down(Order::Pmd);
        let limit = unit.plus(LOOK_AHEAD_PAGES).min(eof);
        let wanted_end = range.end;
        match self.holes.run_at(range.start) {
            Some(hole) => match intent {
                Intent::Read | Intent::Zero | Intent::Move => {
                    extent(PageRange::between(range.start, hole.end.min(limit)), Backing::Hole)
                }
                // No further than asked: the next page is a hole still, and costs nothing as long as it is one.
                Intent::Write => {
                    self.mapped(range.start, hole.end.min(wanted_end).min(limit), Allocated::Now)
                }
            },
            None => {
                let known_end = self.end_of_known(range.start, limit);
                let allocated =
                    if known_end > range.start { Allocated::Before } else { Allocated::Now };
                let next_hole = self.holes.first_in(PageRange::between(range.start, limit));
                let end = known_end
                    .max(wanted_end)
                    .min(limit)
                    .min(next_hole.map_or(limit, |hole| hole.start));
                match intent {
                    Intent::Write => self.mapped(range.start, end, allocated),
                    Intent::Read | Intent::Zero | Intent::Move => {
                        self.mapped(range.start, end, Allocated::Before)
                    }
                }
            }
        }
    }

    /// Past the end there is nothing to zero; for all else the host kernel has the answer: SIGBUS, or storage that a growing
    /// write(2) makes.
    fn answer_past_eof(&mut self, range: PageRange, intent: Intent) -> Iomap {
        match intent {
            Intent::Zero => extent(range, Backing::Hole),
            Intent::Read | Intent::Move => self.mapped(range.start, range.end, Allocated::Before),
            Intent::Write if self.assigned.contains(range.start) => {
                self.mapped(range.start, range.end, Allocated::Before)
            }
            Intent::Write => self.mapped(range.start, range.end, Allocated::Now),
        }
    }

    fn mapped(&mut self, start: PageIndex, end: PageIndex, allocated: Allocated) -> Iomap {
        let range = PageRange::between(start, end);
        self.assign(range);
        let mut iomap = extent(range, Backing::Mapped(Frame(start.0)));
        iomap.is_new = matches!(allocated, Allocated::Now);
        iomap
    }

    /// Where the run of pages that hold data or are assigned ends, if `start` is in one; else `start`.
    fn end_of_known(&self, start: PageIndex, limit: PageIndex) -> PageIndex {
        let mut end = start;
        while end < limit {
            let run = self.assigned.run_at(end).or_else(|| self.data.run_at(end));
            let Some(run) = run else { break };
            end = run.end;
        }
        end.min(limit)
    }

    /// Some mapping may show these pages natively from now on; they are served mapped.
    pub(crate) fn assign(&mut self, range: PageRange) {
        let was_hole = self.holes.remove(range);
        if self.assigned.insert(range) || was_hole {
            self.changes += 1;
        }
    }

    /// The same for good.
    pub(crate) fn keep(&mut self, range: PageRange) {
        self.assign(range);
        self.kept.insert(range);
    }

    pub(crate) fn is_kept(&self, range: PageRange) -> bool {
        self.kept.covers(range)
    }

    /// No mapping shows them natively any more. What they hold is unknown then. Nothing changes, and the answer is no, if some of them are kept.
    pub(crate) fn release(&mut self, range: PageRange) -> bool {
        if self.kept.pages_in(range) > 0 {
            return false;
        }
        self.holes.remove(range);
        self.data.remove(range);
        self.assigned.remove(range);
        self.changes += 1;
        true
    }

    /// The first run of pages in `range` that a survey saw data in, or passed over; they are assigned by that.
    pub(crate) fn assign_data(&mut self, range: PageRange) -> Option<PageRange> {
        let run = self.data.first_in(range)?;
        self.assign(run);
        Some(run)
    }

    /// The first run of pages in `range` that are not known to be holes; they are assigned by that.
    pub(crate) fn assign_but_holes(&mut self, range: PageRange) -> Option<PageRange> {
        let start = self.holes.run_at(range.start).map_or(range.start, |hole| hole.end);
        if start >= range.end {
            return None;
        }
        let rest = PageRange::between(start, range.end);
        let end = self.holes.first_in(rest).map_or(range.end, |hole| hole.start);
        let run = PageRange::between(start, end);
        self.assign(run);
        Some(run)
    }

    /// A proof holds from now on that nobody writes the file unseen.
    pub(crate) fn trust(&mut self) {
        if !self.is_trusted() {
            self.trusts += 1;
        }
    }

    /// It holds no more: nothing is known. What is assigned stays so.
    pub(crate) fn distrust(&mut self) {
        if self.is_trusted() {
            self.trusts += 1;
        }
        self.holes.clear();
        self.data.clear();
    }

    /// Where the run of pages ends of which something is known, if `start` is in one; else `start`.
    pub(crate) fn end_of_surveyed(&self, start: PageIndex, limit: PageIndex) -> PageIndex {
        let mut end = start;
        while end < limit {
            let holes = self.holes.run_at(end).map_or(end, |run| run.end);
            let known = self.end_of_known(holes, limit).max(holes);
            if known == end {
                break;
            }
            end = known;
        }
        end.min(limit)
    }

    /// There was no data in `run` at `moment`.
    pub(crate) fn learn_holes(&mut self, run: PageRange, moment: Moment) -> Result<(), Refused> {
        if !self.is_trusted() {
            return Err(Refused::Distrusted);
        }
        if moment != self.now() {
            return Err(Refused::Changed);
        }
        self.data.remove(run);
        self.holes.insert(run);
        let taken: Vec<PageRange> = self.assigned.iter_in(run).collect();
        for taken in taken {
            self.holes.remove(taken);
        }
        Ok(())
    }

    /// There is data in every page of `range`, or it was passed over. What is known to be a hole stays one: a survey may pass over that as well, and zeros may be
    /// shown of it, which must be taken away before anybody maps it otherwise. Nothing is learnt without trust. That it may be an old look does no harm: it is served mapped.
    pub(crate) fn learn_data(&mut self, range: PageRange) {
        if !self.is_trusted() {
            return;
        }
        let holes: Vec<PageRange> = self.holes.iter_in(range).collect();
        let mut rest = range;
        for hole in holes {
            self.data.insert(PageRange::between(rest.start, hole.start));
            rest.start = hole.end;
        }
        self.data.insert(rest);
    }

    /// The length changed from `before` to `after` pages: what was cut off is gone, what was added is a hole.
    pub(crate) fn resized(&mut self, before: PageIndex, after: PageIndex, moment: Moment) {
        let cut = PageRange::from(after);
        self.holes.remove(cut);
        self.forget_data_around(cut);
        // Refused, it is served mapped, which is right too.
        let _ = self.learn_holes(PageRange::between(before, after), moment);
    }

    /// The data in `range` went: what was passed over for its sake, before it or behind it, is worth another look.
    fn forget_data_around(&mut self, range: PageRange) {
        let before = PageIndex(range.start.0.saturating_sub(SMALLEST_HOLE)).align_down(Order::Pmd);
        // On tmpfs data that follow one another have a survey skip pages, up to the end of the 2 MiB behind them.
        let behind = range.end.plus(2 * PMD_PAGES - 1).align_down(Order::Pmd);
        self.data.remove(PageRange::between(before, behind.max(range.end)));
    }

    /// `range` was punched in a file of `eof` pages.
    pub(crate) fn punched(&mut self, range: PageRange, eof: PageIndex, moment: Moment) {
        // Of the pages at its edges some may have lost their last data: they are unknown.
        self.forget_data_around(range);
        let run = range.intersect(PageRange::between(PageIndex(0), eof));
        let _ = self.learn_holes(run, moment);
    }

    pub(crate) fn hole_pages(&self, range: PageRange) -> u64 {
        self.holes.pages_in(range)
    }

    pub(crate) fn first_hole(&self, range: PageRange) -> Option<PageRange> {
        self.holes.first_in(range)
    }

    pub(crate) fn hole_at(&self, index: PageIndex) -> Option<PageRange> {
        self.holes.run_at(index)
    }
}

enum Allocated {
    Before,
    Now,
}

const fn extent(range: PageRange, backing: Backing) -> Iomap {
    Iomap { range, backing, is_new: false, metadata_dirty: false, copy_from: None }
}
