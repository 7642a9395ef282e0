//! A small file system on one media: space, a journal that can be held, freezing, reflinks.

use crate::extents::Fill;
use crate::file::SimFile;
use crate::media::SimMedia;
use crate::platform::{SimGuard, SimLock, WaitQueue};
use crate::space_map::{Freed, Placement, SpaceMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use udax_core::{Frame, ShortLock as _};

/// A gate that can be shut, and threads that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shut: AtomicBool,
    queue: WaitQueue,
}

impl Gate {
    fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    fn open(&self) {
        self.shut.store(false, Ordering::Relaxed);
        self.queue.notify_all();
    }

    #[track_caller]
    pub(crate) fn pass(&self) {
        self.queue.wait_until(|| !self.shut.load(Ordering::Relaxed));
    }
}

/// A file system.
#[derive(Debug)]
pub struct SimFs {
    media: SimMedia,
    space: SimLock<SpaceMap>,
    pub(crate) journal: Gate,
    pub(crate) freezer: Gate,
}

impl SimFs {
    /// An empty file system over all of `media`.
    #[must_use]
    pub fn new(media: SimMedia) -> Arc<Self> {
        let space = SimLock::new(SpaceMap::new(media.config().frames));
        Arc::new(Self { media, space, journal: Gate::default(), freezer: Gate::default() })
    }

    /// The media below.
    #[must_use]
    pub fn media(&self) -> &SimMedia {
        &self.media
    }

    /// A file that is one hole; durable as such.
    #[must_use]
    pub fn create(self: &Arc<Self>, size_bytes: u64) -> SimFile {
        SimFile::new(Arc::clone(self), size_bytes)
    }

    /// Says where new storage is put.
    pub fn set_placement(&self, placement: Placement) {
        self.space().placement = placement;
    }

    /// Limits how many pages can be allocated in all; beyond it: `ENOSPC`.
    pub fn set_capacity(&self, pages: Option<u64>) {
        self.space().capacity = pages;
    }

    /// Says when storage that was given back can be had again.
    pub fn set_freed(&self, freed: Freed) {
        self.space().freed = freed;
    }

    /// From now on commits and allocations sleep.
    pub fn hold_journal(&self) {
        self.journal.shut();
    }

    /// They go on.
    pub fn release_journal(&self) {
        self.journal.open();
    }

    /// From now on whoever wants to store sleeps.
    pub fn freeze(&self) {
        self.freezer.shut();
    }

    /// They go on.
    pub fn thaw(&self) {
        self.freezer.open();
    }

    /// How many pages of storage files have, or would have after a power cut; a shared one counts once.
    #[must_use]
    pub fn allocated_pages(&self) -> u64 {
        self.space().allocated()
    }

    /// `to` loses what it has and comes to share all written storage of `from`, and its length.
    #[doc(alias = "FICLONE")]
    pub fn reflink(&self, from: &SimFile, to: &SimFile) {
        let (size, extents) = from.snapshot();
        let written = || extents.iter().filter(|(_, extent)| extent.fill == Fill::Written);
        let mut space = self.space();
        for (_, extent) in written() {
            space.share(extent.block, extent.pages);
        }
        drop(space);
        to.become_copy(size, written());
    }

    pub(crate) fn space(&self) -> SimGuard<'_, SpaceMap> {
        self.space.lock()
    }

    /// The frame of a block.
    pub(crate) fn frame(&self, block: u64) -> Frame {
        self.media.config().first_frame.plus(block)
    }
}
