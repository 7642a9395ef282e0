//! One VMA's part of a process's page tables, as the engine sees it.

use crate::cache::FRAME_BYTES;
use crate::machine::{Machine, Protection, Shootdown, VmaLayout};
use crate::mmu::{PageTables, PrivatePage, Slot, Want, level_start};
use crate::platform::SharedLock;
use crate::sched::yield_point;
use crate::vma::SimVma;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use udax_core::{
    AddressSpace, Frame, InstallError, IoError, IoErrorKind, Media as _, Order, PageIndex,
    PageRange, Pmd, PrivateCopies, Rights, Sharing, WriteTracking,
};

/// A run of addresses that belongs to a VMA.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) end: u64,
    pub(crate) protection: Protection,
    pub(crate) vma: Weak<SimVma>,
}

/// What the CPUs and all VMAs of a process share.
#[derive(Debug)]
#[doc(alias = "mm_struct")]
pub(crate) struct Mm {
    pub(crate) machine: Arc<Machine>,
    pub(crate) process: u64,
    /// Shared in faults, exclusive in mmap, munmap, mprotect and fork.
    #[doc(alias = "mmap_lock")]
    pub(crate) lock: SharedLock,
    tables: Mutex<PageTables>,
    regions: Mutex<BTreeMap<u64, Region>>,
}

impl Mm {
    pub(crate) fn new(machine: Arc<Machine>, process: u64) -> Arc<Self> {
        Arc::new(Self {
            machine,
            process,
            lock: SharedLock::new(),
            tables: Mutex::default(),
            regions: Mutex::default(),
        })
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, PageTables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn regions(&self) -> MutexGuard<'_, BTreeMap<u64, Region>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The region that holds a page.
    pub(crate) fn region(&self, address_page: u64) -> Option<Region> {
        let regions = self.regions();
        let (_, region) = regions.range(..=address_page).next_back()?;
        (address_page < region.end).then(|| region.clone())
    }

    pub(crate) fn may(&self, address_page: u64, wanted: Protection) -> bool {
        self.region(address_page).is_some_and(|region| region.protection >= wanted)
    }

    /// Makes every CPU forget `pages`. Between the change of the page tables and this, stale translations are used.
    pub(crate) fn shoot_down(&self, pages: &Range<u64>) {
        yield_point();
        if self.machine.note_shootdown() == Shootdown::Done {
            for cpu in self.machine.cpus() {
                let mut tlb = cpu.lock().unwrap_or_else(PoisonError::into_inner);
                tlb.forget(self.process, pages);
            }
        }
        yield_point();
    }
}

/// The page tables of one VMA. A cheap handle.
#[derive(Clone, Debug)]
pub struct SimSpace {
    mm: Arc<Mm>,
    layout: VmaLayout,
}

impl SimSpace {
    pub(crate) fn new(mm: Arc<Mm>, layout: VmaLayout) -> Self {
        Self { mm, layout }
    }

    /// The VMA it is the space of.
    #[must_use]
    pub fn layout(&self) -> VmaLayout {
        self.layout
    }

    fn address_page(&self, index: PageIndex) -> u64 {
        self.layout.address_page + (index.0 - self.layout.pages.start.0)
    }

    /// The addresses of what is in both `range` and the VMA.
    fn addresses(&self, range: PageRange) -> Range<u64> {
        let both = self.layout.pages.intersect(range);
        if both.is_empty() {
            0..0
        } else {
            self.address_page(both.start)..self.address_page(both.end)
        }
    }

    /// Installs what `slot` says in every unit of `run`.
    fn install(
        &self,
        run: PageRange,
        order: Order,
        want: Rights,
        slot: impl Fn(u64) -> Slot,
    ) -> Result<(), InstallError> {
        assert!(
            self.layout.pages.covers(run),
            "the engine installed {run} in a VMA of {}",
            self.layout.pages
        );
        let pages = self.addresses(run);
        if order == Order::Pmd {
            assert!(
                level_start(pages.start) == pages.start && level_start(pages.end) == pages.end,
                "a 2 MiB translation at the misaligned address pages {pages:?}"
            );
        }
        for page in pages.clone().step_by(usize::try_from(order.pages()).unwrap_or(1)) {
            yield_point();
            let Some(region) = self.mm.region(page) else { continue };
            let mut tables = self.mm.tables();
            if tables.needs_table(page) {
                self.mm.machine.check_table().map_err(|()| InstallError::OutOfMemory)?;
            }
            let want = match want {
                Rights::ReadOnly => Want::Read,
                Rights::WritableDirty => {
                    Want::Store { writable: region.protection == Protection::ReadWrite }
                }
            };
            tables
                .install(page, order, slot(page - pages.start), want)
                .map_err(|_| self.collided())?;
        }
        yield_point();
        Ok(())
    }

