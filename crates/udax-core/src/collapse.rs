//! Making one 2 MiB entry of the small ones, where faults alone never would (I4 speaks of faults; Linux has no such step).
//!
//! Glossary: a *unit* is an aligned 2 MiB of the file; *in place* means that its storage lies so that one entry can name it; *moving* means that the
//! file system gives it such storage first.

use crate::entry::{Entry, Kind};
use crate::error::{IoError, IoErrorKind};
use crate::index::Found;
use crate::lock::LockedEntry;
use crate::mapping::{Mapping, Tree};
use crate::seams::{
    AddressSpace, Backing, Filesystem, Intent, Media, MediaAccess, PrivateCopies, ShortLock, World,
};
use crate::units::{Frame, FrameRange, Order, PMD_PAGES, PageIndex, PageRange};
use alloc::vec::Vec;
use core::fmt;

/// What a collapse came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapsed {
    /// One entry stands there now; its storage, or the hole, is where it was.
    InPlace,
    /// One entry stands there now, for storage that the pages were moved to.
    Moved,
    /// One entry stood there already.
    Already,
}

/// Why small entries stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCollapsed {
    /// There is no entry in the unit: the next fault makes a 2 MiB one by itself, if that can be.
    NoEntry,
    /// The unit reaches beyond the end of the file.
    EndOfFile,
    /// Part of the unit is a hole, or not written: filling that would take storage that nobody asked for.
    Mixed,
    /// The media grants less than 2 MiB at a time.
    Pieces,
    /// A device uses this storage, so it cannot be moved.
    Pinned(Frame),
    /// The index could not grow.
    OutOfMemory,
    /// The file system or the media failed, or cannot move storage.
    Failed(IoError),
}

impl fmt::Display for NotCollapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntry => f.write_str("there is no entry in the 2 MiB"),
            Self::EndOfFile => f.write_str("the 2 MiB reach beyond the end of the file"),
            Self::Mixed => f.write_str("part of the 2 MiB has no written storage"),
            Self::Pieces => f.write_str("the media grants less than 2 MiB at a time"),
            Self::Pinned(frame) => write!(f, "a device uses frame {:#x}", frame.0),
            Self::OutOfMemory => f.write_str("out of memory for the index"),
            Self::Failed(cause) => write!(f, "the storage could not be moved: {cause}"),
        }
    }
}

impl core::error::Error for NotCollapsed {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Failed(cause) => Some(cause),
            Self::NoEntry
            | Self::EndOfFile
            | Self::Mixed
            | Self::Pieces
            | Self::Pinned(_)
            | Self::OutOfMemory => None,
        }
    }
}

impl From<IoError> for NotCollapsed {
    fn from(error: IoError) -> Self {
        Self::Failed(error)
    }
}

/// How the storage of a unit lies.
enum Layout {
    /// One entry can name it.
    Whole(Kind),
    /// It is all there, in these runs.
    Scattered(Vec<FrameRange>),
}

