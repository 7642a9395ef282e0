//! The file system and the storage of the one file: a byte for each page that somebody looks at.
//!
//! Glossary: a *tracked* page is one of the first few of its 2 MiB, the only ones that are accessed; the *rest* of a unit is storage in one
//! piece or none; a frame is never used twice, so a translation or an entry that names one which the file has no more is a bug; a page is
//! *published* once whoever stored to it may rely on it: from then on a zero page shows what is not so.

use crate::platform::Checker;
use crate::tables::Tables;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use udax_core::{
    Backing, Counter, Filesystem, Frame, FrameRange, Guarded, Intent, IoError, IoErrorKind, Iomap,
    Media, MediaAccess, Order, PAGE_BYTES, PMD_PAGES, PageIndex, PageRange, ShortLock,
};

/// Pages at the start of each unit that have a byte of their own.
pub const TRACKED: usize = 3;

/// [`PMD_PAGES`] for places.
const UNIT: usize = 512;
const _: () = assert!(UNIT as u64 == PMD_PAGES);

/// Allocations that a unit can make before its frames run into those of the next.
const ALLOCATIONS: u64 = 256;

/// Frames from one allocation to the next: room for 2 MiB, and for being out of step with them.
const STRIDE: u64 = 2 * PMD_PAGES;

/// One tracked page.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Page {
    pub(crate) frame: Option<Frame>,
    /// Its byte, and how often it was stored to.
    pub(crate) byte: u8,
    pub(crate) stores: u32,
    /// How many of the stores a crash would not lose.
    pub(crate) durable: u32,
    pub(crate) published: bool,
    /// It holds what was stored before the threads began.
    pub(crate) from_start: bool,
    /// A crash would lose the way to the storage.
    pub(crate) metadata_dirty: bool,
}

/// One 2 MiB of the file.
#[derive(Debug, Default, Hash)]
pub(crate) struct Unit {
    pub(crate) pages: [Page; TRACKED],
    /// The frame of the page behind the tracked ones.
    rest: Option<Frame>,
    allocations: u64,
    /// The storage that the pages are being moved to.
    moved: Option<[Page; TRACKED]>,
}

impl Guarded for Unit {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        self.hash(&mut state);
        true
    }
}

impl Unit {
    fn frame(&self, page: usize) -> Option<Frame> {
        match self.pages.get(page) {
            Some(page) => page.frame,
            None => self.rest.map(|rest| rest.plus((page - TRACKED) as u64)),
        }
    }

    /// The piece that starts at `page`: its frame and where it ends.
    fn extent(&self, page: usize) -> (Option<Frame>, usize) {
        let first = self.frame(page);
        let mut end = page + 1;
        while end < TRACKED && self.frame(end) == first.map(|first| first.plus((end - page) as u64))
        {
            end += 1;
        }
        let goes_on = end >= TRACKED
            && self.rest == first.map(|first| first.plus((TRACKED.max(page) - page) as u64));
        (first, if goes_on { UNIT } else { end })
    }

    fn begin_move(&mut self, to: Frame) {
        let mut number = 0;
        self.moved = Some([(); TRACKED].map(|()| {
            number += 1;
            Page { frame: Some(to.plus(number - 1)), ..Page::default() }
        }));
    }

    /// Exchanges the old storage for the new, if the pages were copied. No-one may have stored to the old since the copy, nor may
    /// a store be known to the old alone.
    fn end_move(&mut self, copied: bool) {
        let Some(moved) = self.moved.take().filter(|_| copied) else { return };
        for (page, new) in self.pages.iter_mut().zip(moved) {
            assert!(new.stores > 0, "storage is exchanged for some that was not copied to");
            assert_eq!(page.byte, new.byte, "a store was lost in a move");
            page.frame = new.frame;
            page.durable = page.stores;
        }
        self.rest = self.pages[0].frame.map(|first| first.plus(TRACKED as u64));
    }

    /// Frames that were never used, the first of them aligned.
    fn new_frames(&mut self, unit: u64) -> Frame {
        self.allocations += 1;
        assert!(self.allocations < ALLOCATIONS, "the model is larger than its frame numbers");
        Frame(STRIDE * (unit * ALLOCATIONS + self.allocations))
    }

