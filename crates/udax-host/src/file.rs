//! One open file: the engine's `Filesystem` and `Media`.

use crate::extents::pages_of;
use crate::holes::{HoleMap, Refused, SMALLEST_HOLE};
use crate::io::HostIo;
use crate::kind::HostKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{
    Filesystem, Frame, FrameRange, Intent, IoError, IoErrorKind, Iomap, Media, MediaAccess, Order,
    PAGE_BYTES, PAGE_SHIFT, PMD_PAGES, PageIndex, PageRange,
};

/// Look-ups that one survey may make: about 20 ms of them.
const SURVEY_LOOKUPS: u32 = 1 << 16;
/// Looks at one place before it stays unknown, when others keep assigning meanwhile.
const SURVEY_ATTEMPTS: u32 = 4;
/// The largest offset that the host kernel takes.
const OFFSET_LIMIT: u64 = i64::MAX as u64;

const EOPNOTSUPP: i32 = 95;

/// What a survey came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Pages of the range that was asked for which will be answered as holes.
    pub hole_pages: u64,
    /// How far it came. If the file is in so many pieces that it stopped before the end, the rest is served mapped until
    /// another survey starts there. Empty if there was no trust.
    pub done: PageRange,
}

/// One file of a mounted file system. Clones are the same file.
///
/// Holes are offered as they are, page by page, but for those of less than 16 KiB before data: they would cost more in VMAs than they save. They are learnt by
/// [`survey`](Self::survey), never by a fault: to look for data takes the inode lock of the host kernel (tmpfs, ext4, btrfs),
/// write(2) holds that lock while it faults on its source buffer, and that fault may be the very one to be served.
///
/// | call | who may make it |
/// | --- | --- |
/// | `iomap_begin`, `iomap_end`, `size_bytes`, `trust`, `distrust`, `assign`, `assign_data`, `assign_but_holes`, `keep`, `release`, `knows`, `hole_pages` | anyone: a short lock, no wait |
/// | `survey`, `set_size`, `free`, `commit`, `load`, `store`, `zero` | no thread that a fault waits for, and none that holds what such a thread waits for |
///
/// What keeps a zero from going stale, besides the proof that nobody else writes: every page that is answered as mapped is
/// *assigned* by that. A mapping shows it natively then, and stores there come without a word, so it stays mapped whatever a
/// survey sees, until [`release`](Self::release). Punching and truncating do not end that: the native mapping is still there.
#[derive(Clone)]
pub struct HostFile {
    shared: Arc<Shared>,
}

struct Shared {
    io: Arc<dyn HostIo>,
    kind: HostKind,
    map: Mutex<HoleMap>,
}

impl HostFile {
    /// The file behind `io`, of which nothing is known yet.
    #[must_use]
    pub fn new(io: Arc<dyn HostIo>, kind: HostKind) -> Self {
        Self { shared: Arc::new(Shared { io, kind, map: Mutex::default() }) }
    }

