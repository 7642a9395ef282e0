//! Reading, writing and zeroing a file through its device, coherent with every mapping of it (SEMANTICS 8).

use crate::error::{IoError, IoErrorKind};
use crate::mapping::Mapping;
use crate::seams::{Backing, Filesystem, Intent, Iomap, Media, MediaAccess, World};
use crate::units::{Frame, FrameRange, PAGE_BYTES, PageIndex, PageRange};

/// The part of an extent that one step of a transfer covers: never past a page's end.
struct Step {
    /// Offset in the page.
    offset: u64,
    /// Bytes of it.
    length: usize,
}

/// The bytes of `remaining` that lie in the page of `position`.
fn step(position: u64, remaining: usize) -> Step {
    let offset = position % PAGE_BYTES;
    let room = usize::try_from(PAGE_BYTES - offset).unwrap_or(usize::MAX);
    Step { offset, length: room.min(remaining) }
}

/// The longest that a file can be (`loff_t`).
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Refuses a range that passes the end of all files (pitfall 73).
pub(crate) fn check_range(position: u64, length_bytes: u64) -> Result<(), IoError> {
    match position.checked_add(length_bytes) {
        Some(end) if end <= MAX_FILE_BYTES => Ok(()),
        Some(_) | None => Err(IoError::new(IoErrorKind::OutOfRange)),
    }
}

