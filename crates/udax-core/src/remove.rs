//! Removing entries: invalidation, truncation, hole punching, and the end of a file (SEMANTICS 7).
//!
//! Glossary: a *layout break* makes sure that no device still uses storage that is about to be freed; a *pinned* frame is one that a
//! device uses; *revoking* takes zeros out of every mapping because something else may come to be there.

use crate::error::IoError;
use crate::fault_lock::NoFaults;
use crate::index::{Found, Mark};
use crate::io::check_range;
use crate::lock::Lookup;
use crate::mapping::Mapping;
use crate::seams::{Filesystem, Media, Platform, PrivateCopies, ShortLock, World};
use crate::units::{Frame, FrameRange, PAGE_BYTES, PageIndex, PageRange};
use crate::waits::Waiting;

/// What became of an entry that was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Removal {
    Gone,
    /// Dirty, or chosen by a sync: kept.
    Busy,
}

/// What a removal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// How many entries had to stay.
    pub(crate) busy: u64,
    /// The range, and the rest of the entries that stuck out of it.
    pub(crate) reach: PageRange,
}

/// Which entries are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Every one.
    All,
    /// Those that no sync has to flush.
    Clean,
    /// Those that stand for no storage.
    Unmapped,
}

impl<W: World> Mapping<W> {
    /// Deletes the entry that covers `index`, waiting for its lock, and wakes all who waited. The pages that it covers; `None` if
    /// there is nothing (any more).
    #[doc(alias = "dax_delete_mapping_entry")]
    #[doc(alias = "dax_invalidate_mapping_entry_sync")]
    fn remove_one(&self, index: PageIndex, which: Which) -> Option<(PageRange, Removal)> {
        let lookup = self.get_unlocked(self.tree.lock(), index, None, Waiting::Exclusive);
        let Lookup::Entry(awaited) = lookup else { return None };
        let pages = PageRange::new(awaited.start(), awaited.entry().order().pages());
        let keep = match which {
            Which::All => false,
            Which::Clean => awaited.is_marked(Mark::Dirty) || awaited.is_marked(Mark::ToWrite),
            Which::Unmapped => awaited.entry().is_mapped(),
        };
        if keep {
            return Some((pages, Removal::Busy));
        }
        if awaited.entry().is_zero() && which == Which::Clean {
            // Faults go on beside this. Zeros that outlived their entry would be seen beside what a store to the same page, for which nothing tells
            // of them any more, has put there (I9).
            let locked = awaited.lock();
            self.unmap(pages, PrivateCopies::Keep);
            locked.remove();
        } else {
            awaited.remove();
        }
        Some((pages, Removal::Gone))
    }

    /// Removes the entries that cover any of `range`.
    pub(crate) fn remove_range(&self, range: PageRange, which: Which) -> Removed {
        let mut removed = Removed { busy: 0, reach: range };
        let mut rest = range;
        loop {
            // Looked up afresh after every wait: an entry found locked is never skipped (pitfall 16).
            let first = self.with_tree(|tree| tree.first_in(rest).map(|found| found.start));
            let Some(first) = first else { return removed };
            // Nothing there after the wait: it was deleted, or small entries elsewhere in it took its place, so look again.
            let first = first.max(rest.start);
            let removal = W::Platform::step(|| self.remove_one(first, which), |&removal| removal);
            let Some((pages, removal)) = removal else { continue };
            removed.busy += u64::from(removal == Removal::Busy);
            removed.reach.start = removed.reach.start.min(pages.start);
            removed.reach.end = removed.reach.end.max(pages.end);
            rest = PageRange::between(pages.end, range.end);
            if rest.is_empty() {
                return removed;
            }
        }
    }

    /// `range`, and the rest of the entries that stick out of it: deleting an entry takes all of it, so all of it must be unmapped,
    /// or the rest would be mapped without an entry (I6).
    pub(crate) fn reach(&self, range: PageRange) -> PageRange {
        if range.is_empty() {
            return range;
        }
        let edges = [range.start, PageIndex(range.end.0 - 1)];
        let [first, last] = self.with_tree(|tree| edges.map(|edge| tree.get(edge)));
        let start = first.map_or(range.start, |found| found.start.min(range.start));
        let end = last.map_or(range.end, |found| {
            found.start.plus(found.entry.order().pages()).max(range.end)
        });
        PageRange { start, end }
    }

