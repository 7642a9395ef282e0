//! A fault, from the access that caused it to the translation that serves it (SEMANTICS 5).
//!
//! Glossary: *served* is how a fault ended; *ahead* is how far behind the faulting unit the caller would like translations made
//! as well; a *private write* ends in the VMA's own copy and leaves the file alone.

mod insert;
mod pmd;
mod pte;
mod sync;

pub use pmd::NotHuge;

use crate::error::{InstallError, IoError, IoErrorKind};
use crate::mapping::Mapping;
use crate::seams::{AddressSpace, Filesystem, Pmd, World};
use crate::trace::{FaultFlags, FaultPlace, FaultResult};
use crate::units::{Frame, Order, PageIndex, PageRange};
use crate::vma::{Sharing, Vma};

/// What the access wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
}

/// One fault, as the address space reports it.
#[doc(alias = "vm_fault")]
pub struct Fault<'v, W: World> {
    /// The VMA. It stays as it is until the fault has been served.
    pub vma: &'v Vma<W>,
    /// The file page of the access; in the VMA.
    pub index: PageIndex,
    /// Load or store.
    pub access: Access,
    /// The access met a translation that does not allow it (rather than none).
    pub translation_present: bool,
    /// How many pages behind the faulting unit to map in the same go, where that needs no waiting. 0: just the unit.
    pub ahead: u64,
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "vm_fault_t")]
pub enum Served {
    /// The translation is in place, or somebody else put one there: the access is to be tried again.
    Installed,
    /// Nothing was done: the access is to be tried again.
    Retry,
    /// Not with this size.
    Fallback,
    /// A private copy is in place.
    Copied,
    /// The storage is there; metadata must be made durable before a translation is (MAP_SYNC).
    NeedsCommit {
        /// The unit's first frame.
        frame: Frame,
    },
    /// Beyond the end of the file, no space, or an I/O error: the access ends in `SIGBUS`.
    BusError,
    /// No memory for it now.
    OutOfMemory,
    /// The storage is poisoned: `SIGBUS` that says so.
    Poisoned,
}

/// A fault's end, and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultOutcome {
    /// How it ended.
    pub served: Served,
    /// Storage was allocated for it.
    pub major: bool,
    /// The size at which it ended.
    pub order: Order,
    /// The cause, if the file system or the media had one (`ENOSPC` above all).
    pub error: Option<IoError>,
}

impl FaultOutcome {
    fn new(served: Served, order: Order) -> Self {
        Self { served, major: false, order, error: None }
    }

    fn failed(error: IoError, order: Order) -> Self {
        let served = match error.kind {
            IoErrorKind::NoMemory => Served::OutOfMemory,
            IoErrorKind::Poisoned => Served::Poisoned,
            IoErrorKind::NoSpace
            | IoErrorKind::WouldBlock
            | IoErrorKind::Interrupted
            | IoErrorKind::OutOfRange
            | IoErrorKind::Io => Served::BusError,
        };
        Self { served, major: false, order, error: Some(error) }
    }

    fn not_installed(error: InstallError, order: Order) -> Self {
        match error {
            InstallError::OutOfMemory => Self::new(Served::OutOfMemory, order),
            // Another size of translation has got there first: the access finds that.
            InstallError::LevelTaken => Self::new(Served::Installed, order),
            InstallError::NoHugeZero => Self::new(Served::Fallback, order),
            InstallError::Media(cause) => Self::failed(cause, order),
        }
    }

    /// Whether the access cannot succeed.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.result().is_error()
    }

    /// The same as Linux's flags, for traces.
    #[must_use]
    pub fn result(&self) -> FaultResult {
        let result = match self.served {
            Served::Installed => FaultResult::NOPAGE,
            Served::Retry => FaultResult::empty(),
            Served::Fallback => FaultResult::FALLBACK,
            Served::Copied => FaultResult::DONE_COW,
            Served::NeedsCommit { .. } => FaultResult::NEEDDSYNC,
            Served::BusError => FaultResult::SIGBUS,
            Served::OutOfMemory => FaultResult::OOM,
            Served::Poisoned => FaultResult::HWPOISON,
        };
        if self.major { result | FaultResult::MAJOR } else { result }
    }
}

