//! What a fault is, and how it can end.
//!
//! Glossary: *served* is how a fault ended; *ahead* is how far behind the faulting unit the caller would like translations made
//! as well; a *private write* ends in the VMA's own copy and leaves the file alone.

use crate::error::{InstallError, IoError, IoErrorKind};
use crate::interrupt::Interrupt;
use crate::seams::World;
use crate::trace::FaultResult;
use crate::units::{Frame, Order, PageIndex};
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
    /// Who may end the fault's wait for an entry; it then ends as [`Served::Interrupted`].
    pub interrupt: Option<&'v Interrupt<W::Platform>>,
}

impl<'v, W: World> Fault<'v, W> {
    /// A fault on a page that has no translation, for just its unit, and for as long as it takes.
    #[must_use]
    pub fn new(vma: &'v Vma<W>, index: PageIndex, access: Access) -> Self {
        Self { vma, index, access, translation_present: false, ahead: 0, interrupt: None }
    }
}

/// How a fault ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "vm_fault_t")]
pub enum Served {
    /// The translation is in place, or somebody else put one there: the access is to be tried again.
    Installed,
    /// Nothing was done: the access is to be tried again.
    Retry,
    /// Nothing was done, as the wait for an entry was ended: whoever did that knows what is to become of the access.
    #[doc(alias = "VM_FAULT_RETRY")]
    Interrupted,
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
    pub(super) fn new(served: Served, order: Order) -> Self {
        Self { served, major: false, order, error: None }
    }

    pub(super) fn failed(error: IoError, order: Order) -> Self {
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

    pub(super) fn not_installed(error: InstallError, order: Order) -> Self {
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
            Served::Interrupted => FaultResult::RETRY,
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

impl<W: World> Fault<'_, W> {
    /// A store that reaches the file. A private one does not: no times, no journal, no marks (pitfalls 77, 78).
    pub(super) fn is_shared_write(&self) -> bool {
        self.access == Access::Write && self.vma.sharing == Sharing::Shared
    }

    pub(super) fn is_private_write(&self) -> bool {
        self.access == Access::Write && self.vma.sharing == Sharing::Private
    }
}
