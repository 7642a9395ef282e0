//! What the threads of a model do, and what they find.

use crate::cpu::Shown;
use crate::disk::TRACKED;
use crate::platform::Checker;
use crate::rig::{Layout, Rig, Which};
use udax_core::{PAGE_BYTES, PMD_PAGES, PageIndex, PageRange};

/// The byte that a start leaves in storage.
const BEFORE: u8 = 1;

/// What there was before the threads began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A hole that nobody has looked at.
    Hole,
    /// 4 KiB zero pages, in the small VMA.
    SmallZeros,
    /// The 2 MiB zero page, in the huge VMA.
    HugeZeros,
    /// 4 KiB pieces of storage, mapped for loads in both VMAs, durable.
    SmallClean,
    /// 4 KiB pieces of storage, stored to through the small VMA.
    SmallDirty,
    /// 2 MiB of storage in pieces of 4 KiB, stored to through the small VMA: small entries that could be one if their storage moved.
    Scattered,
    /// 2 MiB of storage in one piece, stored to through the small VMA page by page: small entries that could be one.
    SmallInOne,
    /// 2 MiB of storage, mapped for loads in both VMAs, durable.
    HugeClean,
    /// 2 MiB of storage, stored to through the huge VMA.
    HugeDirty,
}

impl Start {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::Hole,
        Self::SmallZeros,
        Self::HugeZeros,
        Self::SmallClean,
        Self::SmallDirty,
        Self::Scattered,
        Self::SmallInOne,
        Self::HugeClean,
        Self::HugeDirty,
    ];

    fn prepare<P: Checker>(self, rig: &Rig<P>) {
        let pages = (0..TRACKED as u64).map(PageIndex);
        match self {
            Self::Hole => {}
            Self::SmallZeros => pages
                .for_each(|index| assert_eq!(rig.load(Which::Small, index), Some(Shown::Zeros))),
            Self::HugeZeros => assert_eq!(rig.load(Which::Huge, PageIndex(0)), Some(Shown::Zeros)),
            Self::SmallClean | Self::SmallDirty => pages.for_each(|index| {
                rig.store(Which::Small, index, BEFORE);
            }),
            Self::Scattered => {
                pages.for_each(|index| {
                    rig.store(Which::Small, index, BEFORE);
                });
                let rest = PageRange::between(PageIndex(TRACKED as u64), PageIndex(PMD_PAGES));
                rig.disk.allocate(rest);
            }
            Self::SmallInOne => {
                rig.disk.allocate(PageRange::new(PageIndex(0), PMD_PAGES));
                pages.for_each(|index| {
                    rig.store(Which::Small, index, BEFORE);
                });
            }
            Self::HugeClean | Self::HugeDirty => {
                rig.disk.allocate(PageRange::new(PageIndex(0), PMD_PAGES));
                pages.for_each(|index| {
                    rig.store(Which::Huge, index, BEFORE);
                });
            }
        }
        if matches!(self, Self::SmallClean | Self::HugeClean) {
            rig.mapping.sync(PageRange::from(PageIndex(0))).expect("the storage does not fail");
            for index in (0..TRACKED as u64).map(PageIndex) {
                assert_eq!(rig.load(Which::Small, index), Some(Shown::Storage));
                assert_eq!(rig.load(Which::Huge, index), Some(Shown::Storage));
            }
        }
        for page in &mut rig.disk.unit(0).pages {
            page.from_start = page.stores > 0;
        }
    }
}

/// What one thread does. Pages are numbers of tracked pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Loads a page.
    Load(Which, u64),
    /// Stores to a page.
    Store(Which, u64),
    /// Stores to a page, syncs it, and demands that the store would survive.
    StoreSync(Which, u64),
    /// Syncs the file, and demands that what the start stored would survive.
    Sync,
    /// Cuts the file before a page.
    Truncate(u64),
    /// Makes a page a hole.
    Punch(u64),
    /// Makes the first 2 MiB a hole.
    PunchAll,
    /// Writes a byte to a page by the system call, and loads it.
    Write(u64),
    /// Drops the clean entries of a page.
    Invalidate(u64),
    /// Takes the zeros out of every mapping of the first 2 MiB.
    Revoke,
    /// The media lost a page: takes it out of every mapping.
    MediaFailed(u64),
    /// Puts one entry in the place of the small ones of the first 2 MiB, if that can be.
    Collapse,
    /// Faults on a page for a store, unless [`Interrupt`](Self::Interrupt) ends the wait.
    FaultUnless(Which, u64),
    /// Ends the waits of those.
    Interrupt,
}

impl Op {
    /// Each of them, those of one page at `page`.
    #[must_use]
    pub fn all(page: u64) -> Vec<Self> {
        let mut all = Vec::new();
        for which in [Which::Small, Which::Huge] {
            all.extend([
                Self::Load(which, page),
                Self::Store(which, page),
                Self::StoreSync(which, page),
            ]);
        }
        all.extend([Self::Sync, Self::Truncate(page), Self::Punch(page), Self::PunchAll]);
        all.extend([
            Self::Write(page),
            Self::Invalidate(page),
            Self::Revoke,
            Self::MediaFailed(page),
            Self::Collapse,
        ]);
        all
    }

