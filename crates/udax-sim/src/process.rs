//! A process: its mappings, what munmap, mprotect, madvise and fork do to them, and a view of its page tables.

use crate::machine::{Machine, Protection, VmaLayout};
use crate::mmu::{Entry, PrivatePage, Slot};
use crate::space::{Mm, Region};
use crate::thread::SimThread;
use crate::vma::SimVma;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{Frame, Order, PMD_PAGES, PageIndex, PageRange, Pmd, PrivateCopies};

/// What a translation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The common zero page of its size.
    ZeroPage,
    /// Storage; the frame of its first page.
    Storage(Frame),
    /// A private copy.
    PrivateCopy,
}

/// One translation, as it stands in the page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The address of its first page, divided by 4096.
    pub address_page: u64,
    /// The file page there, if the address still belongs to a VMA.
    pub page: Option<PageIndex>,
    /// Its size.
    pub order: Order,
    /// What it leads to.
    pub target: Target,
    /// Whether it lets stores through.
    pub writable: bool,
    /// The dirty bit.
    pub dirty: bool,
    /// The accessed bit.
    pub accessed: bool,
}

impl Translation {
    pub(crate) fn of(mm: &Mm, address_page: u64, order: Order, entry: &Entry) -> Self {
        let vma = mm.region(address_page).and_then(|region| region.vma.upgrade());
        Self {
            address_page,
            page: vma.map(|vma| vma.page_at(address_page)),
            order,
            target: match entry.slot {
                Slot::Zero => Target::ZeroPage,
                Slot::Storage(frame) => Target::Storage(frame),
                Slot::Private(_) => Target::PrivateCopy,
            },
            writable: entry.writable,
            dirty: entry.dirty,
            accessed: entry.accessed,
        }
    }
}

/// How an address relates to the file offset that it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congruence {
    /// Equal modulo 2 MiB: 2 MiB translations can be.
    Aligned,
    /// Off by so many pages (1 to 511): none can be.
    OffBy(u64),
}

/// A child, and its VMAs beside those they were copied from. They serve no faults until told how.
#[derive(Debug)]
pub struct Fork {
    /// The child.
    pub child: Arc<Process>,
    /// The parent's, the child's.
    pub vmas: Vec<(Arc<SimVma>, Arc<SimVma>)>,
}

/// A process of the machine.
#[derive(Debug)]
pub struct Process {
    mm: Arc<Mm>,
    vmas: Mutex<Vec<Arc<SimVma>>>,
    next_address: AtomicU64,
}

impl Process {
    pub(crate) fn new(machine: Arc<Machine>, number: u64) -> Arc<Self> {
        Arc::new(Self {
            mm: Mm::new(machine, number),
            vmas: Mutex::default(),
            next_address: AtomicU64::new(1 << 20),
        })
    }

    pub(crate) fn mm(&self) -> &Arc<Mm> {
        &self.mm
    }