impl<W: World> Mapping<W> {
    /// Reads up to `into.len()` bytes at `position`; fewer at the end of the file, 0 at or past it. Holes read as zeros and stay
    /// holes. Takes no lock over the copy.
    ///
    /// The caller excludes changes of the length and of the layout (the inode lock, shared). Stores through mappings go on, and where one exchanges
    /// shared storage for a copy, what was read from the old is read again.
    ///
    /// # Errors
    /// Of the first byte; an error after some bytes were read is left to the next call. `OutOfRange` for an offset past all files.
    #[doc(alias = "dax_iomap_rw")]
    pub fn read(&self, position: u64, into: &mut [u8]) -> Result<usize, IoError> {
        if into.is_empty() {
            return Ok(0);
        }
        check_range(position, into.len() as u64)?;
        let mut done = 0;
        while done < into.len() {
            let at = position + done as u64;
            let left = self.filesystem.size_bytes().saturating_sub(at);
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(into.len() - done);
            if wanted == 0 {
                break;
            }
            match self.read_extent(at, &mut into[done..done + wanted]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// At least one byte, unless an error or the media stops it. What was shared may meanwhile have been exchanged for a copy, and have
    /// become somebody else's alone, who writes to it: only what still is the file's after the copy counts. That ends, since nothing becomes
    /// shared while somebody reads. (Linux does not look again.)
    fn read_extent(&self, at: u64, into: &mut [u8]) -> Result<usize, IoError> {
        let asked = PageRange::of_bytes(at, into.len() as u64);
        loop {
            let iomap = self.begin(asked, Intent::Read)?;
            let in_extent = usize::try_from(iomap.range.end.byte().saturating_sub(at));
            let length = in_extent.unwrap_or(usize::MAX).min(into.len());
            let Backing::Mapped(first) = iomap.backing else {
                let zeros = if iomap.backing == Backing::Other {
                    Err(IoError::new(IoErrorKind::Io))
                } else {
                    into[..length].fill(0);
                    Ok(length)
                };
                return self.end_transfer(&iomap, at, zeros);
            };
            let loaded = self.each_page(&iomap, first, at, length, |frame, offset, part| {
                self.media.load(frame, offset, &mut into[part])
            });
            let loaded = self.end_transfer(&iomap, at, loaded)?;
            if loaded == 0 {
                return Ok(0);
            }
            let counts = self.still_there(&iomap, at, loaded)?;
            if counts > 0 {
                return Ok(counts);
            }
        }
    }

    /// How many of the `length` bytes at `at`, which were found by `iomap`, are where it says.
    fn still_there(&self, iomap: &Iomap, at: u64, length: usize) -> Result<usize, IoError> {
        let asked = PageRange::of_bytes(at, length as u64);
        let now = self.begin(asked, Intent::Read)?;
        self.filesystem.iomap_end(&now, 0)?;
        if now.frame_at(asked.start) != iomap.frame_at(asked.start) {
            return Ok(0);
        }
        let same = usize::try_from(now.range.end.byte().saturating_sub(at));
        Ok(same.unwrap_or(usize::MAX).min(length))
    }

    /// Writes `from` at `position`, allocating what is missing, and lengthens the file if it ends past its end. Where storage is new,
    /// zeros that anybody has mapped are taken away after the allocation and before the copy. Durable as to data.
    ///
    /// The caller excludes other writers and truncation (the inode lock). Waits for entry locks.
    ///
    /// # Errors
    /// Of the first byte; later ones shorten the count. A write cut short leaves no storage beyond the end of the file in sight.
    pub fn write(&self, position: u64, from: &[u8]) -> Result<usize, IoError> {
        if from.is_empty() {
            return Ok(0);
        }
        check_range(position, from.len() as u64)?;
        let size = self.filesystem.size_bytes();
        if position > size {
            // What lies between the old end and the write must read as zeros, whatever is there.
            self.zero_range(size, position - size)?;
        }
        self.filesystem.note_store();
        let (done, failure) = self.write_extents(position, from);
        let end = position + done as u64;
        let lengthened =
            if done > 0 && end > size { self.filesystem.set_size(end) } else { Ok(()) };
        if (done < from.len() || lengthened.is_err()) && position + from.len() as u64 > size {
            // What was allocated for bytes that did not come must not lie beyond the end (pitfall 68).
            let kept = PageIndex(self.filesystem.size_bytes().div_ceil(PAGE_BYTES));
            self.filesystem.free(PageRange::from(kept))?;
        }
        lengthened?;
        match failure {
            Some(error) if done == 0 => Err(error),
            Some(_) | None => Ok(done),
        }
    }

    /// Writes extent by extent: how many bytes, and what stopped it.
    fn write_extents(&self, position: u64, from: &[u8]) -> (usize, Option<IoError>) {
        let mut done = 0;
        while done < from.len() {
            match self.write_extent(position + done as u64, &from[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }

    fn write_extent(&self, at: u64, from: &[u8]) -> Result<usize, IoError> {
        let asked = PageRange::of_bytes(at, from.len() as u64);
        let mut iomap = self.begin(asked, Intent::Write)?;
        while iomap.copy_from.is_some() {
            // Shared storage first gets a copy of its own, with no fault under way: a store through a mapping would otherwise be
            // lost to the copying, or a load map the old storage behind our back. Nothing is held over the copy of `from`.
            self.filesystem.iomap_end(&iomap, 0)?;
            self.end_sharing(asked.intersect(iomap.range))?;
            iomap = self.begin(asked, Intent::Write)?;
        }
        let in_extent = usize::try_from(iomap.range.end.byte().saturating_sub(at));
        let length = in_extent.unwrap_or(usize::MAX).min(from.len());
        let touched = PageRange::of_bytes(at, length as u64);
        let done = match iomap.backing {
            Backing::Mapped(first) => {
                // After the allocation and before the copy: nobody goes on seeing zeros (pitfalls 33 to 37). Nor those of storage that
                // came before this write: what the index says counts, not the flag alone (43b).
                if iomap.is_new || self.may_show_zeros(touched) {
                    self.invalidate(touched);
                }
                self.each_page(&iomap, first, at, length, |frame, offset, part| {
                    self.store_page(frame, offset, &from[part])
                })
            }
            // A write never sees a hole: the file system allocates.
            Backing::Hole | Backing::Unwritten | Backing::Other => {
                Err(IoError::new(IoErrorKind::Io))
            }
        };
        self.end_transfer(&iomap, at, done)
    }

    /// Closes the file system's operation behind a transfer. Its error counts only where no byte was moved.
    fn end_transfer(
        &self,
        iomap: &Iomap,
        at: u64,
        done: Result<usize, IoError>,
    ) -> Result<usize, IoError> {
        let pages = done.map_or(0, |done| PageRange::of_bytes(at, done as u64).len());
        let ended = self.filesystem.iomap_end(iomap, pages);
        match done {
            Ok(0) => ended.map(|()| 0),
            Ok(_) | Err(_) => done,
        }
    }

    /// Stores into one frame; on poison, and if it is a whole page, once more so as to clear it (8.5).
    fn store_page(&self, frame: Frame, offset: u64, bytes: &[u8]) -> Result<usize, IoError> {
        match self.media.store(frame, offset, bytes) {
            Err(error)
                if error.kind == IoErrorKind::Poisoned && bytes.len() as u64 == PAGE_BYTES =>
            {
                let frames = FrameRange { start: frame, count: 1 };
                self.media.direct_access(frames, MediaAccess::Recovery)?;
                self.media.zero(frame, 0, PAGE_BYTES)?;
                self.media.store(frame, offset, bytes)
            }
            other => other,
        }
    }

    /// Overwrites `length_bytes` bytes at `offset` with zeros where there is storage; fills no hole. Whole pages clear poison. Waits for
    /// the faults under way: shared storage gets a copy first.
    ///
    /// # Errors
    /// As the file system and the media say; the bytes before the error are zero.
    #[doc(alias = "dax_zero_range")]
    pub fn zero_range(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        check_range(offset, length_bytes)?;
        if length_bytes == 0 {
            return Ok(());
        }
        let _no_faults = self.fault_lock.exclusive();
        self.zero_bytes(offset, length_bytes)
    }

    /// The same for a caller who has excluded faults.
    pub(crate) fn zero_bytes(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        let mut at = offset;
        let end = offset + length_bytes;
        while at < end {
            let iomap = self.begin(PageRange::of_bytes(at, end - at), Intent::Zero)?;
            let stop = iomap.range.end.byte().min(end);
            let zeroed = match iomap.backing {
                // Nothing there, and nothing to be seen there.
                Backing::Hole | Backing::Unwritten => Ok(()),
                Backing::Mapped(first) => self.zero_extent(&iomap, first, at, stop),
                Backing::Other => Err(IoError::new(IoErrorKind::Io)),
            };
            let pages = zeroed.map_or(0, |()| PageRange::of_bytes(at, stop - at).len());
            let ended = self.filesystem.iomap_end(&iomap, pages);
            zeroed.and(ended)?;
            at = stop;
        }
        Ok(())
    }

    fn zero_extent(&self, iomap: &Iomap, first: Frame, from: u64, to: u64) -> Result<(), IoError> {
        if iomap.copy_from.is_some() {
            self.replace_shared(iomap, PageRange::of_bytes(from, to - from), first)?;
        }
        let mut at = from;
        while at < to {
            let offset = at % PAGE_BYTES;
            let length = (PAGE_BYTES - offset).min(to - at);
            let frame = first.plus(PageIndex::of_byte(at).0 - iomap.range.start.0);
            self.media.zero(frame, offset, length)?;
            at += length;
        }
        Ok(())
    }

    /// Asks for an extent, and holds the answer to its contract: it must start at or before the page asked for, and cover it.
    pub(crate) fn begin(&self, asked: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        let iomap = self.filesystem.iomap_begin(asked, intent)?;
        if iomap.range.contains(asked.start) {
            return Ok(iomap);
        }
        let _ = self.filesystem.iomap_end(&iomap, 0);
        Err(IoError::new(IoErrorKind::Io))
    }

    /// Calls `transfer` for each page that holds bytes of `at..at + length`; stops where it moves fewer bytes than asked.
    fn each_page(
        &self,
        iomap: &Iomap,
        first: Frame,
        at: u64,
        length: usize,
        mut transfer: impl FnMut(Frame, u64, core::ops::Range<usize>) -> Result<usize, IoError>,
    ) -> Result<usize, IoError> {
        let mut done = 0;
        while done < length {
            let position = at + done as u64;
            let page = step(position, length - done);
            let frame = first.plus(PageIndex::of_byte(position).0 - iomap.range.start.0);
            let moved = match transfer(frame, page.offset, done..done + page.length) {
                Ok(moved) => moved,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            done += moved;
            if moved < page.length {
                break;
            }
        }
        Ok(done)
    }
}
