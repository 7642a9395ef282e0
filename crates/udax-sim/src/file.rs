//! A file: its length, its extents, what of both is durable, and how the engine asks for them.

use crate::copies::Reserved;
use crate::extents::{At, Extent, ExtentMap, Fill};
use crate::fs::SimFs;
use crate::plan::{Failures, Plan};
use crate::platform::{SimGuard, SimLock};
use crate::sched::yield_point;
use crate::space_map::Freed;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{
    Backing, Filesystem, Frame, FrameRange, Intent, IoError, IoErrorKind, Iomap, PAGE_BYTES,
    PageIndex, PageRange, ShortLock as _,
};

const ENOSPC: i32 = 28;

/// The calls of [`Filesystem`] that can be counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsCall {
    /// [`Filesystem::iomap_begin`] for [`Intent::Read`].
    BeginRead,
    /// For [`Intent::Write`].
    BeginWrite,
    /// For [`Intent::Zero`].
    BeginZero,
    /// For [`Intent::Move`].
    BeginMove,
    /// [`Filesystem::iomap_end`].
    End,
    /// [`Filesystem::set_size`].
    SetSize,
    /// [`Filesystem::free`].
    Free,
    /// [`Filesystem::commit`].
    Commit,
}

/// A run of pages with storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "fiemap_extent")]
pub struct FileExtent {
    /// The pages.
    pub range: PageRange,
    /// Their storage.
    pub backing: Backing,
    /// Whether another file has it too.
    pub shared: bool,
}

#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) size: u64,
    pub(crate) extents: ExtentMap,
    /// Blocks reserved for pages whose shared storage is being copied.
    pub(crate) copies: BTreeMap<u64, Reserved>,
    /// Runs of blocks that the file has no more, but would have again after a power cut.
    pub(crate) held: Vec<(u64, u64)>,
}

impl FileState {
    /// Whether a store to `page` has to go to a copy, and for how many of `pages` pages the answer is the same: where the storage `is_shared`, and where
    /// a copy is under way though the sharing has ended since, or what is stored to the old would be lost.
    fn copying(&self, page: u64, is_shared: bool, pages: u64) -> (bool, u64) {
        let mut copies = self.copies.range(page..page + pages).map(|(page, _)| *page);
        match copies.next() {
            Some(_) if is_shared => (true, pages),
            Some(first) if first > page => (false, first - page),
            Some(_) => (
                true,
                1 + (page + 1..page + pages).take_while(|next| copies.next() == Some(*next)).count()
                    as u64,
            ),
            None => (is_shared, pages),
        }
    }
}

/// What of a file's metadata would be there after a power cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub(crate) size: u64,
    pub(crate) extents: ExtentMap,
}

impl Durable {
    fn is_all_of(&self, state: &FileState) -> bool {
        self.size == state.size && self.extents.changes() == state.extents.changes()
    }
}

#[derive(Debug)]
struct Inode {
    fs: Arc<SimFs>,
    state: SimLock<FileState>,
    /// Changed under the lock of `state`. Behind one of its own, so that a power cut can come at any moment.
    durable: Mutex<Durable>,
    failures: Failures<FsCall, IoError>,
    modified: AtomicU64,
}

/// A file of a [`SimFs`]. A handle: its clones are the same file.
#[derive(Clone, Debug)]
pub struct SimFile {
    inode: Arc<Inode>,
}

impl SimFile {
    pub(crate) fn new(fs: Arc<SimFs>, size: u64) -> Self {
        let state = FileState {
            size,
            extents: ExtentMap::default(),
            copies: BTreeMap::new(),
            held: Vec::new(),
        };
        let inode = Inode {
            fs,
            state: SimLock::new(state),
            durable: Mutex::new(Durable { size, extents: ExtentMap::default() }),
            failures: Failures::new(),
            modified: AtomicU64::new(0),
        };
        Self { inode: Arc::new(inode) }
    }

    /// The file system it is on.
    #[must_use]
    pub fn fs(&self) -> &Arc<SimFs> {
        &self.inode.fs
    }

    /// Plans failures of `call`, in place of those planned before.
    pub fn fail(&self, call: FsCall, plan: Plan, error: IoError) {
        self.inode.failures.plan(call, plan, error);
    }

    /// How often `call` was called.
    #[must_use]
    pub fn calls(&self, call: FsCall) -> u64 {
        self.inode.failures.count(call)
    }

    /// How often a store was announced: the modification time.
    #[must_use]
    pub fn modified(&self) -> u64 {
        self.inode.modified.load(Ordering::Relaxed)
    }

