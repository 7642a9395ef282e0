//! Storage that several files share: ending the sharing, and telling whether two ranges could be shared (SEMANTICS 8.4).

use crate::error::{IoError, IoErrorKind};
use crate::io::check_range;
use crate::mapping::Mapping;
use crate::remove::Which;
use crate::seams::{Backing, Filesystem, Intent, Iomap, Media, PrivateCopies, World};
use crate::units::{Frame, PAGE_BYTES, PageIndex, PageRange};

/// A page in memory.
type PageBytes = alloc::vec::Vec<u8>;

impl<W: World> Mapping<W> {
    /// Gives every page of `range` that shares its storage with another file storage of its own, with the same bytes. Whole pages,
    /// always (pitfall 41); holes stay holes; pages beyond the end of the file are left alone. Mappings of the old storage go, so that the
    /// next access finds the new.
    ///
    /// The caller excludes changes of the length. Waits for the faults under way and for entry locks. Source: SEMANTICS 8.4;
    /// fallocate(2), `FALLOC_FL_UNSHARE_RANGE`.
    ///
    /// # Errors
    /// No space, or as the file system and the media say; what was done before stays, the rest is still shared.
    #[doc(alias = "dax_file_unshare")]
    #[doc(alias = "FALLOC_FL_UNSHARE_RANGE")]
    pub fn unshare(&self, range: PageRange) -> Result<(), IoError> {
        self.end_sharing(PageRange::between(range.start, range.end.min(self.pages_in_file())))
    }

    /// The same wherever the file ends: storage beyond the end can be shared as well, and a write that lengthens the file meets it.
    pub(crate) fn end_sharing(&self, range: PageRange) -> Result<(), IoError> {
        let _no_faults = self.fault_lock.exclusive();
        let mut rest = range;
        while !rest.is_empty() {
            // Unlike a write this allocates for shared storage alone.
            let iomap = self.begin(rest, Intent::Zero)?;
            let part = rest.intersect(iomap.range);
            let replaced = match (iomap.copy_from, iomap.backing) {
                (Some(_), Backing::Mapped(first)) => self.replace_shared(&iomap, part, first),
                (Some(_), Backing::Hole | Backing::Unwritten | Backing::Other) => {
                    Err(IoError::new(IoErrorKind::Io))
                }
                (None, _) => Ok(()),
            };
            let ended = self.filesystem.iomap_end(&iomap, replaced.map_or(0, |()| part.len()));
            replaced.and(ended)?;
            rest = PageRange::between(part.end, rest.end);
        }
        Ok(())
    }

    /// Copies shared storage to where `iomap` says, and drops what knows of the old: entries, dirty or not, and translations
    /// (pitfalls 39, 40). The caller excludes faults; the file system looks for the data in the new place from its `iomap_end` on.
    pub(crate) fn replace_shared(
        &self,
        iomap: &Iomap,
        part: PageRange,
        first: Frame,
    ) -> Result<(), IoError> {
        // What a dirty entry knows outside `part` would go unflushed with it.
        self.writeback_edges(part)?;
        // No more stores through mappings from here on, or the copy would miss them.
        self.unmap(self.reach(part), PrivateCopies::Keep);
        self.copy_shared(iomap, part, first.plus(part.start.0 - iomap.range.start.0))?;
        self.remove_range(part, Which::All);
        Ok(())
    }

    /// Whether `length_bytes` bytes at `at` of this file and at `other_at` of `other` are the same. Holes and unwritten storage read as
    /// zeros. Stops at the first difference.
    ///
    /// A snapshot: locks nothing. Whoever acts on the answer excludes writes and stores to both files, from before the call.
    ///
    /// # Errors
    /// As the file systems and the medias say: an error is never taken for an answer (pitfall 90). `OutOfRange` if a range passes the end of
    /// its file.
    #[doc(alias = "dax_file_range_compare")]
    #[doc(alias = "dax_dedupe_file_range_compare")]
    pub fn same_bytes(
        &self,
        at: u64,
        other: &Self,
        other_at: u64,
        length_bytes: u64,
    ) -> Result<bool, IoError> {
        self.check_inside(at, length_bytes)?;
        other.check_inside(other_at, length_bytes)?;
        let mut done = 0;
        while done < length_bytes {
            let mut mine = self.page_bytes(at + done, length_bytes - done)?;
            let mut theirs = other.page_bytes(other_at + done, length_bytes - done)?;
            // In lock step, by the shorter of the two (pitfall 42).
            let step = mine.len().min(theirs.len());
            mine.truncate(step);
            theirs.truncate(step);
            if mine != theirs {
                return Ok(false);
            }
            done += step as u64;
        }
        Ok(true)
    }

    fn check_inside(&self, at: u64, length_bytes: u64) -> Result<(), IoError> {
        check_range(at, length_bytes)?;
        if at + length_bytes > self.filesystem.size_bytes() {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        Ok(())
    }

    /// At least one and at most `wanted` bytes at `at`: what lies in one page, and the media grants (pitfall 91).
    fn page_bytes(&self, at: u64, wanted: u64) -> Result<PageBytes, IoError> {
        let index = PageIndex::of_byte(at);
        let offset = at - index.byte();
        let length = wanted.min(PAGE_BYTES - offset);
        let mut bytes = alloc::vec![0; usize::try_from(length).unwrap_or(0)];
        let iomap = self.begin(PageRange::new(index, 1), Intent::Read)?;
        let loaded = match iomap.backing {
            Backing::Hole | Backing::Unwritten => Ok(bytes.len()),
            Backing::Mapped(first) => {
                let frame = first.plus(index.0 - iomap.range.start.0);
                self.media.load(frame, offset, &mut bytes)
            }
            Backing::Other => Err(IoError::new(IoErrorKind::Io)),
        };
        let ended = self.filesystem.iomap_end(&iomap, u64::from(loaded.is_ok()));
        let loaded = loaded?;
        ended?;
        if loaded == 0 {
            return Err(IoError::new(IoErrorKind::Io));
        }
        bytes.truncate(loaded);
        Ok(bytes)
    }
}