    fn shrinks(self) -> bool {
        matches!(self, Self::Truncate(_))
    }

    /// Does it. `byte` is what it stores, if it does.
    ///
    /// # Panics
    /// If anything is found that may not be.
    pub fn run<P: Checker>(self, rig: &Rig<P>, byte: u8) {
        let mapping = &rig.mapping;
        let everything = PageRange::from(PageIndex(0));
        let page = |number: u64| PageRange::new(PageIndex(number), 1);
        match self {
            Self::Load(which, number) => {
                rig.load(which, PageIndex(number));
            }
            Self::Store(which, number) => {
                rig.store(which, PageIndex(number), byte);
            }
            Self::StoreSync(which, number) => {
                if let Some(stored) = rig.store(which, PageIndex(number), byte) {
                    P::forget((stored.frame, stored.number));
                    mapping.sync(page(number)).expect("the storage does not fail");
                    P::told(|| rig.demand_durable(number, stored.frame, stored.number));
                }
            }
            Self::Sync => {
                mapping.sync(everything).expect("the storage does not fail");
                P::told(|| rig.demand_start_durable());
            }
            Self::Truncate(number) => {
                let _inode = rig.inode_lock();
                mapping.truncate(number * PAGE_BYTES).expect("the file system does not fail");
            }
            Self::Punch(number) => {
                let _inode = rig.inode_lock();
                mapping
                    .punch_hole(number * PAGE_BYTES, PAGE_BYTES)
                    .expect("the file system does not fail");
            }
            Self::PunchAll => {
                let _inode = rig.inode_lock();
                mapping
                    .punch_hole(0, PMD_PAGES * PAGE_BYTES)
                    .expect("the file system does not fail");
            }
            Self::Write(number) => {
                let written = {
                    let _inode = rig.inode_lock();
                    let done = mapping
                        .write(number * PAGE_BYTES, &[byte])
                        .expect("the file system does not fail");
                    assert_eq!(done, 1, "a write of one byte");
                    rig.publish(number, byte)
                };
                P::forget(written);
                if written {
                    rig.load(Which::Small, PageIndex(number));
                }
            }
            Self::Invalidate(number) => {
                mapping.invalidate(page(number));
            }
            Self::MediaFailed(number) => {
                mapping.media_failed(PageIndex(number));
            }
            Self::Collapse => {
                let _inode = rig.inode_lock();
                // Whatever keeps it from it is fine: what has to hold is that nothing is lost.
                let _ = mapping.collapse(PageIndex(0));
            }
            Self::FaultUnless(which, number) => {
                rig.fault_unless_interrupted(which, PageIndex(number));
            }
            Self::Interrupt => {
                rig.interrupt.request();
                rig.interrupt.clear();
            }
            Self::Revoke => mapping.revoke_zeros(PageRange::new(PageIndex(0), PMD_PAGES)),
        }
    }
}

impl<P: Checker> Rig<P> {
    /// A rig after `start`, in which `ops` will be done.
    #[must_use]
    pub fn after(start: Start, ops: &[Op], layout: Layout) -> Self {
        let mut rig = Self::new(layout);
        rig.may_shrink = ops.iter().any(|op| op.shrinks());
        start.prepare(&rig);
        rig.mapping.limit_index_nodes(layout.index_nodes);
        rig
    }

    /// A write has returned: whoever looks from now on must see it. Whether it is still there.
    fn publish(&self, number: u64, byte: u8) -> bool {
        P::told(|| {
            let page = &mut self.disk.unit(0).pages[usize::try_from(number).unwrap_or(usize::MAX)];
            // Unless somebody has given the storage back since.
            page.published |= page.frame.is_some() && page.byte == byte;
            page.published
        })
    }

    fn demand_durable(&self, number: u64, frame: udax_core::Frame, stores: u32) {
        let page = self.disk.unit(0).pages[usize::try_from(number).unwrap_or(usize::MAX)];
        // What lies beyond the end of the file is nobody's any more, though its storage may not have been given back yet.
        if page.frame == Some(frame) && self.disk.contains(number) {
            assert!(
                page.durable >= stores,
                "a sync has returned, and store {stores} to page {number} is not durable: {page:?}"
            );
        }
    }

    /// Every page that still has the storage which the start stored to, once.
    fn demand_start_durable(&self) {
        let pages = self.disk.unit(0).pages;
        let inside = |number: usize| self.disk.contains(number as u64);
        for (_, page) in
            pages.iter().enumerate().filter(|&(number, page)| page.from_start && inside(number))
        {
            assert!(
                page.durable > 0,
                "a sync has returned, and what was stored before it is not durable: {page:?}"
            );
        }
    }
}
