//! The simulated world behind a journal and hooks.

use super::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use udax_core::{
    AddressSpace, Filesystem, Frame, FrameRange, InstallError, Intent, IoError, Iomap, Media,
    MediaAccess, Order, Owner, PageIndex, PageRange, Pmd, PrivateCopies, Rights, World,
    WriteTracking,
};
use udax_sim::{SimFile, SimMedia, SimPlatform, SimSpace};

type Hook = Box<dyn FnMut() + Send>;
type Change = Box<dyn FnMut(Iomap) -> Iomap + Send>;

/// The journal of what was asked of the world, and what is to happen then.
#[derive(Default)]
pub struct Points {
    journal: Mutex<Vec<String>>,
    hooks: Mutex<HashMap<String, Hook>>,
    iomap: Mutex<Option<Change>>,
    longest_load: Mutex<Option<usize>>,
}

impl Points {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn note(&self, what: String) {
        lock(&self.journal).push(what);
    }

    /// What was asked since the last time this was asked.
    pub fn journal(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.journal))
    }

    /// Runs `hook` once, at the next `point`: the name of a call, with ` done` for behind it; or an event in brief.
    pub fn once(&self, point: &str, hook: impl FnOnce() + Send + 'static) {
        let mut hook = Some(hook);
        let hook: Hook = Box::new(move || {
            if let Some(hook) = hook.take() {
                hook();
            }
        });
        lock(&self.hooks).insert(point.to_owned(), hook);
    }

    /// Whether a hook still waits for its point.
    pub fn is_waiting(&self, point: &str) -> bool {
        lock(&self.hooks).contains_key(point)
    }

    /// From now on every answer of the file system goes through `change`.
    pub fn change_iomap(&self, change: impl FnMut(Iomap) -> Iomap + Send + 'static) {
        *lock(&self.iomap) = Some(Box::new(change));
    }

    /// From now on one call loads so many bytes at most.
    pub fn limit_loads(&self, bytes: usize) {
        *lock(&self.longest_load) = Some(bytes);
    }

    /// Runs what waits for `point`.
    pub fn reach(&self, point: &str) {
        let hook = lock(&self.hooks).remove(point);
        if let Some(mut hook) = hook {
            hook();
        }
    }

    fn at(&self, point: &str, detail: &str) {
        self.reach(point);
        self.note(format!("{point}{detail}"));
    }
}

/// The rig's world.
pub struct TestWorld;

impl World for TestWorld {
    type Platform = SimPlatform;
    type Filesystem = File;
    type Media = Storage;
    type Space = Space;
}

pub struct File {
    pub file: SimFile,
    pub points: Arc<Points>,
}

impl Filesystem for File {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        self.points.at("iomap_begin", &format!(" {intent:?} {}", range.len()));
        let mut iomap = self.file.iomap_begin(range, intent)?;
        if let Some(change) = lock(&self.points.iomap).as_mut() {
            iomap = change(iomap);
        }
        self.points.reach("iomap_begin done");
        Ok(iomap)
    }

    fn iomap_end(&self, iomap: &Iomap, done: u64) -> Result<(), IoError> {
        self.points.at("iomap_end", &format!(" {done}"));
        self.file.iomap_end(iomap, done)
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        self.points.at("set_size", "");
        self.file.set_size(bytes)
    }

    fn free(&self, range: PageRange) -> Result<(), IoError> {
        self.points.at("free", "");
        self.file.free(range)
    }

    fn commit(&self, range: PageRange) -> Result<(), IoError> {
        self.points.at("commit", "");
        let result = self.file.commit(range);
        self.points.reach("commit done");
        result
    }

    fn note_store(&self) {
        self.points.at("note_store", "");
        self.file.note_store();
    }
}

pub struct Storage {
    pub media: SimMedia,
    pub points: Arc<Points>,
}

impl Media for Storage {
    fn direct_access(&self, frames: FrameRange, access: MediaAccess) -> Result<u64, IoError> {
        self.points.at("direct_access", "");
        self.media.direct_access(frames, access)
    }

    fn flush(&self, frames: FrameRange) -> Result<(), IoError> {
        self.points.at("flush", &format!(" {}", frames.count));
        let result = self.media.flush(frames);
        self.points.reach("flush done");
        result
    }

    fn load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError> {
        self.points.at("load", "");
        let longest = lock(&self.points.longest_load).unwrap_or(usize::MAX);
        let length = into.len().min(longest);
        self.media.load(frame, offset, &mut into[..length])
    }

    fn store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError> {
        self.points.at("store", "");
        self.media.store(frame, offset, from)
    }

    fn zero(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError> {
        self.points.at("zero", &format!(" {offset} {length}"));
        self.media.zero(frame, offset, length)
    }

    fn first_pinned(&self, frames: FrameRange) -> Option<Frame> {
        self.media.first_pinned(frames)
    }

    fn wait_unpinned(&self, frame: Frame) {
        self.media.wait_unpinned(frame);
    }

    fn associate(&self, frames: FrameRange, owner: Option<Owner>) {
        self.media.associate(frames, owner);
    }
}

pub struct Space {
    pub space: SimSpace,
    pub points: Arc<Points>,
}

impl AddressSpace for Space {
    fn pmd(&self, index: PageIndex) -> Pmd {
        self.points.at("pmd", "");
        self.space.pmd(index)
    }

    fn install_storage(
        &self,
        run: PageRange,
        frame: Frame,
        order: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        self.points.at("install_storage", &format!(" {} {rights:?}", run.len()));
        self.space.install_storage(run, frame, order, rights)
    }

    fn install_zeros(&self, run: PageRange, order: Order) -> Result<(), InstallError> {
        self.points.at("install_zeros", &format!(" {}", run.len()));
        self.space.install_zeros(run, order)
    }

    fn install_copy(&self, index: PageIndex, from: Option<Frame>) -> Result<(), InstallError> {
        self.points.at("install_copy", "");
        self.space.install_copy(index, from)
    }

    fn unmap(&self, range: PageRange, copies: PrivateCopies) {
        self.points.at("unmap", &format!(" {}+{} {copies:?}", range.start.0, range.len()));
        self.space.unmap(range, copies);
    }

    fn write_protect(&self, range: PageRange, frame: Frame) -> WriteTracking {
        self.points.at("write_protect", &format!(" {}+{}", range.start.0, range.len()));
        let tracking = self.space.write_protect(range, frame);
        self.points.reach("write_protect done");
        tracking
    }

    fn clear_pmd(&self, index: PageIndex) {
        self.points.at("clear_pmd", "");
        self.space.clear_pmd(index);
    }
}