    pub(crate) fn state(&self) -> SimGuard<'_, FileState> {
        self.inode.state.lock()
    }

    pub(crate) fn durable(&self) -> MutexGuard<'_, Durable> {
        self.inode.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Storage for the hole of `pages` pages at `page`, as unwritten; how many got some.
    pub(crate) fn allocate_run(
        &self,
        state: &mut FileState,
        page: u64,
        pages: u64,
    ) -> Result<u64, IoError> {
        let expected = state.extents.expected(page);
        let found = self.inode.fs.space().allocate(page, pages, expected);
        let (block, pages) = found.ok_or(IoError::from_errno(ENOSPC))?;
        self.inode.fs.media().make_stale(self.frames(block, pages));
        state.extents.insert(page, Extent { pages, block, fill: Fill::Unwritten });
        Ok(pages)
    }

    pub(crate) fn frames(&self, block: u64, count: u64) -> FrameRange {
        FrameRange { start: self.inode.fs.frame(block), count }
    }

    /// Zeroes the unwritten storage of `pages` pages at `page` and makes it written.
    pub(crate) fn convert(
        &self,
        state: &mut FileState,
        page: u64,
        pages: u64,
    ) -> Result<(), IoError> {
        if let At::Extent(extent) = state.extents.at(page) {
            self.inode.fs.media().zero_frames(self.frames(extent.block, pages))?;
        }
        for (start, extent) in state.extents.remove(page, page + pages) {
            state.extents.insert(start, Extent { fill: Fill::Written, ..extent });
        }
        Ok(())
    }

    /// Takes the storage of `range` away; reserved copies too.
    pub(crate) fn drop_storage(&self, state: &mut FileState, range: PageRange) {
        let gone = state.extents.remove(range.start.0, range.end.0);
        let pages: Vec<u64> =
            state.copies.range(range.start.0..range.end.0).map(|(page, _)| *page).collect();
        let mut space = self.inode.fs.space();
        for (_, extent) in gone {
            match space.freed {
                Freed::AtOnce => space.give_back(extent.block, extent.pages),
                Freed::AfterCommit => state.held.push((extent.block, extent.pages)),
            }
        }
        for page in pages {
            if let Some(reserved) = state.copies.remove(&page) {
                space.give_back(reserved.block, 1);
            }
        }
    }

    /// What is at the start of `range`, with sharing: how far it goes.
    pub(crate) fn look_up(&self, state: &FileState, range: PageRange) -> (Backing, bool, u64) {
        match state.extents.at(range.start.0) {
            At::Hole(next) => {
                // To the next extent, or past both what was asked for and the end of the file.
                let end = range.end.0.max(state.size.div_ceil(PAGE_BYTES));
                (Backing::Hole, false, next.unwrap_or(end) - range.start.0)
            }
            At::Extent(Extent { pages, fill: Fill::Unwritten, .. }) => {
                (Backing::Unwritten, false, pages)
            }
            At::Extent(Extent { pages, block, fill: Fill::Written }) => {
                let (is_shared, pages) = self.inode.fs.space().sharing(block, pages);
                let (is_shared, pages) = state.copying(range.start.0, is_shared, pages);
                (Backing::Mapped(self.inode.fs.frame(block)), is_shared, pages)
            }
        }
    }

    /// The extent for a store: allocated, zeroed, or reserved for a copy, as need be.
    fn look_up_for_store(&self, state: &mut FileState, range: PageRange) -> Result<Iomap, IoError> {
        let page = range.start;
        let (backing, is_shared, pages) = self.look_up(state, range);
        let wanted = pages.min(range.len());
        let mut iomap = Iomap {
            range: PageRange::new(page, pages),
            backing,
            is_new: false,
            metadata_dirty: false,
            copy_from: None,
        };
        match backing {
            Backing::Hole => {
                let got = self.allocate_run(state, page.0, wanted)?;
                if let Err(error) = self.convert(state, page.0, got) {
                    self.drop_storage(state, PageRange::new(page, got));
                    return Err(error);
                }
                iomap.range = PageRange::new(page, got);
            }
            Backing::Unwritten => {
                self.convert(state, page.0, wanted)?;
                iomap.range = PageRange::new(page, wanted);
            }
            Backing::Mapped(_) if is_shared => {
                let (block, got, is_new) = self.reserve_copy(state, page.0, wanted)?;
                iomap.range = PageRange::new(page, got);
                iomap.copy_from = Some(backing);
                iomap.backing = Backing::Mapped(self.inode.fs.frame(block));
                iomap.is_new = is_new;
                return Ok(iomap);
            }
            Backing::Mapped(_) | Backing::Other => return Ok(iomap),
        }
        iomap.is_new = true;
        if let At::Extent(extent) = state.extents.at(page.0) {
            iomap.backing = Backing::Mapped(self.inode.fs.frame(extent.block));
        }
        Ok(iomap)
    }

    /// What is so now would be so after a power cut, and what was held for that can be had again.
    fn make_durable(&self, state: &mut FileState) {
        *self.durable() = Durable { size: state.size, extents: state.extents.clone() };
        let mut space = self.inode.fs.space();
        for (block, pages) in state.held.drain(..) {
            space.give_back(block, pages);
        }
    }

    /// The storage of a page that has some, made written without a call that counts.
    pub(crate) fn poke_page(&self, state: &mut FileState, page: u64) -> Frame {
        for (start, extent) in state.extents.remove(page, page + 1) {
            if extent.fill == Fill::Unwritten {
                self.inode.fs.media().poke_zeros(self.inode.fs.frame(extent.block));
            }
            state.extents.insert(start, Extent { fill: Fill::Written, ..extent });
        }
        let At::Extent(extent) = state.extents.at(page) else {
            panic!("page {page} has no storage");
        };
        self.inode.fs.frame(extent.block)
    }

    pub(crate) fn snapshot(&self) -> (u64, ExtentMap) {
        let state = self.state();
        (state.size, state.extents.clone())
    }

    pub(crate) fn become_copy(&self, size: u64, extents: impl Iterator<Item = (u64, Extent)>) {
        let mut state = self.state();
        self.drop_storage(&mut state, PageRange::from(PageIndex(0)));
        state.size = size;
        for (page, extent) in extents {
            state.extents.insert(page, extent);
        }
    }

    /// The extents, as they are now.
    #[must_use]
    #[doc(alias = "fiemap")]
    pub fn extents(&self) -> Vec<FileExtent> {
        let state = self.state();
        let mut all = Vec::new();
        for (start, extent) in state.extents.iter() {
            let mut page = start;
            while page < start + extent.pages {
                let rest = PageRange::new(PageIndex(page), start + extent.pages - page);
                let (backing, shared, pages) = self.look_up(&state, rest);
                all.push(FileExtent { range: PageRange::new(rest.start, pages), backing, shared });
                page += pages;
            }
        }
        all
    }

    /// The written storage of a page.
    #[must_use]
    pub fn frame_of(&self, page: PageIndex) -> Option<Frame> {
        match self.state().extents.at(page.0) {
            At::Extent(Extent { block, fill: Fill::Written, .. }) => {
                Some(self.inode.fs.frame(block))
            }
            At::Extent(_) | At::Hole(_) => None,
        }
    }
}

