//! The 2 MiB fault: SEMANTICS 5.3, row by row. Whatever does not fit is a fallback, never an error (pitfall 31).

use super::insert::frame_in;
use super::{Access, Fault, FaultOutcome, Served};
use crate::entry::Kind;
use crate::grab::{GrabError, Run};
use crate::lock::LockedEntry;
use crate::mapping::Mapping;
use crate::seams::{
    AddressSpace, Backing, Filesystem, Intent, Iomap, Media, MediaAccess, Pmd, World,
};
use crate::trace::TraceEvent;
use crate::units::{Frame, FrameRange, Order, PMD_BYTES, PMD_PAGES, PageIndex, PageRange};
use crate::vma::Vma;

/// Why a fault, or a range, cannot have a 2 MiB translation. In the order in which the tests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHuge {
    /// Addresses and file offsets differ modulo 2 MiB.
    Colour,
    /// A store to a private VMA copies 4 KiB.
    PrivateWrite,
    /// The 2 MiB sticks out of the VMA.
    VmaBounds,
    /// The 2 MiB reaches beyond the end of the file.
    EndOfFile,
    /// A 4 KiB entry is in it.
    SmallEntry,
    /// The file system refused.
    FilesystemError,
    /// The extent ends inside it.
    ExtentTooShort,
    /// The storage is not 2 MiB aligned, or not contiguous.
    Storage,
    /// There is no 2 MiB zero page, or the page tables are taken.
    NoTranslation,
}

impl<W: World> Mapping<W> {
    /// Why a load at `index` of `vma` would get no 2 MiB translation now; `None` if it would. A snapshot, for reports: it locks
    /// nothing for longer than a look.
    pub fn why_not_huge(&self, vma: &Vma<W>, index: PageIndex) -> Option<NotHuge> {
        let access = Access::Read;
        let fault = Fault::new(vma, index, access);
        self.pmd_fits(&fault).and_then(|()| self.extent_fits(index)).err()
    }

    fn extent_fits(&self, index: PageIndex) -> Result<(), NotHuge> {
        let unit = PageRange::unit(index, Order::Pmd);
        let first = self.with_tree(|tree| tree.first_in(unit));
        if first.is_some_and(|found| found.entry.order() == Order::Pte) {
            return Err(NotHuge::SmallEntry);
        }
        let asked = self.filesystem.iomap_begin(unit, Intent::Read);
        let iomap = asked.map_err(|_| NotHuge::FilesystemError)?;
        let _ = self.filesystem.iomap_end(&iomap, 0);
        if !iomap.range.covers(unit) {
            return Err(NotHuge::ExtentTooShort);
        }
        match iomap.backing {
            Backing::Mapped(start) if !frame_in(&iomap, start, unit.start).is_pmd_aligned() => {
                Err(NotHuge::Storage)
            }
            Backing::Other => Err(NotHuge::FilesystemError),
            Backing::Mapped(_) | Backing::Hole | Backing::Unwritten => Ok(()),
        }
    }

    #[doc(alias = "dax_iomap_pmd_fault")]
    pub(super) fn pmd_fault(&self, fault: &Fault<'_, W>) -> FaultOutcome {
        self.trace(|| TraceEvent::PmdFault(self.place(fault)));
        let outcome = match self.pmd_fault_checked(fault) {
            Ok(outcome) => outcome,
            Err(_) => FaultOutcome::new(Served::Fallback, Order::Pmd),
        };
        if outcome.served == Served::Fallback {
            // The 4 KiB fault that follows must not meet the old 2 MiB translation (row 15).
            fault.vma.space.clear_pmd(fault.index);
        }
        self.trace(|| TraceEvent::PmdFaultDone(self.place(fault), outcome.result()));
        outcome
    }

    /// Rows 2 to 5: what can be told without a lock.
    #[doc(alias = "dax_fault_check_fallback")]
    fn pmd_fits(&self, fault: &Fault<'_, W>) -> Result<(), NotHuge> {
        let unit = PageRange::unit(fault.index, Order::Pmd);
        if !fault.vma.colours_agree() {
            return Err(NotHuge::Colour);
        }
        if fault.is_private_write() {
            return Err(NotHuge::PrivateWrite);
        }
        if !fault.vma.holds_pmd(fault.index) {
            return Err(NotHuge::VmaBounds);
        }
        if unit.end > self.pages_in_file() {
            return Err(NotHuge::EndOfFile);
        }
        Ok(())
    }

