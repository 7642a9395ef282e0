//! The machine: CPUs with their TLBs, the media they load from and store to, and the switches of what can go wrong.

use crate::media::SimMedia;
use crate::plan::{Failures, Plan};
use crate::process::Process;
use crate::tlb::Tlb;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use udax_core::{PageRange, Sharing};

/// What a VMA allows; each allows what the one before does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[doc(alias = "PROT_READ")]
pub enum Protection {
    /// No access.
    None,
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// Where a VMA lies, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaLayout {
    /// The file pages it maps.
    pub pages: PageRange,
    /// The address of the first, divided by 4096.
    pub address_page: u64,
    /// Where stores go.
    pub sharing: Sharing,
    /// What it allowed when it was made.
    pub protection: Protection,
}

/// Whether a 2 MiB zero page can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugeZero {
    /// It can.
    Available,
    /// It cannot: `NoHugeZero`.
    Unavailable,
}

/// What becomes of stale translations when page tables change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shootdown {
    /// Every CPU forgets them before the change is said to be done.
    Done,
    /// They stay: a bug planted, to see that a test finds it.
    Forgotten,
}

/// Who serves a store to a page of a private mapping that is mapped, read-only, with 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "wp_page_copy")]
pub enum PrivateStores {
    /// The fault handler, as any other fault.
    Handler,
    /// The machine itself, as Linux's memory manager does: it copies what is mapped, and asks nobody.
    Machine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allocation {
    Table,
    Copy,
}

/// The machine that all processes of a test run on.
#[derive(Debug)]
pub struct Machine {
    media: SimMedia,
    cpus: Vec<Mutex<Tlb>>,
    allocations: Failures<Allocation, ()>,
    huge_zero: AtomicBool,
    shootdown: AtomicBool,
    shootdowns: AtomicU64,
    faults: AtomicU64,
    collisions: AtomicU64,
    served: AtomicU64,
    machine_copies: AtomicBool,
    processes: AtomicU64,
}

impl Machine {
    /// A machine of `cpus` CPUs over `media`.
    ///
    /// # Panics
    /// If there is no CPU.
    #[must_use]
    pub fn new(media: SimMedia, cpus: usize) -> Arc<Self> {
        assert!(cpus > 0, "a machine has a CPU");
        Arc::new(Self {
            media,
            cpus: (0..cpus).map(|_| Mutex::default()).collect(),
            allocations: Failures::new(),
            huge_zero: AtomicBool::new(true),
            shootdown: AtomicBool::new(true),
            shootdowns: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            collisions: AtomicU64::new(0),
            served: AtomicU64::new(0),
            machine_copies: AtomicBool::new(false),
            processes: AtomicU64::new(0),
        })
    }

    /// Its media.
    #[must_use]
    pub fn media(&self) -> &SimMedia {
        &self.media
    }

    /// A new process, without any mapping.
    #[must_use]
    pub fn process(self: &Arc<Self>) -> Arc<Process> {
        Process::new(Arc::clone(self), self.processes.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives or takes the 2 MiB zero page.
    pub fn set_huge_zero(&self, huge_zero: HugeZero) {
        self.huge_zero.store(huge_zero == HugeZero::Available, Ordering::Relaxed);
    }

    pub(crate) fn has_huge_zero(&self) -> bool {
        self.huge_zero.load(Ordering::Relaxed)
    }

    /// Plants the bug of forgotten shoot-downs, or removes it.
    pub fn set_shootdown(&self, how: Shootdown) {
        self.shootdown.store(how == Shootdown::Done, Ordering::Relaxed);
    }

    pub(crate) fn note_shootdown(&self) -> Shootdown {
        self.shootdowns.fetch_add(1, Ordering::Relaxed);
        if self.shootdown.load(Ordering::Relaxed) { Shootdown::Done } else { Shootdown::Forgotten }
    }

    /// How many shoot-downs there have been, forgotten ones included.
    #[must_use]
    pub fn shootdown_count(&self) -> u64 {
        self.shootdowns.load(Ordering::Relaxed)
    }

    pub(crate) fn note_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// How many faults have been handed to handlers.
    #[must_use]
    pub fn fault_count(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn note_collision(&self) {
        self.collisions.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a translation was to go where the other size is already. Nobody who looks at the level under the entry lock ever asks
    /// for that; Linux lost page tables where somebody did.
    #[must_use]
    pub fn collision_count(&self) -> u64 {
        self.collisions.load(Ordering::Relaxed)
    }

    pub(crate) fn note_served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// How many faults ended well, by a handler or by the machine itself.
    #[must_use]
    #[doc(alias = "ru_minflt")]
    pub fn served_count(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Says who makes the private copies of pages that are mapped already.
    pub fn set_private_stores(&self, by: PrivateStores) {
        self.machine_copies.store(by == PrivateStores::Machine, Ordering::Relaxed);
    }

    pub(crate) fn private_stores(&self) -> PrivateStores {
        if self.machine_copies.load(Ordering::Relaxed) {
            PrivateStores::Machine
        } else {
            PrivateStores::Handler
        }
    }

    /// Plans failures in the allocation of page tables (a 2 MiB translation deposits one too).
    pub fn fail_table_allocation(&self, plan: Plan) {
        self.allocations.plan(Allocation::Table, plan, ());
    }

    pub(crate) fn check_table(&self) -> Result<(), ()> {
        self.allocations.check(Allocation::Table)
    }

    /// Plans failures in the allocation of private copies.
    pub fn fail_copy_allocation(&self, plan: Plan) {
        self.allocations.plan(Allocation::Copy, plan, ());
    }

    pub(crate) fn check_copy(&self) -> Result<(), ()> {
        self.allocations.check(Allocation::Copy)
    }

    pub(crate) fn cpus(&self) -> &[Mutex<Tlb>] {
        &self.cpus
    }
}