    /// After new storage was allocated in `range` by a write: drops the clean entries there, then unmaps the range in every VMA,
    /// whatever had to stay, so that nobody goes on seeing zeros (pitfalls 33 to 37). Private copies stay. How many entries were
    /// dirty and stayed.
    ///
    /// Waits for entry locks.
    #[doc(alias = "invalidate_inode_pages2_range")]
    pub fn invalidate(&self, range: PageRange) -> u64 {
        let removed = self.remove_range(range, Which::Clean);
        // After the entries: unmapping first would let a fault put the old page back in between. And all of what they covered, or the
        // rest of a 2 MiB entry would be mapped without one (I6).
        self.unmap(removed.reach, PrivateCopies::Keep);
        removed.busy
    }

    /// Whether some entry in `range` stands for no storage: zeros may be mapped there, or be about to be.
    pub fn may_show_zeros(&self, range: PageRange) -> bool {
        self.with_tree(|tree| tree.iter_range(range).any(|found| !found.entry.is_mapped()))
    }

    /// Takes the zeros out of every mapping of `range`, and every entry that stands for no storage: from now on a fault
    /// there asks the file system. With no fault under way, so that none that asked before can install zeros after.
    ///
    /// Waits for the faults under way. For real memory: before somebody else may write the file, or this process writes it natively.
    pub fn revoke_zeros(&self, range: PageRange) {
        let _no_faults = self.fault_lock.exclusive();
        let removed = self.remove_range(range, Which::Unmapped);
        self.unmap(removed.reach, PrivateCopies::Keep);
    }

    /// Changes the file's length. Pages beyond the new end are unmapped everywhere, private copies too; loads there end in
    /// `SIGBUS` from then on. The rest of the new last page reads as zeros.
    ///
    /// The caller excludes other changes of the length (the inode lock). Waits for the faults under way, and for pinned storage.
    /// Source: SEMANTICS 7.2; ftruncate(2).
    ///
    /// # Errors
    /// `OutOfRange` past the longest file; else as the file system and the media say. The length is as before then, or the storage beyond it is not yet free; of what lay beyond
    /// the new end, the rest of the new last page may be zeros already. What is left beyond the end is zeros when the file grows again.
    #[doc(alias = "setattr_size")]
    pub fn truncate(&self, bytes: u64) -> Result<(), IoError> {
        check_range(0, bytes)?;
        let old = self.filesystem.size_bytes();
        let cut = PageRange::from(PageIndex(bytes.div_ceil(PAGE_BYTES)));
        let _no_faults = self.break_layouts(cut);
        self.writeback_edges(cut)?;
        // What lies behind the end that comes first must be zeros before it can be seen: in its page what was stored past the end, and in a
        // file that grows what a truncation that failed half-way has left.
        let (first, last) = (bytes.min(old), bytes.next_multiple_of(PAGE_BYTES));
        self.zero_bytes(first, last - first)?;
        self.filesystem.set_size(bytes)?;
        // Before the end, an entry that reaches over it goes as well, but private copies stay.
        self.unmap(PageRange::between(self.reach(cut).start, cut.start), PrivateCopies::Keep);
        self.unmap(cut, PrivateCopies::Drop);
        self.remove_range(cut, Which::All);
        self.filesystem.free(cut)
    }

    /// Makes `length_bytes` bytes at `offset` a hole: whole pages give their storage back, the edges are zeroed. Does not
    /// change the length.
    ///
    /// As [`truncate`](Self::truncate) for locks and waits. Source: SEMANTICS 7.2; fallocate(2), `FALLOC_FL_PUNCH_HOLE`.
    ///
    /// # Errors
    /// As the file system and the media say; `OutOfRange` if the range is empty or passes the end of all offsets.
    pub fn punch_hole(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        check_range(offset, length_bytes)?;
        let end = offset + length_bytes;
        if end == offset {
            return Err(IoError::new(crate::IoErrorKind::OutOfRange));
        }
        let whole =
            PageRange::between(PageIndex(offset.div_ceil(PAGE_BYTES)), PageIndex::of_byte(end));
        let _no_faults = self.break_layouts(whole);
        // Of what is flushed only what sticks out of the range has to be; but so does Linux.
        self.writeback(PageRange::of_bytes(offset, length_bytes))?;
        let head_end = end.min(whole.start.byte());
        self.zero_bytes(offset, head_end - offset)?;
        let tail = end.min(whole.end.byte().max(head_end));
        self.zero_bytes(tail, end - tail)?;
        if whole.is_empty() {
            return Ok(());
        }
        self.unmap(self.reach(whole), PrivateCopies::Keep);
        self.remove_range(whole, Which::All);
        self.filesystem.free(whole)
    }

