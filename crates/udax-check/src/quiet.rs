//! What must be so once every thread has ended: the invariants of SEMANTICS 1.4, as far as this world has what they speak of.

use crate::disk::{Page, TRACKED};
use crate::platform::Checker;
use crate::rig::Rig;
use crate::tables::{Level, Target, Translation};
use udax_core::{EntryReport, Kind, Order, PMD_PAGES, PageIndex, PageRange};

/// One unit at rest.
struct Quiet<'a> {
    entries: &'a [EntryReport],
    pages: [Page; TRACKED],
    start: PageIndex,
}

impl<P: Checker> Rig<P> {
    /// Asserts the invariants. No call may be under way.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_quiet(&self) {
        let entries = self.mapping.entries_in(PageRange::from(PageIndex(0)));
        self.check_entries(&entries);
        for number in 0..self.disk.units() {
            let quiet = Quiet {
                entries: &entries,
                pages: self.disk.unit(number).pages,
                start: PageIndex(number * PMD_PAGES),
            };
            quiet.check_pages();
            for vma in self.vmas() {
                quiet.check_level(
                    vma.space.0.levels().of_unit(usize::try_from(number).unwrap_or(usize::MAX)),
                );
            }
        }
    }

    /// I1, I2, I5, I10.
    fn check_entries(&self, entries: &[EntryReport]) {
        let mut end = PageIndex(0);
        for report in entries {
            let EntryReport { start, entry, dirty, to_write } = *report;
            assert!(
                start >= end && start == start.align_down(entry.order()),
                "I1: {report:?} overlaps or is not aligned"
            );
            assert!(!entry.is_locked(), "I2: {report:?} is locked, and nobody is at work");
            assert!(entry.is_mapped() || !(dirty || to_write), "I5: {report:?} has a mark");
            assert!(!to_write, "{report:?} is still chosen by a sync that has ended");
            end = start.plus(entry.order().pages());
        }
        for index in (0..TRACKED as u64).map(PageIndex) {
            assert_eq!(self.mapping.sleepers(index), 0, "I10: somebody sleeps for {index}");
        }
    }
}

impl Quiet<'_> {
    fn entry(&self, page: usize) -> Option<&EntryReport> {
        let index = self.start.plus(page as u64);
        self.entries.iter().find(|report| {
            PageRange::new(report.start, report.entry.order().pages()).contains(index)
        })
    }

    /// I3: entries know the file's storage. I8: what is not durable has a mark.
    fn check_pages(&self) {
        for (number, page) in self.pages.iter().enumerate() {
            let entry = self.entry(number);
            if let Some(report) = entry
                && let Kind::Mapped(first) = report.entry.kind()
            {
                let frame = first.plus(self.start.0 + number as u64 - report.start.0);
                assert_eq!(page.frame, Some(frame), "I3: {report:?} at page {number}");
            }
            if page.stores > page.durable {
                assert!(
                    entry.is_some_and(|report| report.dirty),
                    "I8: page {number} has {page:?} under {entry:?}"
                );
            }
        }
    }

    fn check_level(&self, level: &Level) {
        for (number, page) in self.pages.iter().enumerate() {
            let Some(translation) = level.translation(number) else { continue };
            let Some(report) = self.entry(number) else {
                panic!("I6: {translation:?} of page {number} without an entry")
            };
            if matches!(level, Level::Huge(_)) {
                assert_eq!(
                    report.entry.order(),
                    Order::Pmd,
                    "I6: {report:?} under 2 MiB {translation:?}"
                );
            }
            check_translation(translation, report, page);
        }
    }
}

/// I6, I7, I9.
fn check_translation(translation: Translation, report: &EntryReport, page: &Page) {
    match translation.target {
        Target::Zeros => {
            assert!(report.entry.is_zero(), "I9: zeros are mapped under {report:?}");
            assert!(!translation.writable, "I9: zeros can be stored to under {report:?}");
            assert!(!page.published, "I9: zeros are mapped, and the file has {page:?}");
        }
        Target::Storage(frame) => {
            assert_eq!(page.frame, Some(frame), "I3: {translation:?} under {report:?}");
            assert!(report.entry.is_mapped(), "I6: {translation:?} under {report:?}");
            assert!(report.dirty || !translation.writable, "I7: {translation:?} under {report:?}");
        }
    }
}