impl<W: World> Mapping<W> {
    /// Puts one 2 MiB entry in the place of the small ones around `index`, so that 2 MiB translations can be again. Where the storage
    /// of the unit is all there but not in one aligned piece, it is moved. Bytes, dirty marks and private copies stay as they are; what was mapped is
    /// unmapped, and comes back by faults.
    ///
    /// The caller excludes reads, writes and changes of the length (the inode lock, exclusively): they know storage that may be given back. Waits for the
    /// faults under way and for entry locks. When it fails, everything is as before, but flushed, perhaps, and unmapped.
    ///
    /// # Errors
    /// Why there is no 2 MiB entry; see [`NotCollapsed`].
    #[doc(alias = "khugepaged")]
    #[doc(alias = "MADV_COLLAPSE")]
    pub fn collapse(&self, index: PageIndex) -> Result<Collapsed, NotCollapsed> {
        let unit = PageRange::unit(index, Order::Pmd);
        let _no_faults = self.fault_lock.exclusive();
        if unit.end > self.pages_in_file() {
            return Err(NotCollapsed::EndOfFile);
        }
        match self.with_tree(|tree| tree.first_in(unit)) {
            None => return Err(NotCollapsed::NoEntry),
            Some(found) if found.entry.order() == Order::Pmd => return Ok(Collapsed::Already),
            Some(_) => {}
        }
        let collapsed = match self.layout_of(unit)? {
            Layout::Whole(kind) => {
                self.unmap(unit, PrivateCopies::Keep);
                drop(self.exchange_unit(unit, kind)?);
                Collapsed::InPlace
            }
            Layout::Scattered(runs) => {
                self.move_unit(unit, &runs)?;
                Collapsed::Moved
            }
        };
        // With no fault under way nobody is about to use the empty tables.
        self.each_vma(unit, |vma, part| {
            if part == unit && vma.colours_agree() {
                vma.space.clear_pmd(part.start);
            }
        });
        Ok(collapsed)
    }

    /// Collapses every unit of `range` that is full of small entries; how many were. Those that cannot be are left.
    ///
    /// As [`collapse`](Self::collapse) for locks and waits, unit by unit.
    pub fn collapse_full(&self, range: PageRange) -> u64 {
        let mut collapsed = 0;
        let mut next = range.start;
        loop {
            let rest = PageRange::between(next, range.end);
            let Some(found) = self.with_tree(|tree| tree.first_in(rest)) else { return collapsed };
            let unit = PageRange::unit(found.start, Order::Pmd);
            let is_full = self.with_tree(|tree| {
                let is_small = |found: &Found| found.entry.order() == Order::Pte;
                tree.iter_range(unit).filter(is_small).count() as u64 == PMD_PAGES
            });
            if is_full
                && matches!(self.collapse(unit.start), Ok(Collapsed::InPlace | Collapsed::Moved))
            {
                collapsed += 1;
            }
            next = unit.end;
        }
    }

    /// Asks the file system for all of the unit.
    fn layout_of(&self, unit: PageRange) -> Result<Layout, NotCollapsed> {
        let mut runs: Vec<FrameRange> = Vec::new();
        let mut rest = unit;
        while !rest.is_empty() {
            let iomap = self.begin(rest, Intent::Read)?;
            self.filesystem.iomap_end(&iomap, 0)?;
            let part = rest.intersect(iomap.range);
            match iomap.backing {
                Backing::Mapped(first) => {
                    let start = first.plus(part.start.0 - iomap.range.start.0);
                    runs.try_reserve(1).map_err(|_| NotCollapsed::OutOfMemory)?;
                    runs.push(FrameRange { start, count: part.len() });
                }
                Backing::Hole | Backing::Unwritten if part == unit => {
                    return Ok(Layout::Whole(Kind::Zero));
                }
                Backing::Hole | Backing::Unwritten | Backing::Other => {
                    return Err(NotCollapsed::Mixed);
                }
            }
            rest = PageRange::between(part.end, unit.end);
        }
        let start = runs.first().map_or(Frame(0), |run| run.start);
        let in_one = runs
            .iter()
            .try_fold(start, |next, run| (run.start == next).then(|| next.plus(run.count)));
        if in_one.is_some() && start.is_pmd_aligned() {
            self.check_granted(start)?;
            return Ok(Layout::Whole(Kind::Mapped(start)));
        }
        Ok(Layout::Scattered(runs))
    }

    /// What the media grants in pieces can only be flushed, and mapped, in pieces.
    fn check_granted(&self, start: Frame) -> Result<(), NotCollapsed> {
        let frames = FrameRange { start, count: PMD_PAGES };
        let granted = self.media.direct_access(frames, MediaAccess::Ordinary)?;
        if granted < PMD_PAGES { Err(NotCollapsed::Pieces) } else { Ok(()) }
    }

