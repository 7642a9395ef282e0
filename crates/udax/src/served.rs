//! A file that is served: its descriptors, its place in the engine, and the proof that its holes may be shown as zeros.

use crate::opened::Opened;
use crate::world::{HandleIo, HostWorld, Mapping};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{Dax, Inode, Order, PAGE_BYTES, PageIndex, PageRange};
use udax_host::{HostFile, HostKind};
use udax_linux::{AccessMode, FileHandle, FileInfo, Lease, LeaseId};

/// Which file, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileKey {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl FileKey {
    pub(crate) fn of(info: &FileInfo) -> Self {
        Self { dev: info.dev, ino: info.ino }
    }
}

/// Why nobody unwatched can write the file (the coherence contract, README).
#[derive(Debug)]
pub(crate) enum Proof {
    /// The kernel holds others back until we have answered.
    Lease(Lease),
    /// The user promised.
    Promise,
}

/// One served file. It is served from the first mapping with a proof until the proof ends or the last mapping goes.
pub(crate) struct ServedFile {
    pub(crate) key: FileKey,
    pub(crate) name: Arc<str>,
    pub(crate) handle: Arc<FileHandle>,
    pub(crate) host: HostFile,
    pub(crate) mapping: Arc<Mapping>,
    proof: Mutex<Option<Proof>>,
    /// Held over "assign, then take the zeros away", so that a second writer does not go on between the two.
    assigning: Mutex<()>,
    opened: Mutex<Opened>,
    /// User-space faults taken, for statistics.
    pub(crate) faults: AtomicU64,
}

impl ServedFile {
    pub(crate) fn new(
        dax: &Arc<Dax<HostWorld>>,
        handle: Arc<FileHandle>,
        proof: Proof,
        name: String,
    ) -> Arc<Self> {
        let info = handle.info();
        let io = Arc::new(HandleIo(Arc::clone(&handle)));
        let host = HostFile::new(io, HostKind::of_magic(info.fs_magic));
        host.trust();
        let inode = Inode { dev: info.dev, ino: info.ino };
        let mapping = Mapping::new(dax, inode, host.clone(), host.clone());
        Arc::new(Self {
            key: FileKey::of(&info),
            name: name.into(),
            handle,
            host,
            mapping,
            proof: Mutex::new(Some(proof)),
            assigning: Mutex::new(()),
            opened: Mutex::default(),
            faults: AtomicU64::new(0),
        })
    }

    /// Where its last page ends, now; 0 if that cannot be told.
    pub(crate) fn pages(&self) -> PageIndex {
        PageIndex(self.handle.size().unwrap_or(0).div_ceil(PAGE_BYTES))
    }

    pub(crate) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nobody can write it while its proof lasts: its mappings neither, and no process that has the program's descriptor as well.
    pub(crate) fn is_only_read(&self) -> bool {
        let proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        let has_lease = matches!(&*proof, Some(Proof::Lease(_)));
        has_lease && self.handle.info().access == AccessMode::ReadOnly
    }

    /// Takes the proof; dropping it lets a lease go, and whoever waited for that goes on.
    pub(crate) fn take_proof(&self) -> Option<Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn holds_lease(&self, lease: LeaseId) -> bool {
        let proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*proof, Some(Proof::Lease(held)) if held.id() == lease)
    }

    /// Whether holes of it may be shown as zeros.
    pub(crate) fn is_proved(&self) -> bool {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What stores have opened in it and is watched. Held for a moment, and nothing is taken meanwhile but the lock of a space.
    pub(crate) fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn proof_name(&self) -> &'static str {
        let proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        match &*proof {
            Some(Proof::Lease(_)) => "file lease",
            Some(Proof::Promise) => "the user's promise",
            None => "ended",
        }
    }

    /// From now on `range` is storage: no fault shows zeros there, and no mapping does when this returns. Before a write of this process
    /// to the file that does not come through a mapping. The caller holds the registry shared.
    pub(crate) fn make_storage(&self, range: PageRange) {
        let range = whole_units(range);
        let _assigning = udax_linux::unpoisoned(self.assigning.lock());
        // Also where nothing is known yet: a survey that looks before the bytes arrive would learn a hole.
        if !self.host.is_kept(range) {
            self.host.keep(range);
        }
        // Whoever assigned has finished: a fault assigns before it takes the zeros away. A fault that asked before is seen by its entry.
        if !self.mapping.may_show_zeros(range) {
            return;
        }
        self.mapping.vmas().iter().for_each(|vma| vma.space.forget_strangers(range));
        self.mapping.revoke_zeros(range);
        self.settle_overflow();
    }

    /// `range`, which is assigned, is about to be mapped natively without a fault: no mapping shows zeros of it when this returns. There are none as a rule.
    pub(crate) fn take_zeros_off(&self, range: PageRange) {
        if self.mapping.may_show_zeros(range) {
            // Whole units, as the entries of zeros may stick out, and all that becomes plain has to be assigned.
            let units = whole_units(range);
            self.host.assign(units);
            self.mapping.revoke_zeros(units);
            self.settle_overflow();
        }
    }

    /// Where the kernel refused to map a part, and a mapping became plain as a whole: all of that counts as storage from here on.
    pub(crate) fn settle_overflow(&self) {
        for vma in self.mapping.vmas().iter().filter(|vma| vma.space.take_overflow()) {
            let units = whole_units(vma.pages);
            self.host.keep(units);
            self.mapping.invalidate(units);
            vma.space.plain_all();
        }
    }
}

/// `range` and the rest of the 2 MiB units that it touches.
pub(crate) fn whole_units(range: PageRange) -> PageRange {
    if range.is_empty() {
        return range;
    }
    let last = PageIndex(range.end.0 - 1).align_down(Order::Pmd);
    PageRange::between(range.start.align_down(Order::Pmd), last.plus(Order::Pmd.pages()))
}