    fn vmas(&self) -> MutexGuard<'_, Vec<Arc<SimVma>>> {
        self.vmas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine it runs on.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.mm.machine
    }

    /// An address page for a mapping of `pages` that nothing else has or gets.
    #[must_use]
    pub fn free_address(&self, pages: PageRange, congruence: Congruence) -> u64 {
        let units = pages.len().div_ceil(PMD_PAGES) + 3;
        let start = self.next_address.fetch_add(units * PMD_PAGES, Ordering::Relaxed);
        let off = match congruence {
            Congruence::Aligned => 0,
            Congruence::OffBy(pages) => pages,
        };
        start + (pages.start.colour() + off) % PMD_PAGES
    }

    /// Maps a file at a given address. No translation is made.
    ///
    /// # Panics
    /// If the addresses are taken, or there are none.
    #[must_use]
    #[doc(alias = "mmap")]
    pub fn map(&self, layout: VmaLayout) -> Arc<SimVma> {
        let _exclusive = self.mm.lock.exclusive();
        let vma = SimVma::new(Arc::clone(&self.mm), layout);
        let (start, end) = (layout.address_page, layout.address_page + layout.pages.len());
        assert!(start < end, "a mapping has a page");
        let mut regions = self.mm.regions();
        let before = regions.range(..end).next_back();
        assert!(before.is_none_or(|(_, other)| other.end <= start), "the addresses are taken");
        let region = Region { end, protection: layout.protection, vma: Arc::downgrade(&vma) };
        regions.insert(start, region);
        drop(regions);
        self.vmas().push(Arc::clone(&vma));
        vma
    }

    /// A thread of the process on a CPU.
    ///
    /// # Panics
    /// If the machine has no such CPU.
    #[must_use]
    pub fn thread(self: &Arc<Self>, cpu: usize) -> SimThread {
        assert!(cpu < self.mm.machine.cpus().len(), "the machine has no CPU {cpu}");
        SimThread::new(Arc::clone(self), cpu)
    }

    /// Cuts the regions at `start` and `end`, and hands each between them to `change`, which says whether it stays.
    fn change_regions(&self, start: u64, end: u64, mut change: impl FnMut(&mut Region) -> bool) {
        let mut regions = self.mm.regions();
        for cut in [start, end] {
            let Some((_, region)) = regions.range_mut(..cut).next_back() else { continue };
            if cut < region.end {
                let rest = region.clone();
                region.end = cut;
                regions.insert(cut, rest);
            }
        }
        let inside: Vec<u64> = regions.range(start..end).map(|(start, _)| *start).collect();
        for start in inside {
            if regions.get_mut(&start).is_some_and(|region| !change(region)) {
                regions.remove(&start);
            }
        }
    }

    /// munmap of `pages` pages: private copies go too. May cut VMAs; the engine has to be told by the caller.
    #[doc(alias = "munmap")]
    pub fn unmap(&self, address_page: u64, pages: u64) {
        let _exclusive = self.mm.lock.exclusive();
        let range = address_page..address_page + pages;
        self.change_regions(range.start, range.end, |_| false);
        let mut tables = self.mm.tables();
        tables.zap(&range, PrivateCopies::Drop);
        let regions = self.mm.regions();
        tables.free_tables(&range, |level| {
            regions.range(..level.end).next_back().is_some_and(|(_, last)| last.end > level.start)
        });
        drop((tables, regions));
        self.mm.shoot_down(&range);
        self.forget_vmas();
    }

    /// Lets go of VMAs of which nothing is mapped any more.
    fn forget_vmas(&self) {
        let regions = self.mm.regions();
        let is_mapped = |vma: &Arc<SimVma>| {
            regions.values().any(|region| std::ptr::eq(region.vma.as_ptr(), Arc::as_ptr(vma)))
        };
        let mut vmas = self.vmas();
        let (kept, gone) = std::mem::take(&mut *vmas).into_iter().partition(is_mapped);
        *vmas = kept;
        drop((vmas, regions));
        // Dropped last and with nothing locked: a handler may own anything.
        drop::<Vec<_>>(gone);
    }

    /// mprotect of `pages` pages. The right to store is got by the next fault, never here.
    #[doc(alias = "mprotect")]
    pub fn protect(&self, address_page: u64, pages: u64, protection: Protection) {
        let _exclusive = self.mm.lock.exclusive();
        let range = address_page..address_page + pages;
        self.change_regions(range.start, range.end, |region| {
            region.protection = protection;
            true
        });
        if protection != Protection::ReadWrite {
            let mut tables = self.mm.tables();
            for edge in [range.start, range.end] {
                // A 2 MiB translation cannot have two protections.
                if crate::mmu::level_start(edge) != edge {
                    tables.split(edge);
                }
            }
            tables.forbid_stores(&range);
            drop(tables);
            self.mm.shoot_down(&range);
        }
    }

    /// What a later mprotect to [`Protection::ReadWrite`] may give back without a fault: the right to store to small pages
    /// whose dirty bit says that stores are known of already, and to private copies; with `Order::Pmd` to 2 MiB ones as well.
    #[doc(alias = "can_change_pte_writable")]
    pub fn allow_dirty_stores(&self, address_page: u64, pages: u64, up_to: Order) {
        let _exclusive = self.mm.lock.exclusive();
        self.mm.tables().allow_dirty_stores(&(address_page..address_page + pages), up_to);
    }

    /// Gives addresses that VMAs have already to new ones, one per layout, as mprotect, madvise and mremap do that cut a VMA or join
    /// some. Translations stay, but for a 2 MiB one that a new VMA's edge cuts. The old VMAs must be taken from the engine, and the new ones
    /// served, by the caller, with nothing faulting meanwhile.
    ///
    /// # Panics
    /// If a layout has an address that no VMA has.
    #[must_use]
    #[doc(alias = "vma_adjust")]
    pub fn revise(&self, layouts: &[VmaLayout]) -> Vec<Arc<SimVma>> {
        let _exclusive = self.mm.lock.exclusive();
        let mut made = Vec::new();
        for layout in layouts {
            let (start, end) = (layout.address_page, layout.address_page + layout.pages.len());
            let vma = SimVma::new(Arc::clone(&self.mm), *layout);
            let mut covered = 0;
            self.change_regions(start, end, |region| {
                region.protection = layout.protection;
                region.vma = Arc::downgrade(&vma);
                covered += 1;
                true
            });
            assert!(covered > 0, "no VMA has the addresses of {layout:?}");
            let mut tables = self.mm.tables();
            for edge in [start, end] {
                if crate::mmu::level_start(edge) != edge && tables.split(edge) {
                    self.mm.shoot_down(&(edge..edge + 1));
                }
            }
            drop(tables);
            self.vmas().push(Arc::clone(&vma));
            made.push(vma);
        }
        self.forget_vmas();
        made
    }

    /// Moves what is translated in `pages` pages to other addresses, which belong to a VMA already; those it came from belong to none
    /// afterwards. A 2 MiB translation moves whole where both places are aligned, and is lost where not.
    #[doc(alias = "mremap")]
    #[doc(alias = "move_page_tables")]
    pub fn move_translations(&self, from: u64, to: u64, pages: u64) {
        let _exclusive = self.mm.lock.exclusive();
        let range = from..from + pages;
        self.mm.tables().move_range(&range, to);
        self.change_regions(range.start, range.end, |_| false);
        let mut tables = self.mm.tables();
        let regions = self.mm.regions();
        tables.free_tables(&range, |level| {
            regions.range(..level.end).next_back().is_some_and(|(_, last)| last.end > level.start)
        });
        drop((tables, regions));
        self.mm.shoot_down(&range);
        self.forget_vmas();
    }

    /// Empties the page tables of `pages` pages; private copies go too.
    #[doc(alias = "MADV_DONTNEED")]
    pub fn discard(&self, address_page: u64, pages: u64) {
        let _shared = self.mm.lock.shared();
        let range = address_page..address_page + pages;
        self.mm.tables().zap(&range, PrivateCopies::Drop);
        self.mm.shoot_down(&range);
    }

    /// A child with the same mappings. Nothing is translated in it but what a private VMA has that holds a copy of its own: the copies,
    /// and its other small pages. A store to a copy is the machine's to serve from then on, in both processes.
    #[must_use]
    pub fn fork(&self) -> Fork {
        self.fork_with(|_, _| {})
    }

    /// The same; `adopt` is called with the child and its VMAs, each beside the one it is a copy of, before anything is translated in them.
    /// There the child's VMAs are attached to their mappings: attached later, what is copied could miss being unmapped.
    pub fn fork_with(&self, adopt: impl FnOnce(&Arc<Self>, &[(Arc<SimVma>, Arc<SimVma>)])) -> Fork {
        let _exclusive = self.mm.lock.exclusive();
        let child = self.mm.machine.process();
        child.next_address.store(self.next_address.load(Ordering::Relaxed), Ordering::Relaxed);
        let vmas: Vec<_> = self
            .vmas()
            .iter()
            .map(|vma| (Arc::clone(vma), SimVma::new(Arc::clone(&child.mm), vma.layout())))
            .collect();
        for (start, region) in self.mm.regions().iter() {
            let old = region.vma.as_ptr();
            let Some((_, new)) = vmas.iter().find(|(vma, _)| std::ptr::eq(Arc::as_ptr(vma), old))
            else {
                continue;
            };
            let region = Region { vma: Arc::downgrade(new), ..region.clone() };
            child.mm.regions().insert(*start, region);
        }
        *child.vmas() = vmas.iter().map(|(_, new)| Arc::clone(new)).collect();
        adopt(&child, &vmas);
        self.copy_private_vmas(&child);
        Fork { child, vmas }
    }

    #[doc(alias = "copy_page_range")]
    fn copy_private_vmas(&self, child: &Self) {
        let mut tables = self.mm.tables();
        let copies: Vec<u64> = tables
            .iter()
            .filter_map(|(page, _, entry)| entry.slot.is_private().then_some(page))
            .collect();
        let vma_of = |page: u64| self.mm.region(page).map(|region| region.vma.as_ptr());
        let holders: Vec<_> = copies.iter().filter_map(|page| vma_of(*page)).collect();
        let mut small: Vec<(u64, Entry)> = tables
            .iter()
            .filter(|(page, order, _)| {
                *order == Order::Pte
                    && vma_of(*page).is_some_and(|vma| holders.contains(&vma))
                    && child.mm.region(*page).is_some()
            })
            .map(|(page, _, entry)| (page, entry.clone()))
            .collect();
        for (page, entry) in &mut small {
            if let Slot::Private(copy) = &entry.slot {
                let bytes = copy.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
                entry.slot = Slot::Private(PrivatePage::new(bytes));
            }
            entry.writable = false;
            tables.forbid_stores(&(*page..*page + 1));
        }
        let pages: Vec<u64> = small.iter().map(|(page, _)| *page).collect();
        // With both locks: who unmaps comes to the parent first, and finds in the child what was copied before.
        child.mm.tables().put(small);
        drop(tables);
        for page in pages {
            self.mm.shoot_down(&(page..page + 1));
        }
    }

    /// The translation of one page, if there is one.
    #[must_use]
    pub fn translation_at(&self, address_page: u64) -> Option<Translation> {
        let tables = self.mm.tables();
        let (order, entry) = tables.walk(address_page)?;
        let first = match order {
            Order::Pte => address_page,
            Order::Pmd => crate::mmu::level_start(address_page),
        };
        Some(Translation::of(&self.mm, first, order, entry))
    }

    /// All translations, by address.
    #[must_use]
    pub fn translations(&self) -> Vec<Translation> {
        let tables = self.mm.tables();
        let all = tables.iter();
        all.map(|(page, order, entry)| Translation::of(&self.mm, page, order, entry)).collect()
    }

    /// How many page tables it has: one for each 2 MiB that anything is mapped in, or was until it was unmapped with munmap. A 2 MiB
    /// translation has one laid aside, whatever it shows.
    #[must_use]
    #[doc(alias = "pgtable_trans_huge_deposit")]
    pub fn page_tables(&self) -> usize {
        self.mm.tables().count()
    }

    /// What the page tables hold for the 2 MiB around an address.
    #[must_use]
    pub fn pmd_at(&self, address_page: u64) -> Pmd {
        self.mm.tables().pmd(address_page)
    }
}