    /// Storage of zeros for the holes of `pages`; in one piece, aligned, if it is all of the unit.
    fn allocate(&mut self, unit: u64, pages: std::ops::Range<usize>) {
        let base = self.new_frames(unit);
        let whole = pages == (0..UNIT);
        // One page further on than a 2 MiB translation could use.
        let base = if whole { base } else { base.plus(1) };
        for (number, page) in self.pages.iter_mut().enumerate() {
            if pages.contains(&number) && page.frame.is_none() {
                *page = Page {
                    frame: Some(base.plus(number as u64)),
                    metadata_dirty: true,
                    ..Page::default()
                };
            }
        }
        if pages.start <= TRACKED && pages.end == UNIT && self.rest.is_none() {
            self.rest = Some(base.plus(TRACKED as u64));
        }
    }
}

/// Both in one, as the engine asks them separately but a page is one thing.
pub struct Disk<P: Checker> {
    pages: P::Counter,
    units: Vec<P::Lock<Unit>>,
    /// Whether stores may have to wait for metadata (MAP_SYNC).
    has_metadata: bool,
    /// Every VMA's page tables: nobody may be shown storage that is given back.
    tables: [Arc<Tables<P>>; 2],
}

impl<P: Checker> Disk<P> {
    pub(crate) fn new(pages: usize, has_metadata: bool, tables: [Arc<Tables<P>>; 2]) -> Arc<Self> {
        let units = (0..pages.div_ceil(UNIT)).map(|_| ShortLock::new(Unit::default())).collect();
        Arc::new(Self { pages: P::Counter::new(pages), units, has_metadata, tables })
    }

    /// Whether page `index` lies before the end of the file.
    pub(crate) fn contains(&self, index: u64) -> bool {
        index < self.pages.load() as u64
    }

    pub(crate) fn units(&self) -> u64 {
        self.units.len() as u64
    }

    pub(crate) fn unit(&self, number: u64) -> <P::Lock<Unit> as ShortLock<Unit>>::Guard<'_> {
        self.units[usize::try_from(number).unwrap_or(usize::MAX)].lock()
    }

    /// Gives the pages of `range` storage.
    pub(crate) fn allocate(&self, range: PageRange) {
        self.each_unit(range, |number, unit, pages| unit.allocate(number, pages));
    }

    /// Calls `act` for each unit of the file that has pages of `range`, with the numbers of those pages in it.
    fn each_unit(
        &self,
        range: PageRange,
        mut act: impl FnMut(u64, &mut Unit, std::ops::Range<usize>),
    ) {
        for number in 0..self.units() {
            let unit = PageRange::unit(PageIndex(number * PMD_PAGES), Order::Pmd);
            let part = unit.intersect(range);
            if !part.is_empty() {
                let place = |index: PageIndex| {
                    usize::try_from(index.0 - unit.start.0).unwrap_or(usize::MAX)
                };
                act(number, &mut self.unit(number), place(part.start)..place(part.end));
            }
        }
    }

    /// Calls `act` for the tracked pages that `frames` are the storage of.
    ///
    /// # Panics
    /// If the file has none of them (any more).
    #[track_caller]
    fn each_page_of(&self, frames: FrameRange, why: &str, mut act: impl FnMut(&mut Page)) {
        let end = frames.start.0 + frames.count;
        if frames.count == 1 && frames.start.0 % PMD_PAGES > TRACKED as u64 {
            // Behind the tracked pages, whichever way the storage lies: nobody looks there, so loom need not either.
            return;
        }
        let mut unit = self.unit(frames.start.0 / STRIDE / ALLOCATIONS);
        let has = |frame: Frame| (frames.start.0..end).contains(&frame.0);
        let Unit { pages, moved, rest, .. } = &mut *unit;
        let moved_rest =
            moved.and_then(|moved| moved[0].frame).map(|first| first.plus(TRACKED as u64));
        let mut found = [*rest, moved_rest]
            .into_iter()
            .flatten()
            .any(|rest| rest.0 < end && frames.start.0 < rest.0 + PMD_PAGES - TRACKED as u64);
        // Storage that the pages are being moved to is not the file's yet.
        for page in pages.iter_mut().chain(moved.iter_mut().flatten()) {
            if page.frame.is_some_and(has) {
                found = true;
                act(page);
            }
        }
        assert!(found, "{why} {frames:?}, which the file has given back");
    }
}

/// The disk as the engine's file system. It answers for one unit at a time.
pub struct File<P: Checker>(pub(crate) Arc<Disk<P>>);