    /// Runs `change` while no fault is under way and nothing of `range` is mapped or has an entry; what was dirty there has been
    /// flushed. For changes of the layout that only the file system knows: collapse, insert, exchange.
    ///
    /// # Errors
    /// Of the flush, then `change` has not run; or of `change`.
    #[doc(alias = "dax_break_layouts")]
    pub fn change_layout<T>(
        &self,
        range: PageRange,
        change: impl FnOnce(&W::Filesystem) -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        let _no_faults = self.break_layouts(range);
        self.writeback(range)?;
        self.unmap(self.reach(range), PrivateCopies::Keep);
        self.remove_range(range, Which::All);
        change(&self.filesystem)
    }

    /// The file goes away: deletes every entry, after pinned storage has been let go. No VMA is attached any more.
    ///
    /// # Panics
    /// If an entry is left: somebody faulted on a file that is going away.
    #[doc(alias = "truncate_inode_pages_final")]
    pub fn evict(&self) {
        let all = PageRange::from(PageIndex(0));
        let _no_faults = self.break_layouts(all);
        self.remove_range(all, Which::All);
        assert_eq!(self.entries(), 0, "entries are left on a file that goes away (I1, pitfall 69)");
    }

    /// The media lost the storage of page `index`: takes it out of every mapping, so that the next access faults and is told. The pages
    /// that were unmapped; `None` if no storage stands there (any more).
    ///
    /// Waits for the entry lock, without exclusivity, as the file may be going away (W6).
    #[doc(alias = "mf_dax_kill_procs")]
    pub fn media_failed(&self, index: PageIndex) -> Option<PageRange> {
        let locked = self.lock_mapped(index)?;
        let pages = locked.pages();
        self.unmap(pages, PrivateCopies::Keep);
        Some(pages)
    }

    /// Excludes faults, unmaps `range`, and waits until no device uses its storage. Waiting gives the lock up, so everything is
    /// looked at afresh after it (7.4).
    #[doc(alias = "dax_layout_busy_page")]
    fn break_layouts(&self, range: PageRange) -> NoFaults<'_, W::Platform> {
        loop {
            let no_faults = self.fault_lock.exclusive();
            // So that no new pin can be taken; private copies are not the file's (pitfall 57).
            self.unmap(range, PrivateCopies::Keep);
            let Some(frame) = self.first_pinned(range) else { return no_faults };
            drop(no_faults);
            self.media.wait_unpinned(frame);
        }
    }

    /// Pins are told from the storage itself, not from what is mapped now (pitfall 58); zero and empty entries have none (64).
    pub(crate) fn first_pinned(&self, range: PageRange) -> Option<Frame> {
        let mut rest = range;
        loop {
            let first = self.with_tree(|tree| tree.first_in(rest).map(|found| found.start))?;
            let found = W::Platform::step(|| self.wait_unlocked(first), |&found| found);
            let mut next = first.plus(1);
            if let Some(Found { start, entry }) = found {
                let count = entry.order().pages();
                let frames = entry.frame().map(|start| FrameRange { start, count });
                if let Some(pinned) = frames.and_then(|frames| self.media.first_pinned(frames)) {
                    return Some(pinned);
                }
                next = start.plus(count);
            }
            rest = PageRange::between(next.max(rest.start), range.end);
            if rest.is_empty() {
                return None;
            }
        }
    }

    /// What covers `index` once it is unlocked; `None` if nothing does then.
    fn wait_unlocked(&self, index: PageIndex) -> Option<Found> {
        match self.get_unlocked(self.tree.lock(), index, None, Waiting::Exclusive) {
            // Whoever comes next is woken: nothing was locked.
            Lookup::Entry(awaited) => {
                Some(Found { start: awaited.start(), entry: awaited.entry() })
            }
            Lookup::Nothing(_) | Lookup::Conflict | Lookup::Interrupted => None,
        }
    }
}