    /// The file system that it is on.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        self.shared.kind
    }

    /// A proof holds from now on that nobody writes the file unseen. Without that nothing is ever a hole. Never waits.
    pub fn trust(&self) {
        self.map().trust();
    }

    /// The proof has ended: all is served mapped until there is trust again, and then a survey. Zero pages that are shown have
    /// to go, which is the caller's part. Never waits.
    pub fn distrust(&self) {
        self.map().distrust();
    }

    /// Learns where the holes of `range` are, as far as that is not known yet. Call it when a mapping is made. What a mapping
    /// shows natively without having asked (past the end of the file, or all of it where a mapping of the file is plain) must
    /// have been [assigned](Self::assign) before, and what write(2) is about to fill as well. Trust that ends meanwhile ends
    /// the survey.
    ///
    /// Waits for the inode lock. Does a bounded amount of work; nothing but an fstat(2) if the file has no holes.
    ///
    /// # Errors
    /// What fstat(2) or lseek(2) says; what was learnt before the error stays.
    pub fn survey(&self, range: PageRange) -> Result<Survey, IoError> {
        self.survey_within(range, SURVEY_LOOKUPS)
    }

    /// [`survey`](Self::survey) with at most about so many look-ups (0.3 us each).
    ///
    /// # Errors
    /// As [`survey`](Self::survey).
    pub fn survey_within(&self, range: PageRange, most: u32) -> Result<Survey, IoError> {
        let io = &*self.shared.io;
        let size_bytes = io.size_bytes()?;
        let eof = pages_of(size_bytes);
        let trusted = self.kind().supported() && self.map().is_trusted();
        // Storage past the end makes the count err on the side of the plain mapping.
        let has_holes = io.allocated_bytes()? < size_bytes;
        let mut cursor = if trusted { range.end } else { range.start };
        if trusted && has_holes {
            let wanted = range.intersect(PageRange::between(PageIndex(0), eof));
            cursor = wanted.start;
            let mut progress = Progress::default();
            while cursor < wanted.end && progress.lookups < most {
                cursor = self.map().end_of_surveyed(cursor, wanted.end);
                let rest = PageRange::between(cursor, wanted.end);
                cursor = self.survey_step(rest, eof, &mut progress)?;
            }
            cursor = if cursor < wanted.end { cursor } else { range.end };
        }
        let done = PageRange::between(range.start, cursor);
        Ok(Survey { hole_pages: self.hole_pages(range), done })
    }

    /// Learns the hole that starts with `rest`, if there is one, and the data behind it; says where to go on.
    fn survey_step(
        &self,
        rest: PageRange,
        eof: PageIndex,
        progress: &mut Progress,
    ) -> Result<PageIndex, IoError> {
        if rest.is_empty() {
            return Ok(rest.end);
        }
        for _ in 0..SURVEY_ATTEMPTS {
            let moment = self.map().now();
            progress.lookups += 1;
            let data_byte = self.shared.io.seek_data(rest.start.byte())?;
            let data_page = data_byte.map_or(rest.end, PageIndex::of_byte);
            let hole = rest.intersect(PageRange::between(rest.start, data_page));
            if hole.len() < SMALLEST_HOLE && data_page < rest.end {
                self.map().learn_data(hole);
            } else if !hole.is_empty() {
                // A thread that assigned between the look and here has made the look an old one.
                match self.map().learn_holes(hole, moment) {
                    Ok(()) => {}
                    Err(Refused::Changed) => continue,
                    Err(Refused::Distrusted) => return Ok(rest.end),
                }
            }
            let Some(data_byte) = data_byte.filter(|_| data_page < rest.end) else {
                return Ok(rest.end);
            };
            let data = self.data_from(data_byte, eof, progress)?;
            self.map().learn_data(data);
            return Ok(data.end);
        }
        Ok(rest.start.plus(PMD_PAGES))
    }

    /// The pages with data from the one that holds `data_byte` on.
    fn data_from(
        &self,
        data_byte: u64,
        eof: PageIndex,
        progress: &mut Progress,
    ) -> Result<PageRange, IoError> {
        let first = PageIndex::of_byte(data_byte);
        let end = match self.shared.kind {
            // Looking for a hole here visits every page up to it: go by pages, and by more of them the more had data one after the other.
            HostKind::Tmpfs => progress.skip(first),
            HostKind::Ext | HostKind::Xfs | HostKind::Btrfs | HostKind::Other(_) => {
                progress.lookups += 1;
                self.shared.io.seek_hole(data_byte)?.map_or(eof, pages_of)
            }
        };
        Ok(PageRange::between(first, end.max(first.plus(1))))
    }

    /// From now on some mapping may show `range` natively: it is served mapped, until it is
    /// [released](Self::release). Zero pages that are shown of them have to go, which is the caller's part. Never waits.
    pub fn assign(&self, range: PageRange) {
        self.map().assign(range);
    }

    /// The same for good: for what cannot be released, as a mapping that nobody watches shows it, or a write(2) is about to fill it.
    pub fn keep(&self, range: PageRange) {
        self.map().keep(range);
    }

    /// Whether all of `range` is [kept](Self::keep). Never waits.
    #[must_use]
    pub fn is_kept(&self, range: PageRange) -> bool {
        self.map().is_kept(range)
    }

    /// The first run of pages in `range` that a survey saw data in, now [assigned](Self::assign). For who maps them natively from the start. Never waits.
    #[must_use]
    pub fn assign_data(&self, range: PageRange) -> Option<PageRange> {
        self.map().assign_data(range)
    }

    /// The same for the first run of pages in `range` that are not known to be holes: that have data, are assigned already, or were not come to by a survey.
    #[must_use]
    pub fn assign_but_holes(&self, range: PageRange) -> Option<PageRange> {
        self.map().assign_but_holes(range)
    }

    /// No mapping shows `range` natively any more. What it holds is unknown until it is surveyed again. Nothing changes, and the answer is no, if some of it is [kept](Self::keep). Never waits.
    pub fn release(&self, range: PageRange) -> bool {
        self.map().release(range)
    }

    /// Whether it is known what page `index` would be answered as: if not, a survey could make it a hole. Never waits.
    #[must_use]
    pub fn knows(&self, index: PageIndex) -> bool {
        self.map().knows(index)
    }

    /// How many pages of `range` would be answered as holes now; with none, a plain mapping is the best one. Never waits.
    #[must_use]
    pub fn hole_pages(&self, range: PageRange) -> u64 {
        self.map().hole_pages(range)
    }

    /// The first run of pages in `range` that would be answered as holes now. Never waits.
    #[must_use]
    pub fn first_hole(&self, range: PageRange) -> Option<PageRange> {
        self.map().first_hole(range)
    }

    /// The run of pages around `index` that would be answered as holes now, if that is one. Never waits.
    #[must_use]
    pub fn hole_at(&self, index: PageIndex) -> Option<PageRange> {
        self.map().hole_at(index)
    }

    fn map(&self) -> MutexGuard<'_, HoleMap> {
        // Nobody panics between two changes that belong together.
        self.shared.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filesystem for HostFile {
    /// A length that cannot be had counts as 0: the fault goes to the host kernel then, which knows.
    fn size_bytes(&self) -> u64 {
        self.shared.io.size_bytes().unwrap_or(0)
    }

    /// Makes no system call but fstat(2). The host kernel itself allocates, when the store arrives at its own mapping.
    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        if range.is_empty() {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        if intent == Intent::Move {
            // The host kernel puts pages where it likes, and its mapping shows them in whatever size it can.
            return Err(IoError::from_errno(EOPNOTSUPP));
        }
        let eof = pages_of(self.shared.io.size_bytes()?);
        Ok(self.map().answer(range, intent, eof))
    }

    fn iomap_end(&self, _iomap: &Iomap, _done: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        let moment = self.map().now();
        let before = pages_of(self.shared.io.size_bytes()?);
        self.shared.io.set_size(bytes)?;
        self.map().resized(before, pages_of(bytes), moment);
        Ok(())
    }

    fn free(&self, range: PageRange) -> Result<(), IoError> {
        let moment = self.map().now();
        let eof = pages_of(self.shared.io.size_bytes()?);
        // Some file systems refuse ranges that end past the largest file that they can have.
        let (offset, length_bytes) =
            bytes_of(range.intersect(PageRange::between(PageIndex(0), eof)));
        if length_bytes > 0 {
            self.shared.io.punch(offset, length_bytes)?;
            self.map().punched(range, eof, moment);
        }
        Ok(())
    }

    /// Data and metadata: the part that [`Media::flush`] leaves to it is done here.
    fn commit(&self, range: PageRange) -> Result<(), IoError> {
        let (offset, length_bytes) = bytes_of(range);
        if length_bytes == 0 {
            return Ok(());
        }
        self.shared.io.sync(offset, length_bytes)
    }

    /// Nothing: the host kernel sets the times when a store arrives at its own mapping.
    fn note_store(&self) {}
}

