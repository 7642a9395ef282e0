//! The 4 KiB fault: SEMANTICS 5.2, row by row.

use super::insert::frame_in;
use super::{Fault, FaultOutcome, Served};
use crate::entry::{Entry, Kind};
use crate::error::{IoError, IoErrorKind};
use crate::grab::{GrabError, Run};
use crate::lock::LockedEntry;
use crate::mapping::Mapping;
use crate::seams::{
    AddressSpace, Backing, Filesystem, Iomap, Media, MediaAccess, Pmd, PrivateCopies, World,
};
use crate::trace::{FaultResult, TraceEvent};
use crate::units::{Frame, FrameRange, Order, PageIndex, PageRange};

impl<W: World> Mapping<W> {
    #[doc(alias = "dax_iomap_pte_fault")]
    pub(super) fn pte_fault(&self, fault: &Fault<'_, W>) -> FaultOutcome {
        self.trace(|| TraceEvent::PteFault(self.place(fault)));
        let outcome = self.pte_fault_locked(fault);
        self.trace(|| TraceEvent::PteFaultDone(self.place(fault), outcome.result()));
        outcome
    }

    fn pte_fault_locked(&self, fault: &Fault<'_, W>) -> FaultOutcome {
        if fault.index >= self.pages_in_file() {
            return FaultOutcome::new(Served::BusError, Order::Pte);
        }
        let mut locked = match self.grab(fault.index, Order::Pte, fault.interrupt) {
            Ok(locked) => locked,
            Err(GrabError::Interrupted) => {
                return FaultOutcome::new(Served::Interrupted, Order::Pte);
            }
            Err(GrabError::OutOfMemory) => {
                return FaultOutcome::new(Served::OutOfMemory, Order::Pte);
            }
            // No entry is smaller than one page.
            Err(GrabError::Conflict) => return FaultOutcome::failed(broken(), Order::Pte),
        };
        // Only after the entry lock: a PMD fault may have won meanwhile (pitfall 19).
        if matches!(fault.vma.space.pmd(fault.index), Pmd::HugeReadOnly | Pmd::HugeWritable) {
            return FaultOutcome::new(Served::Installed, Order::Pte);
        }
        let unit = PageRange::unit(fault.index, Order::Pte);
        let mut run = self.run_ahead(fault, &locked, unit);
        let asked = Self::range_to_ask(fault, unit, &run);
        let answer = match self.extent_for(fault, &locked, unit, asked) {
            Ok(answer) => answer,
            Err(error) => return FaultOutcome::failed(error, Order::Pte),
        };
        let iomap = answer.iomap;
        let outcome = if iomap.range.contains(fault.index) {
            match self.leave_shared_pmd(locked, fault.index, &iomap) {
                Ok(left) => {
                    locked = left;
                    self.pte_serve(fault, &mut locked, &mut run, &iomap)
                }
                Err(outcome) => {
                    // Only who was to copy shared storage gets here, and that is what the file system said.
                    let _ = self.filesystem.iomap_end(&iomap, 0);
                    return outcome;
                }
            }
        } else {
            FaultOutcome::failed(broken(), Order::Pte)
        };
        self.end_iomap(&answer, &locked, &outcome, unit);
        outcome
    }

