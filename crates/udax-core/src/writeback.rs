//! Writeback: flushing what was dirtied, and nothing else (SEMANTICS 6).
//!
//! Glossary: *tagging* copies Dirty to ToWrite for a fixed set, so that a sync ends though stores go on; a *native* VMA's stores are
//! tracked by the host kernel.

use crate::entry::Entry;
use crate::error::{IoError, IoErrorKind};
use crate::index::{Found, Index, Mark};
use crate::lock::{LockedEntry, Lookup};
use crate::mapping::Mapping;
use crate::seams::{AddressSpace, Filesystem, Media, Platform, ShortLock, World, WriteTracking};
use crate::trace::TraceEvent;
use crate::units::{FrameRange, PageIndex, PageRange};
use crate::vma::Sharing;
use crate::waits::Waiting;

impl<W: World> Mapping<W> {
    /// Makes every store to `range` that happened before the call durable, with the metadata needed to find it. An earlier
    /// error of a writeback that nobody was told of is reported here.
    ///
    /// May sleep for entry locks and for the storage. Takes no fault lock. Source: SEMANTICS 6; fsync(2).
    ///
    /// # Errors
    /// The first error of the media or the file system; what was not flushed stays dirty.
    #[doc(alias = "fsync")]
    pub fn sync(&self, range: PageRange) -> Result<(), IoError> {
        // Data first, then the metadata that leads to it (6.3).
        let written = self.writeback(range);
        let committed = self.filesystem.commit(range);
        let earlier = self.take_writeback_error();
        written.and(committed).and(earlier.map_or(Ok(()), Err))
    }

    /// Flushes the dirty entries that cover any of `range`, each of them whole.
    ///
    /// # Errors
    /// The first error stops it; it is also recorded for a later [`sync`](Self::sync).
    #[doc(alias = "dax_writeback_mapping_range")]
    pub fn writeback(&self, range: PageRange) -> Result<(), IoError> {
        let everything = PageRange::from(PageIndex(0));
        // What another sync is at work on is dirty until it has been flushed, so nothing under way is missed here.
        if range.is_empty()
            || self.with_tree(|tree| tree.first_marked_in(everything, Mark::Dirty).is_none())
        {
            return Ok(());
        }
        let (inode, start, end) = (self.inode, range.start, PageIndex(range.end.0 - 1));
        self.trace(|| TraceEvent::WritebackRange { inode, start, end });
        self.with_tree(|tree| {
            tree.tag_range(range, Mark::Dirty, Mark::ToWrite);
        });
        let result = self.writeback_tagged(range);
        if let Err(error) = result {
            self.record_writeback_error(error);
        }
        self.trace(|| TraceEvent::WritebackRangeDone { inode, start, end });
        result
    }

    fn writeback_tagged(&self, range: PageRange) -> Result<(), IoError> {
        let mut rest = range;
        loop {
            let first = |tree: &mut Index| tree.first_marked_in(rest, Mark::ToWrite);
            let found = self.with_tree(|tree| first(tree).map(Found::unlocked));
            let Some(found) = found else { return Ok(()) };
            W::Platform::step(|| self.writeback_one(found), |&written| written)?;
            // Past the whole entry, so that its other indices are not met again (pitfall 56).
            let next = found.start.plus(found.entry.order().pages());
            rest = PageRange::between(next, range.end);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// One entry that the scan has seen tagged; it may have changed since.
    #[doc(alias = "dax_writeback_one")]
    fn writeback_one(&self, seen: Found) -> Result<(), IoError> {
        let lookup = self.get_unlocked(self.tree.lock(), seen.start, None, Waiting::Exclusive);
        // Nothing there any more: deleted, and whoever deleted it has woken everybody.
        let Lookup::Entry(awaited) = lookup else { return Ok(()) };
        // The storage was exchanged, or another sync has done it (and, as we waited for the entry, has finished).
        // Small entries may have become one meanwhile: it is the page that counts.
        let skipped = seen.start.0 - awaited.start().0;
        let frame = awaited.entry().frame().map(|first| first.plus(skipped));
        let same_storage = frame == seen.entry.frame();
        if !awaited.is_marked(Mark::ToWrite) || (!same_storage && awaited.entry().is_mapped()) {
            return Ok(());
        }
        if !awaited.entry().is_mapped() {
            // Zero and empty entries are never dirty (I5): the index is corrupt.
            return Err(IoError::new(IoErrorKind::Io));
        }
        let locked = awaited.lock();
        self.writeback_locked(&locked)
    }

    /// Write-protect, flush, clear: in this order, under the entry lock (docs/concurrency.md, "Store and writeback").
    pub(crate) fn writeback_locked(&self, locked: &LockedEntry<'_, W>) -> Result<(), IoError> {
        let (entry, pages) = (locked.entry(), locked.pages());
        let Some(start) = Entry::frame(entry) else { return Ok(()) };
        let frames = FrameRange { start, count: pages.len() };
        let granted = self.media.direct_access(frames, crate::MediaAccess::Ordinary)?;
        if granted < frames.count {
            return Err(IoError::new(IoErrorKind::Io));
        }
        let mut tracking = WriteTracking::Faults;
        // Every VMA that maps any page of the entry, not only its first (pitfall 46).
        self.each_vma(pages, |vma, part| {
            if vma.sharing == Sharing::Shared {
                let frame = start.plus(part.start.0 - pages.start.0);
                if vma.space.write_protect(part, frame) == WriteTracking::Native {
                    tracking = WriteTracking::Native;
                }
            }
        });
        self.media.flush(frames)?;
        locked.with_tree(|tree| {
            if tracking == WriteTracking::Faults {
                tree.clear_mark(pages.start, Mark::Dirty);
            }
            // Only now: a sync whose scan comes before this finds the mark, and waits for the entry lock.
            tree.clear_mark(pages.start, Mark::ToWrite);
        });
        let (inode, pgoff, pglen) = (self.inode, pages.start, pages.len());
        self.trace(|| TraceEvent::WritebackOne { inode, pgoff, pglen });
        Ok(())
    }

    /// Flushes the dirty entries that stick out of `range` at either end, before somebody deletes them for its sake (7.1).
    /// The caller holds the fault lock exclusively, so no store can come between.
    pub(crate) fn writeback_edges(&self, range: PageRange) -> Result<(), IoError> {
        if range.is_empty() {
            return Ok(());
        }
        for edge in [range.start, PageIndex(range.end.0 - 1)] {
            let found = self.with_tree(|tree| tree.get(edge));
            let sticks_out = |found: &Found| {
                !range.covers(PageRange::new(found.start, found.entry.order().pages()))
            };
            if let Some(found) = found.filter(sticks_out) {
                self.writeback(PageRange::new(found.start, found.entry.order().pages()))?;
            }
        }
        Ok(())
    }
}