impl Media for HostFile {
    fn direct_access(&self, frames: FrameRange, _access: MediaAccess) -> Result<u64, IoError> {
        Ok(frames.count)
    }

    /// Nothing: the host kernel knows what is dirty in its own mappings, and [`Filesystem::commit`] has it written, once for
    /// all that were flushed.
    fn flush(&self, _frames: FrameRange) -> Result<(), IoError> {
        Ok(())
    }

    fn load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError> {
        self.shared.io.read_at(into, byte_of(frame, offset)?)
    }

    /// As durable as write(2) is: with the next [`Filesystem::commit`].
    fn store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError> {
        self.shared.io.write_at(from, byte_of(frame, offset)?)
    }

    /// As durable as write(2) is. Bytes past the end of the file are zeros already, and must not make it longer.
    fn zero(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError> {
        const ZEROS: [u8; 1 << PAGE_SHIFT] = [0; 1 << PAGE_SHIFT];
        let start = byte_of(frame, offset)?;
        let end = start.saturating_add(length).min(self.shared.io.size_bytes()?);
        let mut at = start;
        while at < end {
            let chunk = usize::try_from(end - at).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
            match self.shared.io.write_at(&ZEROS[..chunk], at)? {
                0 => return Err(IoError::new(IoErrorKind::Io)),
                written => at += written as u64,
            }
        }
        Ok(())
    }

    /// None: the host kernel keeps the pages that devices have pinned alive by itself.
    fn first_pinned(&self, _frames: FrameRange) -> Option<Frame> {
        None
    }

    fn wait_unpinned(&self, _frame: Frame) {}
}

/// How a survey goes on.
#[derive(Default)]
struct Progress {
    lookups: u32,
    /// Where the last data ended, and how many pages of it were taken for data at once.
    last: PageIndex,
    pages: u64,
}

impl Progress {
    /// Data was found in page `first`: where to look next. Twice as far as before if it lies right behind the last data, up to the end of its 2 MiB.
    fn skip(&mut self, first: PageIndex) -> PageIndex {
        self.pages = if first == self.last { (self.pages * 2).min(PMD_PAGES) } else { 1 };
        let unit_end = first.align_down(Order::Pmd).plus(PMD_PAGES);
        self.last = first.plus(self.pages).min(unit_end);
        self.last
    }
}

/// Offset and length of `range`, cut at the largest offset there is.
fn bytes_of(range: PageRange) -> (u64, u64) {
    let limit = |index: PageIndex| index.0.saturating_mul(PAGE_BYTES).min(OFFSET_LIMIT);
    let (start, end) = (limit(range.start), limit(range.end));
    (start, end.saturating_sub(start))
}

/// Where byte `offset` of `frame` is in the file.
fn byte_of(frame: Frame, offset: u64) -> Result<u64, IoError> {
    frame
        .0
        .checked_mul(1 << PAGE_SHIFT)
        .and_then(|start| start.checked_add(offset))
        .filter(|&byte| byte <= OFFSET_LIMIT)
        .ok_or(IoError::new(IoErrorKind::OutOfRange))
}