    fn collided(&self) -> InstallError {
        self.mm.machine.note_collision();
        InstallError::LevelTaken
    }

    /// The bytes of a private copy of `from`.
    fn copy(&self, from: Option<Frame>) -> Result<Vec<u8>, InstallError> {
        let mut bytes = vec![0; FRAME_BYTES];
        let Some(frame) = from else { return Ok(bytes) };
        match self.mm.machine.media().load(frame, 0, &mut bytes) {
            Ok(copied) if copied == bytes.len() => Ok(bytes),
            Ok(_) => Err(InstallError::Media(IoError::new(IoErrorKind::Io))),
            Err(error) => Err(InstallError::Media(error)),
        }
    }
}

impl AddressSpace for SimSpace {
    fn pmd(&self, index: PageIndex) -> Pmd {
        yield_point();
        self.mm.tables().pmd(self.address_page(index))
    }

    fn install_storage(
        &self,
        run: PageRange,
        frame: Frame,
        order: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        assert!(
            self.layout.sharing == Sharing::Shared || rights == Rights::ReadOnly,
            "the engine let a private VMA store to storage, at {run}"
        );
        assert!(
            order == Order::Pte || frame.is_pmd_aligned(),
            "a 2 MiB translation to the misaligned {frame:?}"
        );
        self.install(run, order, rights, |page| Slot::Storage(frame.plus(page)))?;
        Ok(rights)
    }

    fn install_zeros(&self, run: PageRange, order: Order) -> Result<(), InstallError> {
        if order == Order::Pmd && !self.mm.machine.has_huge_zero() {
            return Err(InstallError::NoHugeZero);
        }
        self.install(run, order, Rights::ReadOnly, |_| Slot::Zero)
    }

    fn install_copy(&self, index: PageIndex, from: Option<Frame>) -> Result<(), InstallError> {
        assert!(
            self.layout.sharing == Sharing::Private && self.layout.pages.contains(index),
            "the engine made a private copy of page {index} for {:?}",
            self.layout
        );
        yield_point();
        self.mm.machine.check_copy().map_err(|()| InstallError::OutOfMemory)?;
        let bytes = self.copy(from)?;
        let page = self.address_page(index);
        let Some(region) = self.mm.region(page) else { return Ok(()) };
        let mut tables = self.mm.tables();
        if tables.needs_table(page) {
            self.mm.machine.check_table().map_err(|()| InstallError::OutOfMemory)?;
        }
        let writable = region.protection == Protection::ReadWrite;
        let installed = tables.install_private(page, PrivatePage::new(bytes), writable);
        drop(tables);
        installed.map_err(|_| self.collided())?;
        // Another CPU may still load from storage what this one has now got a copy of.
        self.mm.shoot_down(&(page..page + 1));
        Ok(())
    }

    fn unmap(&self, range: PageRange, copies: PrivateCopies) {
        yield_point();
        let pages = self.addresses(range);
        if pages.is_empty() {
            return;
        }
        self.mm.tables().zap(&pages, copies);
        self.mm.shoot_down(&pages);
    }

    fn write_protect(&self, range: PageRange, frame: Frame) -> WriteTracking {
        yield_point();
        let pages = self.addresses(range);
        if self.layout.sharing == Sharing::Shared && !pages.is_empty() {
            // A 2 MiB translation that `range` cuts begins before it: then the frame is counted backwards.
            let frame_of = |page: u64| {
                let index = self.layout.pages.start.0 + (page - self.layout.address_page);
                (frame.0 + index).checked_sub(range.start.0).map(Frame)
            };
            self.mm.tables().write_protect(&pages, frame_of);
            self.mm.shoot_down(&pages);
        }
        WriteTracking::Faults
    }

    fn clear_pmd(&self, index: PageIndex) {
        yield_point();
        let page = self.address_page(index);
        let is_split = {
            let mut tables = self.mm.tables();
            tables.free_empty_table(page);
            tables.split(page)
        };
        if is_split {
            self.mm.shoot_down(&(page..page + 1));
        }
    }
}