    /// Moves the pages to storage of one piece. Flushed and unmapped first: from then on nobody stores, and nothing that only a cache knows
    /// stays behind. The entry is exchanged before the file system is, and nobody sees it but as locked until that is done.
    fn move_unit(&self, unit: PageRange, runs: &[FrameRange]) -> Result<(), NotCollapsed> {
        self.unmap(unit, PrivateCopies::Keep);
        self.writeback(unit)?;
        if let Some(frame) = self.first_pinned(unit) {
            return Err(NotCollapsed::Pinned(frame));
        }
        let iomap = self.filesystem.iomap_begin(unit, Intent::Move)?;
        let exchanged = match iomap.backing {
            Backing::Mapped(first) if iomap.range == unit && first.is_pmd_aligned() => self
                .check_granted(first)
                .and_then(|()| self.copy_runs(runs, first))
                .and_then(|()| self.exchange_unit(unit, Kind::Mapped(first))),
            Backing::Mapped(_) | Backing::Hole | Backing::Unwritten | Backing::Other => {
                Err(NotCollapsed::Failed(IoError::new(IoErrorKind::Io)))
            }
        };
        match exchanged {
            Ok(locked) => {
                if let Err(error) = self.filesystem.iomap_end(&iomap, PMD_PAGES) {
                    // The pages are where they were, flushed: no entry is needed, and this one would be wrong.
                    locked.remove();
                    return Err(error.into());
                }
                Ok(())
            }
            Err(error) => {
                let _ = self.filesystem.iomap_end(&iomap, 0);
                Err(error)
            }
        }
    }

    fn copy_runs(&self, runs: &[FrameRange], to: Frame) -> Result<(), NotCollapsed> {
        let mut into = to;
        for run in runs {
            for page in 0..run.count {
                self.copy_frame(run.start.plus(page), into)?;
                into = into.plus(1);
            }
        }
        Ok(())
    }

    /// One locked 2 MiB entry in the place of the small ones, with their marks, once none of them is locked. All in one step under the tree
    /// lock. Faults are excluded, so no entry comes meanwhile; whoever waited for a small one looks again (W4).
    fn exchange_unit(
        &self,
        unit: PageRange,
        kind: Kind,
    ) -> Result<LockedEntry<'_, W>, NotCollapsed> {
        let mut tree = self.unlocked_unit(unit);
        let agrees = tree.iter_range(unit).all(|found| match (kind, found.entry.kind()) {
            // Storage that an entry stands for is never hidden by zeros.
            (Kind::Zero | Kind::Empty, Kind::Mapped(_)) => false,
            (Kind::Zero | Kind::Empty | Kind::Mapped(_), _) => true,
        });
        if !agrees {
            return Err(NotCollapsed::Mixed);
        }
        tree.reserve(unit.start, Order::Pmd).map_err(|_| NotCollapsed::OutOfMemory)?;
        let mut gone = Vec::new();
        gone.try_reserve(tree.iter_range(unit).count()).map_err(|_| NotCollapsed::OutOfMemory)?;
        let entry = Entry::new(Order::Pmd, kind).locked();
        let exchanged = tree.exchange_unit(unit.start, entry, |old| {
            self.disown(old);
            gone.push(old.start);
        });
        self.own(exchanged);
        drop(tree);
        for start in gone {
            self.wake(start, crate::waits::Wake::All);
        }
        Ok(LockedEntry::inserted(self, unit.start, entry))
    }

    /// The tree lock, at a moment at which no entry of the unit is locked.
    fn unlocked_unit(&self, unit: PageRange) -> Tree<'_, W> {
        loop {
            let tree = self.tree.lock();
            let Some(found) = tree.iter_range(unit).find(|found| found.entry.is_locked()) else {
                return tree;
            };
            // A writeback's, or an invalidation's: those never wait for another entry. Dropped at once, which passes the wake on (W3).
            drop(self.get_unlocked(tree, found.start, None, crate::waits::Waiting::Exclusive));
        }
    }
}
