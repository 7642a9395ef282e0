//! A file: its length, its extents, what of both is durable, and how the engine asks for them.

use crate::cache::Evicted;
use crate::extents::{At, Extent, ExtentMap, Fill};
use crate::fs::SimFs;
use crate::plan::{Failures, Plan};
use crate::platform::{SimGuard, SimLock};
use crate::sched::yield_point;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use udax_core::{
    Backing, Filesystem, Frame, FrameRange, Intent, IoError, IoErrorKind, Iomap, Media as _,
    PAGE_BYTES, PageIndex, PageRange, ShortLock as _,
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

/// A block for the copy of a shared page.
#[derive(Debug)]
struct Reserved {
    block: u64,
    /// How many operations copy there, or have been told to.
    users: u64,
}

#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) size: u64,
    pub(crate) extents: ExtentMap,
    /// Blocks reserved for pages whose shared storage is being copied.
    copies: BTreeMap<u64, Reserved>,
    durable: (u64, ExtentMap),
}

impl FileState {
    fn is_durable(&self) -> bool {
        self.durable.0 == self.size && self.durable.1.changes() == self.extents.changes()
    }
}

#[derive(Debug)]
struct Inode {
    fs: Arc<SimFs>,
    state: SimLock<FileState>,
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
            durable: (size, ExtentMap::default()),
        };
        let inode = Inode {
            fs,
            state: SimLock::new(state),
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

    fn frames(&self, block: u64, count: u64) -> FrameRange {
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
            for block in extent.block..extent.block + pages {
                self.inode.fs.media().zero(self.inode.fs.frame(block), 0, PAGE_BYTES)?;
            }
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
            space.give_back(extent.block, extent.pages);
        }
        for page in pages {
            if let Some(reserved) = state.copies.remove(&page) {
                space.give_back(reserved.block, 1);
            }
        }
    }

    /// What is at the start of `range`, with sharing: how far it goes.
    fn look_up(&self, state: &FileState, range: PageRange) -> (Backing, bool, u64) {
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

    /// Blocks to copy shared pages to: those reserved before, or new ones.
    fn reserve_copy(
        &self,
        state: &mut FileState,
        page: u64,
        wanted: u64,
    ) -> Result<(u64, u64, bool), IoError> {
        if let Some(&Reserved { block, .. }) = state.copies.get(&page) {
            let mut run = 0;
            while run < wanted {
                let next = state.copies.get_mut(&(page + run));
                let Some(next) = next.filter(|next| next.block == block + run) else { break };
                next.users += 1;
                run += 1;
            }
            return Ok((block, run, false));
        }
        let free = state.copies.range(page..page + wanted).next().map_or(wanted, |(p, _)| p - page);
        let found = self.inode.fs.space().allocate(page, free, None);
        let (block, got) = found.ok_or(IoError::from_errno(ENOSPC))?;
        self.inode.fs.media().make_stale(self.frames(block, got));
        let reserved = |n| (page + n, Reserved { block: block + n, users: 1 });
        state.copies.extend((0..got).map(reserved));
        Ok((block, got, true))
    }

    /// The copied pages take the place of the shared ones; reserved blocks that were not used go back.
    fn finish_copy(&self, state: &mut FileState, iomap: &Iomap, done: u64) {
        let Backing::Mapped(first) = iomap.backing else { return };
        for page in iomap.range.start.0..iomap.range.end.0 {
            let number = page - iomap.range.start.0;
            // Somebody else who copies the same page may have finished before, and given it other storage since.
            let reserved = state.copies.get_mut(&page);
            let block = first.0 - self.inode.fs.frame(0).0 + number;
            let Some(reserved) = reserved.filter(|reserved| reserved.block == block) else {
                continue;
            };
            reserved.users -= 1;
            if number < done {
                state.copies.remove(&page);
                let here = PageRange::new(PageIndex(page), 1);
                self.drop_storage(state, here);
                state.extents.insert(page, Extent { pages: 1, block, fill: Fill::Written });
            } else if reserved.users == 0 {
                state.copies.remove(&page);
                self.inode.fs.space().give_back(block, 1);
            }
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

    /// The file's bytes, as a load would see them now; poison does not matter.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let (size, extents) = self.snapshot();
        self.bytes(size, &extents, |frame, into| self.inode.fs.media().peek(frame, 0, into))
    }

    /// The file's bytes after a power cut now: durable length, durable extents, durable bytes.
    #[must_use]
    pub fn contents_after_crash(&self, evicted: Evicted) -> Vec<u8> {
        let (size, extents) = self.state().durable.clone();
        let image = self.inode.fs.media().crash(evicted);
        self.bytes(size, &extents, |frame, into| image.read(frame, 0, into))
    }

    fn bytes(&self, size: u64, extents: &ExtentMap, read: impl Fn(Frame, &mut [u8])) -> Vec<u8> {
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("the file fits in memory");
        let mut all = vec![0; in_memory(size)];
        for (start, extent) in extents.iter().filter(|(_, extent)| extent.fill == Fill::Written) {
            let at = in_memory(start * PAGE_BYTES);
            if at >= all.len() {
                break;
            }
            let end = all.len().min(at + in_memory(extent.pages * PAGE_BYTES));
            read(self.inode.fs.frame(extent.block), &mut all[at..end]);
        }
        all
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
        })?;
        if range.is_empty() {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        if intent == Intent::Write {
            self.inode.fs.journal.pass();
        }
        let mut state = self.state();
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
        iomap.metadata_dirty = !state.is_durable();
        Ok(iomap)
    }

    fn iomap_end(&self, iomap: &Iomap, done: u64) -> Result<(), IoError> {
        yield_point();
        if iomap.copy_from.is_some() {
            self.finish_copy(&mut self.state(), iomap, done);
        }
        self.inode.failures.check(FsCall::End)
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
        let mut state = self.state();
        state.durable = (state.size, state.extents.clone());
        self.inode.fs.space().release_held();
        Ok(())
    }

    fn note_store(&self) {
        self.inode.fs.freezer.pass();
        self.inode.modified.fetch_add(1, Ordering::Relaxed);
    }
}
