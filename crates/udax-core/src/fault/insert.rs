//! Putting what the file system answered into the entry, and the entry into the page tables (SEMANTICS 4).

use super::{Fault, FaultOutcome, Served};
use crate::entry::Kind;
use crate::error::{InstallError, IoError, IoErrorKind};
use crate::index::Mark;
use crate::lock::LockedEntry;
use crate::mapping::Mapping;
use crate::seams::{
    AddressSpace, Backing, Filesystem, Intent, Iomap, Media, MediaAccess, PrivateCopies, Rights,
    World,
};
use crate::units::{Frame, FrameRange, Order, PAGE_BYTES, PageIndex, PageRange};
use crate::vma::Durability;

/// [`PAGE_BYTES`] for buffers.
const PAGE_USIZE: usize = 1 << crate::units::PAGE_SHIFT;

/// The frame of page `index` of a mapped extent.
pub(super) fn frame_in(iomap: &Iomap, first: Frame, index: PageIndex) -> Frame {
    first.plus(index.0 - iomap.range.start.0)
}

impl<W: World> Mapping<W> {
    /// Turns the locked entry into `kind`: zero and empty entries change, mapped ones stay (I3) unless the extent is being copied
    /// (`copied`). A zero page that goes is unmapped everywhere first (I9).
    #[doc(alias = "dax_insert_entry")]
    pub(super) fn insert(&self, locked: &mut LockedEntry<'_, W>, kind: Kind, copied: bool) {
        let old = locked.entry();
        let was_shown = old.is_zero() || (copied && old.is_mapped());
        if was_shown && kind != Kind::Zero {
            // Before the swap: the entry is locked, so nobody can fault the old page in again in between.
            self.unmap(locked.pages(), PrivateCopies::Keep);
        }
        if !old.is_mapped() || copied {
            locked.set_kind(kind);
        }
    }

    /// Marks a locked, mapped entry as one that a sync must flush.
    pub(super) fn mark_dirty(&self, locked: &LockedEntry<'_, W>) {
        let start = locked.start();
        locked.with_tree(|tree| tree.set_mark(start, Mark::Dirty));
    }

    /// Whether a store has to wait until metadata is durable.
    pub(super) fn is_synchronous(fault: &Fault<'_, W>, iomap: &Iomap) -> bool {
        fault.is_shared_write()
            && fault.vma.durability == Durability::MetadataFirst
            && iomap.metadata_dirty
    }

    /// What to ask the file system: the unit; for loads also what the caller wants ahead of it.
    pub(super) fn range_to_ask(fault: &Fault<'_, W>, unit: PageRange) -> PageRange {
        let ahead = if fault.is_shared_write() { 0 } else { fault.ahead };
        PageRange::between(unit.start, unit.end.plus(ahead))
    }

    pub(super) fn intent(fault: &Fault<'_, W>) -> Intent {
        if fault.is_shared_write() { Intent::Write } else { Intent::Read }
    }

    /// Closes the file system's operation. Its error is ignored: others may already use the translation (pitfall 86).
    pub(super) fn end_iomap(&self, iomap: &Iomap, outcome: &FaultOutcome, pages: u64) {
        let unused = outcome.is_error() || outcome.served == Served::Fallback;
        let _ = self.filesystem.iomap_end(iomap, if unused { 0 } else { pages });
    }

    /// The pages a run may reach to: wanted, in the extent, in the VMA, in the file.
    fn run_end(&self, fault: &Fault<'_, W>, unit: PageRange, iomap: &Iomap) -> PageIndex {
        let wanted = unit.end.plus(fault.ahead);
        let end = wanted.min(iomap.range.end).min(fault.vma.pages.end).min(self.pages_in_file());
        if unit.len() == 1 && fault.vma.colours_agree() {
            // Small entries stay in their 2 MiB, so that the next one can still be had whole.
            return end.min(unit.start.align_down(Order::Pmd).plus(Order::Pmd.pages()));
        }
        end
    }

