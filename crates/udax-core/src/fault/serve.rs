//! The way in: locks and retries around a fault, the size to try first, and the half that MAP_SYNC adds.

use super::{Access, Fault, FaultOutcome, Served};
use crate::error::IoErrorKind;
use crate::mapping::Mapping;
use crate::seams::{AddressSpace, Filesystem, Pmd, World};
use crate::trace::{FaultFlags, FaultPlace};
use crate::units::{Order, PageRange};
use crate::vma::Sharing;

/// How often a store that met a full file system is tried again after a commit, which may set freed space free (pitfall 79).
const NO_SPACE_RETRIES: u32 = 3;

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

    pub(super) fn place(&self, fault: &Fault<'_, W>) -> FaultPlace {
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