/// How often a store that met a full file system is tried again after a commit, which may set freed space free (pitfall 79).
const NO_SPACE_RETRIES: u32 = 3;

impl<W: World> Fault<'_, W> {
    /// A store that reaches the file. A private one does not: no times, no journal, no marks (pitfalls 77, 78).
    fn is_shared_write(&self) -> bool {
        self.access == Access::Write && self.vma.sharing == Sharing::Shared
    }

    fn is_private_write(&self) -> bool {
        self.access == Access::Write && self.vma.sharing == Sharing::Private
    }
}

impl<W: World> Mapping<W> {
    /// Serves one fault: 2 MiB first where that may be, then 4 KiB. When it returns `Installed`, `Copied` or `Retry`, the access
    /// is to be tried again; it may fault again.
    ///
    /// May sleep: for the fault lock, one entry lock, the file system. Takes no lock of the file's inode. Source: SEMANTICS 5;
    /// `dax_iomap_fault`, and the file systems' handlers around it (7.6).
    #[doc(alias = "dax_iomap_fault")]
    #[doc(alias = "handle_mm_fault")]
    pub fn fault(&self, fault: &Fault<'_, W>) -> FaultOutcome {
        debug_assert!(fault.vma.pages.contains(fault.index), "a fault lies in its VMA");
        if fault.is_shared_write() {
            self.filesystem.note_store();
        }
        let _shared = self.fault_lock.shared();
        let mut outcome = self.fault_once(fault);
        for _ in 0..NO_SPACE_RETRIES {
            let no_space = outcome.error.is_some_and(|error| error.kind == IoErrorKind::NoSpace);
            let unit = PageRange::unit(fault.index, Order::Pte);
            if !no_space || self.filesystem.commit(unit).is_err() {
                break;
            }
            outcome = self.fault_once(fault);
        }
        if let Served::NeedsCommit { frame } = outcome.served {
            let major = outcome.major;
            outcome = self.finish_sync(fault, outcome.order, frame);
            outcome.major = major;
        }
        outcome
    }

    /// What the memory manager does: the largest size that the page tables leave open, then the small one (5.1).
    fn fault_once(&self, fault: &Fault<'_, W>) -> FaultOutcome {
        let try_pmd = match fault.vma.space.pmd(fault.index) {
            Pmd::None => true,
            Pmd::Table => false,
            Pmd::HugeReadOnly if fault.access == Access::Write => true,
            // Somebody has put there what the access wants.
            Pmd::HugeReadOnly | Pmd::HugeWritable => {
                return FaultOutcome::new(Served::Installed, Order::Pmd);
            }
        };
        if try_pmd && fault.vma.huge_pages == crate::vma::HugePages::Allowed {
            // A 2 MiB fault never counts as one on a translation that is there (MKWRITE); and after a fallback none is.
            let fault = Fault { translation_present: false, ..*fault };
            let outcome = self.pmd_fault(&fault);
            if outcome.served != Served::Fallback {
                return outcome;
            }
            return self.pte_fault(&fault);
        }
        self.pte_fault(fault)
    }

    fn place(&self, fault: &Fault<'_, W>) -> FaultPlace {
        let vma = fault.vma;
        let mut flags = FaultFlags::empty();
        if fault.access == Access::Write {
            flags |= FaultFlags::WRITE;
            if fault.translation_present {
                flags |= FaultFlags::MKWRITE;
            }
        }
        let vm_start = vma.address(vma.pages.start);
        FaultPlace {
            inode: self.inode,
            vm_start,
            vm_end: vm_start + (vma.pages.len() << crate::units::PAGE_SHIFT),
            shared: vma.sharing == Sharing::Shared,
            address: vma.address(fault.index),
            pgoff: fault.index,
            max_pgoff: self.pages_in_file(),
            flags,
        }
    }
}