    /// Shows the zero page at the unit, and at as much of the hole behind it as was wanted and is free.
    pub(super) fn install_zeros(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        unit: PageRange,
        iomap: &Iomap,
    ) -> Result<(), InstallError> {
        let order = if unit.len() == 1 { Order::Pte } else { Order::Pmd };
        self.insert(locked, Kind::Zero, false);
        let end = self.run_end(fault, unit, iomap);
        let run = self.grab_ahead(unit.end, end, order, |_| Kind::Zero);
        if let Some(last) = run.last() {
            let whole = PageRange::between(unit.start, last.pages().end);
            if fault.vma.space.install_zeros(whole, order).is_ok() {
                return Ok(());
            }
            // The entries ahead stay as they are: an entry without a translation harms nobody. The unit alone may still do.
        }
        fault.vma.space.install_zeros(unit, order)
    }

    /// Maps storage at the unit, and at as much of the extent behind it as was wanted and is free. The entry is marked dirty
    /// for a store, and wherever the space granted the right to store.
    pub(super) fn install_storage(
        &self,
        fault: &Fault<'_, W>,
        locked: &LockedEntry<'_, W>,
        unit: PageRange,
        frame: Frame,
        iomap: &Iomap,
    ) -> Result<(), InstallError> {
        let order = if unit.len() == 1 { Order::Pte } else { Order::Pmd };
        let rights = if fault.is_shared_write() { Rights::WritableDirty } else { Rights::ReadOnly };
        if rights == Rights::WritableDirty {
            // Before the translation is writable (I7).
            self.mark_dirty(locked);
        }
        // Behind a PMD entry that a small fault works under there is nothing to take ahead.
        let end = if locked.entry().order() == order {
            self.run_end(fault, unit, iomap).min(self.contiguous_end(unit, frame, fault.ahead))
        } else {
            unit.end
        };
        let run = self.grab_ahead(unit.end, end, order, |index| {
            Kind::Mapped(frame.plus(index.0 - unit.start.0))
        });
        let whole =
            PageRange::between(unit.start, run.last().map_or(unit.end, |last| last.pages().end));
        let granted = fault.vma.space.install_storage(whole, frame, order, rights)?;
        if granted == Rights::WritableDirty {
            self.mark_dirty(locked);
            run.iter().for_each(|ahead| self.mark_dirty(ahead));
        }
        Ok(())
    }

    /// How far storage can be accessed behind the unit; the unit itself has been checked.
    fn contiguous_end(&self, unit: PageRange, frame: Frame, ahead: u64) -> PageIndex {
        if ahead == 0 {
            return unit.end;
        }
        let frames = FrameRange { start: frame, count: unit.len() + ahead };
        let granted = self.media.direct_access(frames, MediaAccess::Ordinary).unwrap_or(0);
        unit.start.plus(granted.max(unit.len()))
    }

    /// Fills storage that replaces shared storage with what was there (pitfalls 39, 40): whole pages, before anybody sees them.
    pub(crate) fn copy_shared(
        &self,
        iomap: &Iomap,
        unit: PageRange,
        to: Frame,
    ) -> Result<(), IoError> {
        let Some(source) = iomap.copy_from else { return Ok(()) };
        let skipped = unit.start.0 - iomap.range.start.0;
        for page in 0..unit.len() {
            let into = to.plus(page);
            match source {
                Backing::Mapped(first) => {
                    let mut bytes = alloc::vec![0; PAGE_USIZE];
                    let from = first.plus(skipped + page);
                    let loaded = self.media.load(from, 0, &mut bytes)?;
                    let stored = self.media.store(into, 0, &bytes)?;
                    if loaded != bytes.len() || stored != bytes.len() {
                        return Err(IoError::new(IoErrorKind::Io));
                    }
                }
                Backing::Hole | Backing::Unwritten => self.media.zero(into, 0, PAGE_BYTES)?,
                Backing::Other => return Err(IoError::new(IoErrorKind::Io)),
            }
        }
        Ok(())
    }
}