impl Filesystem for SimFile {
    fn size_bytes(&self) -> u64 {
        self.state().size
    }

    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        yield_point();
        self.inode.failures.check(match intent {
            Intent::Read => FsCall::BeginRead,
            Intent::Write => FsCall::BeginWrite,
            Intent::Zero => FsCall::BeginZero,
            Intent::Move => FsCall::BeginMove,
        })?;
        if range.is_empty() {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        if matches!(intent, Intent::Write | Intent::Move) {
            self.inode.fs.journal.pass();
        }
        let mut state = self.state();
        if intent == Intent::Move {
            return self.reserve_move(&mut state, range);
        }
        let (backing, is_shared, pages) = self.look_up(&state, range);
        let mut iomap = if intent == Intent::Write || (intent == Intent::Zero && is_shared) {
            self.look_up_for_store(&mut state, range)?
        } else {
            Iomap {
                range: PageRange::new(range.start, pages),
                backing,
                is_new: false,
                metadata_dirty: false,
                copy_from: None,
            }
        };
        // A copy takes its place in the file when the operation is closed, so until the next commit it is not durable.
        iomap.metadata_dirty = iomap.copy_from.is_some() || !self.durable().is_all_of(&state);
        Ok(iomap)
    }

    fn iomap_end(&self, iomap: &Iomap, done: u64) -> Result<(), IoError> {
        yield_point();
        let failed = self.inode.failures.check(FsCall::End);
        if iomap.copy_from.is_some() {
            let mut state = self.state();
            let first = state.copies.get(&iomap.range.start.0);
            let moves = first.is_some_and(|reserved| reserved.moves);
            // A move that fails has not happened; for a copy it is too late to say so.
            let done = if moves && failed.is_err() { 0 } else { done };
            self.finish_copy(&mut state, iomap, done);
            if moves && done > 0 {
                self.make_durable(&mut state);
            }
        }
        failed
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        self.inode.failures.check(FsCall::SetSize)?;
        // Storage beyond the end is given back by `free` alone: it may still be mapped.
        self.state().size = bytes;
        Ok(())
    }

    fn free(&self, range: PageRange) -> Result<(), IoError> {
        self.inode.failures.check(FsCall::Free)?;
        self.drop_storage(&mut self.state(), range);
        Ok(())
    }

    fn commit(&self, _range: PageRange) -> Result<(), IoError> {
        yield_point();
        self.inode.failures.check(FsCall::Commit)?;
        self.inode.fs.journal.pass();
        self.make_durable(&mut self.state());
        Ok(())
    }

    fn note_store(&self) {
        self.inode.fs.freezer.pass();
        self.inode.modified.fetch_add(1, Ordering::Relaxed);
    }
}