impl<P: Checker> File<P> {
    /// The extent at the start of `range`, after what `intent` asks for.
    fn extent(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        let number = range.start.0 / PMD_PAGES;
        if number >= self.0.units() {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        let mut unit = self.0.unit(number);
        if intent == Intent::Move {
            let to = unit.new_frames(number).plus(PMD_PAGES);
            unit.begin_move(to);
            return Ok(Iomap {
                range,
                backing: Backing::Mapped(to),
                is_new: true,
                metadata_dirty: false,
                copy_from: None,
            });
        }
        let start = PageIndex(number * PMD_PAGES);
        let first = usize::try_from(range.start.colour()).unwrap_or(0);
        let last = usize::try_from(range.end.0 - start.0).unwrap_or(usize::MAX).min(UNIT);
        let is_new = intent == Intent::Write && unit.frame(first).is_none();
        if is_new {
            unit.allocate(number, first..last);
        }
        let (frame, end) = unit.extent(first);
        let metadata_dirty =
            self.0.has_metadata && unit.pages.get(first).is_some_and(|page| page.metadata_dirty);
        Ok(Iomap {
            range: PageRange::between(range.start, start.plus(end as u64)),
            backing: frame.map_or(Backing::Hole, Backing::Mapped),
            is_new,
            metadata_dirty,
            copy_from: None,
        })
    }
}

impl<P: Checker> Filesystem for File<P> {
    fn size_bytes(&self) -> u64 {
        P::told(|| self.0.pages.load() as u64 * PAGE_BYTES)
    }

    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        P::told(|| self.extent(range, intent))
    }

    fn iomap_end(&self, iomap: &Iomap, pages: u64) -> Result<(), IoError> {
        // No other storage of a whole unit lies so.
        let is_move = |first: Frame| first.0 % STRIDE == PMD_PAGES;
        if iomap.range.len() == PMD_PAGES
            && matches!(iomap.backing, Backing::Mapped(first) if is_move(first))
        {
            let number = iomap.range.start.0 / PMD_PAGES;
            P::told(|| self.0.unit(number).end_move(pages == PMD_PAGES));
        }
        Ok(())
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        self.0.pages.store(usize::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(usize::MAX));
        Ok(())
    }

    fn free(&self, range: PageRange) -> Result<(), IoError> {
        P::told(|| {
            for tables in &self.0.tables {
                tables.demand_no_storage(range);
            }
            self.0.each_unit(range, |_, unit, pages| {
                for (number, page) in unit.pages.iter_mut().enumerate() {
                    if pages.contains(&number) {
                        *page = Page::default();
                    }
                }
                if pages.contains(&TRACKED) {
                    unit.rest = None;
                }
            });
        });
        Ok(())
    }

    fn commit(&self, range: PageRange) -> Result<(), IoError> {
        if self.0.has_metadata {
            let clean = |_: u64, unit: &mut Unit, pages: std::ops::Range<usize>| {
                for (number, page) in unit.pages.iter_mut().enumerate() {
                    page.metadata_dirty &= !pages.contains(&number);
                }
            };
            P::told(|| self.0.each_unit(range, clean));
        }
        Ok(())
    }

    fn note_store(&self) {}
}

/// The disk as the engine's media.
pub struct Storage<P: Checker>(pub(crate) Arc<Disk<P>>);

impl<P: Checker> Media for Storage<P> {
    fn direct_access(&self, frames: FrameRange, _: MediaAccess) -> Result<u64, IoError> {
        Ok(frames.count)
    }

    fn flush(&self, frames: FrameRange) -> Result<(), IoError> {
        P::told(|| {
            self.0.each_page_of(frames, "a flush of", |page| page.durable = page.stores);
        });
        Ok(())
    }

    fn load(&self, start: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError> {
        into.fill(0);
        if offset == 0 {
            into[0] = P::told(|| {
                let mut byte = 0;
                let frames = FrameRange { start, count: 1 };
                self.0.each_page_of(frames, "a copy from", |page| byte = page.byte);
                byte
            });
        }
        Ok(into.len())
    }

    fn store(&self, start: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError> {
        if offset == 0 {
            let frames = FrameRange { start, count: 1 };
            P::told(|| {
                self.0.each_page_of(frames, "a copy to", |page| {
                    page.byte = from[0];
                    page.stores += 1;
                    page.durable = page.stores;
                });
            });
        }
        Ok(from.len())
    }

    fn zero(&self, start: Frame, offset: u64, _: u64) -> Result<(), IoError> {
        self.store(start, offset, &[0]).map(|_| ())
    }

    fn first_pinned(&self, _: FrameRange) -> Option<Frame> {
        None
    }

    fn wait_unpinned(&self, _: Frame) {}
}
