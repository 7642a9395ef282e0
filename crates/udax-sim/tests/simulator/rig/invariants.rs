//! The invariants I1 to I12 of SEMANTICS 1.4, as far as a moment without any call under way shows them.

use std::sync::Arc;
use udax_core::{
    EntryReport, Filesystem as _, FrameRange, Kind, Mapping, Order, PAGE_BYTES, PageIndex,
    PageRange, Sharing, World,
};
use udax_sim::{SimFile, SimMedia, SimVma, Target, Translation};

/// One file and what maps it, at a moment without any call of the engine under way.
pub struct Look<'r, W: World> {
    pub mapping: &'r Mapping<W>,
    pub media: &'r SimMedia,
    pub file: &'r SimFile,
    /// Its VMAs.
    pub vmas: Vec<(Arc<SimVma>, Sharing)>,
    /// No other file's entries are on the media.
    pub alone: bool,
}

impl<W: World> Look<'_, W> {
    /// What is broken, each with its number.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.check_entries(&mut broken);
        self.check_marks(&mut broken);
        self.check_owners(&mut broken);
        for (sim, sharing) in &self.vmas {
            for translation in sim.translations() {
                self.check_translation(*sharing, &translation, &mut broken);
            }
        }
        broken
    }

    fn entries(&self) -> Vec<EntryReport> {
        self.mapping.entries_in(PageRange::from(PageIndex(0)))
    }

    /// The first byte of a page in the file.
    fn byte(&self, index: u64) -> u8 {
        let Some(frame) = self.file.frame_of(PageIndex(index)) else { return 0 };
        let mut byte = [0];
        self.media.peek(frame, 0, &mut byte);
        byte[0]
    }

    /// I1: disjoint, aligned. I2 and I10: nobody holds or waits for a lock.
    fn check_entries(&self, broken: &mut Vec<String>) {
        let mut end = PageIndex(0);
        let (mut count, mut owned) = (0, 0);
        for report in self.entries() {
            let EntryReport { start, entry, .. } = report;
            if start < end {
                broken.push(format!("I1: {report:?} overlaps the entry before it"));
            }
            if start != start.align_down(entry.order()) {
                broken.push(format!("I1: {report:?} is not aligned"));
            }
            if entry.is_locked() {
                broken.push(format!("I2: {report:?} is locked though nobody is at work"));
            }
            if self.mapping.sleepers(start) > 0 {
                broken.push(format!("I10: somebody sleeps for {report:?}"));
            }
            end = start.plus(entry.order().pages());
            count += 1;
            owned += if entry.is_mapped() { entry.order().pages() } else { 0 };
        }
        if count != self.mapping.entries() {
            broken
                .push(format!("I1: {count} entries, the index counts {}", self.mapping.entries()));
        }
        if self.alone && owned != self.media.owned_frames() {
            let noted = self.media.owned_frames();
            broken.push(format!("I11: {owned} frames have entries, {noted} are noted as owned"));
        }
    }

    /// I5: only storage is dirty. I8: only dirty storage is unflushed.
    fn check_marks(&self, broken: &mut Vec<String>) {
        for report in self.entries() {
            match report.entry.kind() {
                Kind::Empty | Kind::Zero if report.dirty || report.to_write => {
                    broken.push(format!("I5: {report:?} has a mark"));
                }
                Kind::Mapped(start) if !report.dirty => {
                    let frames = FrameRange { start, count: report.entry.order().pages() };
                    if self.media.unflushed(frames) {
                        broken.push(format!("I8: {report:?} is clean, its storage is unflushed"));
                    }
                }
                Kind::Empty | Kind::Zero | Kind::Mapped(_) => {}
            }
        }
        // Behind the end a failed truncation may have left what is zeroed before anybody sees it.
        let end = self.file.size_bytes().div_ceil(PAGE_BYTES);
        for extent in self.file.extents() {
            for index in extent.range.start.0..extent.range.end.0.min(end) {
                let Some(start) = self.file.frame_of(PageIndex(index)) else { continue };
                let page = PageRange::new(PageIndex(index), 1);
                let covered = !self.mapping.entries_in(page).is_empty();
                if !covered && self.media.unflushed(FrameRange { start, count: 1 }) {
                    broken.push(format!(
                        "I8: page {index:#x} has no entry, its storage is unflushed"
                    ));
                }
            }
        }
    }

    /// I11: each frame of a mapped entry is noted as its page's. And it is the file's storage there.
    fn check_owners(&self, broken: &mut Vec<String>) {
        for report in self.entries() {
            let Kind::Mapped(first) = report.entry.kind() else { continue };
            for number in 0..report.entry.order().pages() {
                let (index, frame) = (report.start.plus(number), first.plus(number));
                let owner = self.media.owner(frame).map(|owner| owner.index);
                if self.alone && owner != Some(index) {
                    broken.push(format!("I11: {frame:?} of page {index} is noted as {owner:?}'s"));
                }
                if self.file.frame_of(index) != Some(frame) {
                    let is = self.file.frame_of(index);
                    broken.push(format!("I3: {report:?} but the file has {is:?} at page {index}"));
                }
            }
        }
    }

    fn check_translation(
        &self,
        sharing: Sharing,
        translation: &Translation,
        broken: &mut Vec<String>,
    ) {
        if translation.target == Target::PrivateCopy {
            if sharing == Sharing::Shared {
                broken.push(format!("a shared VMA has a private copy: {translation:?}"));
            }
            return;
        }
        let Some(index) = translation.page else { return };
        let unit = PageRange::new(index, translation.order.pages());
        let covering = self.mapping.entries_in(unit);
        let Some(report) = covering.first().filter(|_| {
            covering.iter().map(|one| one.entry.order().pages()).sum::<u64>() >= unit.len()
        }) else {
            broken.push(format!("I6: no entry covers all of {translation:?}"));
            return;
        };
        if translation.order == Order::Pmd && report.entry.order() == Order::Pte {
            broken.push(format!("I6: {report:?} under {translation:?}"));
        }
        let may_store = translation.writable || translation.dirty;
        match (translation.target, report.entry.frame()) {
            (Target::ZeroPage, _) => {
                if !report.entry.is_zero() {
                    broken.push(format!("I9: {translation:?} under {report:?}"));
                }
                if may_store {
                    broken.push(format!("I9: {translation:?} lets stores through"));
                }
                let stale = (unit.start.0..unit.end.0).find(|i| self.byte(*i) != 0);
                if let Some(stale) = stale {
                    broken.push(format!("I9: {translation:?} hides the data of page {stale:#x}"));
                }
            }
            (Target::Storage(frame), Some(first)) => {
                if frame != first.plus(index.0 - report.start.0) {
                    broken.push(format!("I3: {translation:?} under {report:?}"));
                }
                if may_store && sharing == Sharing::Private {
                    broken.push(format!("a private VMA may store to storage: {translation:?}"));
                }
                if may_store && !report.dirty {
                    broken.push(format!("I7: {translation:?} under the clean {report:?}"));
                }
            }
            (Target::Storage(_), None) => {
                broken.push(format!("I6: {translation:?} under {report:?}"));
            }
            (Target::PrivateCopy, _) => {}
        }
    }
}