    fn pmd_fault_checked(&self, fault: &Fault<'_, W>) -> Result<FaultOutcome, NotHuge> {
        let unit = PageRange::unit(fault.index, Order::Pmd);
        if unit.start >= self.pages_in_file() {
            return Ok(FaultOutcome::new(Served::BusError, Order::Pmd));
        }
        self.pmd_fits(fault)?;
        let mut locked = match self.grab(unit.start, Order::Pmd, fault.interrupt) {
            Ok(locked) => locked,
            Err(GrabError::Interrupted) => {
                return Ok(FaultOutcome::new(Served::Interrupted, Order::Pmd));
            }
            Err(GrabError::Conflict) => return Err(NotHuge::SmallEntry),
            Err(GrabError::OutOfMemory) => {
                return Ok(FaultOutcome::new(Served::OutOfMemory, Order::Pmd));
            }
        };
        // Only after the entry lock: a 4 KiB fault may have put a table there meanwhile. Neither an error nor a fallback:
        // the access is tried again from the start (pitfall 19).
        if fault.vma.space.pmd(fault.index) == Pmd::Table {
            return Ok(FaultOutcome::new(Served::Retry, Order::Pmd));
        }
        let mut run = self.run_ahead(fault, &locked, unit);
        let asked = Self::range_to_ask(fault, unit, &run);
        let answer =
            self.extent_for(fault, &locked, unit, asked).map_err(|_| NotHuge::FilesystemError)?;
        let served = self.pmd_serve(fault, &mut locked, &mut run, &answer.iomap);
        let outcome = served.unwrap_or_else(|_| FaultOutcome::new(Served::Fallback, Order::Pmd));
        self.end_iomap(&answer, &locked, &outcome, unit);
        served
    }

    fn pmd_serve(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
    ) -> Result<FaultOutcome, NotHuge> {
        let unit = locked.pages();
        if !iomap.range.covers(unit) {
            return Err(NotHuge::ExtentTooShort);
        }
        match iomap.backing {
            Backing::Mapped(first) => {
                let frame = frame_in(iomap, first, unit.start);
                self.pmd_storage(fault, locked, run, iomap, frame)
            }
            Backing::Hole | Backing::Unwritten if !fault.is_shared_write() => {
                self.pmd_hole(fault, locked, run, iomap)
            }
            Backing::Hole | Backing::Unwritten | Backing::Other => Err(NotHuge::FilesystemError),
        }
    }

    fn pmd_storage(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
        frame: Frame,
    ) -> Result<FaultOutcome, NotHuge> {
        let unit = locked.pages();
        let frames = FrameRange { start: frame, count: PMD_PAGES };
        let granted = self.media.direct_access(frames, MediaAccess::Ordinary);
        if !frame.is_pmd_aligned() || granted.map_or(true, |granted| granted < PMD_PAGES) {
            return Err(NotHuge::Storage);
        }
        self.copy_shared(iomap, unit, frame).map_err(|_| NotHuge::Storage)?;
        self.insert(locked, Kind::Mapped(frame), iomap.copy_from.is_some());
        let frame = locked.frame_of(unit.start).unwrap_or(frame);
        if Self::is_synchronous(fault, iomap) {
            return Ok(FaultOutcome::new(Served::NeedsCommit { frame }, Order::Pmd));
        }
        let (entry, write) = (locked.entry(), fault.is_shared_write());
        self.trace(|| TraceEvent::PmdInsertMapping {
            place: self.place(fault),
            length: PMD_BYTES,
            frame: frame.0,
            entry,
            write,
        });
        Ok(match self.install_storage(fault, locked, run, (unit, frame), iomap) {
            Ok(()) => FaultOutcome::new(Served::Installed, Order::Pmd),
            Err(error) => FaultOutcome::not_installed(error, Order::Pmd),
        })
    }

    fn pmd_hole(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
    ) -> Result<FaultOutcome, NotHuge> {
        let unit = locked.pages();
        if let Some(frame) = locked.frame_of(unit.start) {
            // As with 4 KiB: storage that an entry stands for is never hidden by zeros.
            return self.pmd_storage(fault, locked, run, iomap, frame);
        }
        let installed = self.install_zeros(fault, locked, run, unit, iomap);
        let entry = locked.entry();
        match installed {
            Ok(()) => {
                self.trace(|| TraceEvent::PmdLoadHole { place: self.place(fault), entry });
                Ok(FaultOutcome::new(Served::Installed, Order::Pmd))
            }
            Err(error) => {
                let entry = Some(entry);
                self.trace(|| TraceEvent::PmdLoadHoleFallback { place: self.place(fault), entry });
                match error {
                    crate::InstallError::OutOfMemory => {
                        Ok(FaultOutcome::new(Served::OutOfMemory, Order::Pmd))
                    }
                    crate::InstallError::NoHugeZero
                    | crate::InstallError::LevelTaken
                    | crate::InstallError::Media(_) => Err(NotHuge::NoTranslation),
                }
            }
        }
    }
}