    /// A page of shared storage is about to get a copy of its own, which a PMD entry over that storage cannot tell of: a PTE entry
    /// takes its place. What it knew dirty is flushed, and what was mapped under it unmapped (I6).
    fn leave_shared_pmd<'m>(
        &'m self,
        locked: LockedEntry<'m, W>,
        index: PageIndex,
        iomap: &Iomap,
    ) -> Result<LockedEntry<'m, W>, FaultOutcome> {
        if iomap.copy_from.is_none() || locked.entry().order() == Order::Pte {
            return Ok(locked);
        }
        self.writeback_locked(&locked).map_err(|error| FaultOutcome::failed(error, Order::Pte))?;
        self.unmap(locked.pages(), PrivateCopies::Keep);
        let new = Entry::new(Order::Pte, Kind::Empty).locked();
        locked.downgrade(index, new).map_err(|_| FaultOutcome::new(Served::OutOfMemory, Order::Pte))
    }

    fn pte_serve(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
    ) -> FaultOutcome {
        match iomap.backing {
            Backing::Mapped(first) => {
                let frame = frame_in(iomap, first, fault.index);
                if fault.is_private_write() {
                    return self.pte_copy(fault, Some(frame));
                }
                self.pte_storage(fault, locked, run, iomap, frame)
            }
            Backing::Hole | Backing::Unwritten if fault.is_private_write() => {
                self.pte_copy(fault, None)
            }
            Backing::Hole | Backing::Unwritten if !fault.is_shared_write() => {
                self.pte_hole(fault, locked, run, iomap)
            }
            // For a store the file system must have allocated, zeroed, and answered "mapped".
            Backing::Hole | Backing::Unwritten | Backing::Other => {
                FaultOutcome::failed(broken(), Order::Pte)
            }
        }
    }

    /// A private write: the VMA gets its own copy. The entry, its marks and the file stay as they are.
    fn pte_copy(&self, fault: &Fault<'_, W>, from: Option<Frame>) -> FaultOutcome {
        if let Some(start) = from {
            let frames = FrameRange { start, count: 1 };
            if let Err(error) = self.media.direct_access(frames, MediaAccess::Ordinary) {
                return FaultOutcome::failed(error, Order::Pte);
            }
        }
        match fault.vma.space.install_copy(fault.index, from) {
            Ok(()) => FaultOutcome::new(Served::Copied, Order::Pte),
            Err(error) => FaultOutcome::not_installed(error, Order::Pte),
        }
    }

    fn pte_storage(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
        frame: Frame,
    ) -> FaultOutcome {
        let unit = PageRange::unit(fault.index, Order::Pte);
        let mut outcome = FaultOutcome::new(Served::Installed, Order::Pte);
        outcome.major = iomap.is_new;
        let frames = FrameRange { start: frame, count: 1 };
        let ready = self.media.direct_access(frames, MediaAccess::Ordinary);
        if let Err(error) = ready.and_then(|_| self.copy_shared(iomap, unit, frame)) {
            return FaultOutcome::failed(error, Order::Pte);
        }
        self.insert(locked, Kind::Mapped(frame), iomap.copy_from.is_some());
        // A PMD entry that stays in place knows the page's frame as well, and is what the mapping has (I12).
        let frame = locked.frame_of(fault.index).unwrap_or(frame);
        if Self::is_synchronous(fault, iomap) {
            outcome.served = Served::NeedsCommit { frame };
            return outcome;
        }
        let (entry, write) = (locked.entry(), fault.is_shared_write());
        self.trace(|| TraceEvent::InsertMapping { place: self.place(fault), entry, write });
        if let Err(error) = self.install_storage(fault, locked, run, (unit, frame), iomap) {
            return FaultOutcome {
                major: iomap.is_new,
                ..FaultOutcome::not_installed(error, Order::Pte)
            };
        }
        outcome
    }

    fn pte_hole(
        &self,
        fault: &Fault<'_, W>,
        locked: &mut LockedEntry<'_, W>,
        run: &mut Run<'_, W>,
        iomap: &Iomap,
    ) -> FaultOutcome {
        let unit = PageRange::unit(fault.index, Order::Pte);
        if let Some(frame) = locked.frame_of(fault.index) {
            // The file system forgot storage that an entry still stands for. Zeros here could be stale; the storage cannot.
            let installed = self.install_storage(fault, locked, run, (unit, frame), iomap);
            return installed.map_or_else(
                |error| FaultOutcome::not_installed(error, Order::Pte),
                |()| FaultOutcome::new(Served::Installed, Order::Pte),
            );
        }
        let outcome = match self.install_zeros(fault, locked, run, unit, iomap) {
            Ok(()) => FaultOutcome::new(Served::Installed, Order::Pte),
            Err(error) => FaultOutcome::not_installed(error, Order::Pte),
        };
        let result: FaultResult = outcome.result();
        self.trace(|| TraceEvent::LoadHole(self.place(fault), result));
        outcome
    }
}

/// The file system broke its contract.
fn broken() -> IoError {
    IoError::new(IoErrorKind::Io)
}
