//! Putting what the file system answered into the entry, and the entry into the page tables (SEMANTICS 4).

use super::Fault;
use crate::entry::Kind;
use crate::error::{InstallError, IoError, IoErrorKind};
use crate::grab::Run;
use crate::index::Mark;
use crate::lock::LockedEntry;
use crate::mapping::Mapping;
use crate::seams::{
    AddressSpace, Backing, Iomap, Media, MediaAccess, PrivateCopies, Rights, World,
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

    /// The entries ahead that the caller wants filled too, as far as VMA and file go. None behind a PMD entry that a small fault
    /// works under, as there is nothing to take, and none for a private copy.
    pub(super) fn run_ahead<'m>(
        &'m self,
        fault: &Fault<'_, W>,
        locked: &LockedEntry<'m, W>,
        unit: PageRange,
    ) -> Run<'m, W> {
        let order = if unit.len() == 1 { Order::Pte } else { Order::Pmd };
        let wanted =
            if locked.pages() == unit && !fault.is_private_write() { fault.ahead } else { 0 };
        if wanted == 0 {
            return self.grab_ahead(unit.end, unit.end, order);
        }
        let mut end = unit.end.plus(wanted).min(fault.vma.pages.end).min(self.pages_in_file());
        if order == Order::Pte && fault.vma.colours_agree() {
            // Small entries stay in their 2 MiB, so that the next one can still be had whole.
            end = end.min(unit.start.align_down(Order::Pmd).plus(Order::Pmd.pages()));
        }
        self.grab_ahead(unit.end, end, order)
    }

    /// What to ask the file system: the unit; for loads also the run behind it. A store allocates no more than it needs.
    pub(super) fn range_to_ask(
        fault: &Fault<'_, W>,
        unit: PageRange,
        run: &Run<'_, W>,
    ) -> PageRange {
        if fault.is_shared_write() { unit } else { run.with(unit) }
    }

    /// Shows the zero page at the unit, and at as much of the hole behind it as was wanted and is free.
    pub(super) fn install_zeros(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        unit: PageRange,
        iomap: &Iomap,
    ) -> Result<(), InstallError> {
        let order = if unit.len() == 1 { Order::Pte } else { Order::Pmd };
        self.insert(locked, Kind::Zero, false);
        run.fill(iomap.range.end, |_| Kind::Zero);
        if !run.is_empty() && fault.vma.space.install_zeros(run.with(unit), order).is_ok() {
            return Ok(());
        }
        // If the whole was too much: the entries ahead stay as they are, since one without a translation harms nobody.
        fault.vma.space.install_zeros(unit, order)
    }

    /// Maps storage at the unit, and at as much of the extent behind it as was wanted and is free. The entry is marked dirty
    /// for a store, and wherever the space granted the right to store.
    pub(super) fn install_storage(
        &self,
        fault: &Fault<'_, W>,
        locked: &LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        (unit, frame): (PageRange, Frame),
        iomap: &Iomap,
    ) -> Result<(), InstallError> {
        let order = if unit.len() == 1 { Order::Pte } else { Order::Pmd };
        let rights = if fault.is_shared_write() { Rights::WritableDirty } else { Rights::ReadOnly };
        if rights == Rights::WritableDirty {
            // Before the translation is writable (I7).
            self.mark_dirty(locked);
        }
        let end = if run.is_empty() { unit.end } else { self.storage_end(unit, run, frame, iomap) };
        run.fill(end, |index| Kind::Mapped(frame.plus(index.0 - unit.start.0)));
        if rights == Rights::WritableDirty {
            // Before, as above: an installation that fails half-way has made some of them writable.
            run.iter().for_each(|ahead| self.mark_dirty(ahead));
        }
        let space = &fault.vma.space;
        let granted = match space.install_storage(run.with(unit), frame, order, rights) {
            // The whole was too much; the unit alone may still do.
            Err(_) if !run.is_empty() => space.install_storage(unit, frame, order, rights)?,
            one => one?,
        };
        if granted == Rights::WritableDirty {
            self.mark_dirty(locked);
            run.iter().for_each(|ahead| self.mark_dirty(ahead));
        }
        Ok(())
    }

    /// How far storage may be mapped ahead: as far as the extent says that it lies behind `frame`, and can be accessed. The
    /// unit itself has been checked.
    fn storage_end(
        &self,
        unit: PageRange,
        run: &Run<'_, W>,
        frame: Frame,
        iomap: &Iomap,
    ) -> PageIndex {
        let end = run.with(unit).end.min(iomap.range.end);
        // Not behind storage of which only the unit has been copied, nor where the entry stands for other storage than the extent.
        let follows = iomap.copy_from.is_none() && iomap.frame_at(unit.start) == Some(frame);
        if !follows || end <= unit.end {
            return unit.end;
        }
        let frames = FrameRange { start: frame, count: end.0 - unit.start.0 };
        let granted = self.media.direct_access(frames, MediaAccess::Ordinary).unwrap_or(0);
        end.min(unit.start.plus(granted.max(unit.len())))
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
                Backing::Mapped(first) => self.copy_frame(first.plus(skipped + page), into)?,
                Backing::Hole | Backing::Unwritten => self.media.zero(into, 0, PAGE_BYTES)?,
                Backing::Other => return Err(IoError::new(IoErrorKind::Io)),
            }
        }
        Ok(())
    }

    /// Copies one frame, all of it, durably.
    pub(crate) fn copy_frame(&self, from: Frame, into: Frame) -> Result<(), IoError> {
        let mut bytes = alloc::vec![0; PAGE_USIZE];
        let loaded = self.media.load(from, 0, &mut bytes)?;
        let stored = self.media.store(into, 0, &bytes)?;
        if loaded != bytes.len() || stored != bytes.len() {
            return Err(IoError::new(IoErrorKind::Io));
        }
        Ok(())
    }
}
