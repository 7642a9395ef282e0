//! One file as the engine knows it: its index of mapping entries, the VMAs that map it, and its fault lock.

use crate::error::IoError;
use crate::fault_lock::FaultLock;
use crate::index::{Index, Mark};
use crate::seams::{AddressSpace, Filesystem, Guarded, Platform, PrivateCopies, ShortLock, World};
use crate::trace::{Inode, TraceEvent, Tracer};
use crate::units::{PageIndex, PageRange};
use crate::vma::Vma;
use crate::waits::{DEFAULT_BUCKET_BITS, WaitKey, WaitTable, Wake};
use crate::{Entry, Order};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::{AtomicUsize, Ordering};

/// The guard of a mapping's tree lock.
pub(crate) type Tree<'m, W> =
    <<<W as World>::Platform as Platform>::Lock<Index> as ShortLock<Index>>::Guard<'m>;

/// What all mappings of one engine share: the wait table, and whoever takes trace events.
pub struct Dax<W: World> {
    pub(crate) waits: WaitTable<W::Platform>,
    tracer: Option<Arc<dyn Tracer>>,
    /// Hands out numbers and orders nothing, so no platform need supply it: a checker has nothing to see here.
    mappings_made: AtomicUsize,
}

impl<W: World> Dax<W> {
    /// An engine; its events go to `tracer`, and cost nothing if there is none.
    #[must_use]
    pub fn new(tracer: Option<Arc<dyn Tracer>>) -> Arc<Self> {
        Self::with_wait_buckets(tracer, DEFAULT_BUCKET_BITS)
    }

    /// The same with `2^bits` wait buckets, for tests that want every key in few buckets.
    ///
    /// # Panics
    /// If `bits` is not between 1 and 16.
    #[must_use]
    pub fn with_wait_buckets(tracer: Option<Arc<dyn Tracer>>, bits: u32) -> Arc<Self> {
        Arc::new(Self { waits: WaitTable::new(bits), tracer, mappings_made: AtomicUsize::new(1) })
    }
}

impl<W: World> Guarded for Vec<Arc<Vma<W>>> {}

impl Guarded for Option<IoError> {
    fn describe(&self, _: &mut dyn Hasher) -> bool {
        self.is_none()
    }
}

/// One file: everything that faults, syncs and truncations of it go through.
///
/// Cheap to share; every method may be called from any thread. Methods that may block say so.
#[doc(alias = "address_space")]
pub struct Mapping<W: World> {
    pub(crate) dax: Arc<Dax<W>>,
    pub(crate) number: u64,
    pub(crate) inode: Inode,
    pub(crate) tree: <W::Platform as Platform>::Lock<Index>,
    pub(crate) fault_lock: FaultLock<W::Platform>,
    pub(crate) filesystem: W::Filesystem,
    pub(crate) media: W::Media,
    vmas: <W::Platform as Platform>::Lock<Vec<Arc<Vma<W>>>>,
    writeback_error: <W::Platform as Platform>::Lock<Option<IoError>>,
}

/// One entry, for those who look at a mapping from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryReport {
    /// The first page it covers.
    pub start: PageIndex,
    /// What it is, and whether it is locked now.
    pub entry: Entry,
    /// A later sync must flush it.
    pub dirty: bool,
    /// A sync in progress has chosen it.
    pub to_write: bool,
}

impl<W: World> Mapping<W> {
    /// A mapping with no entry and no VMA.
    pub fn new(
        dax: &Arc<Dax<W>>,
        inode: Inode,
        filesystem: W::Filesystem,
        media: W::Media,
    ) -> Arc<Self> {
        // Numbers are for wait keys and trace only; 2^64 mappings are out of reach.
        let number = dax.mappings_made.fetch_add(1, Ordering::Relaxed) as u64;
        Arc::new(Self {
            dax: Arc::clone(dax),
            number,
            inode,
            tree: ShortLock::new(Index::new()),
            fault_lock: FaultLock::new(),
            filesystem,
            media,
            vmas: ShortLock::new(Vec::new()),
            writeback_error: ShortLock::new(None),
        })
    }

    /// The file system's side of the file.
    pub fn filesystem(&self) -> &W::Filesystem {
        &self.filesystem
    }

    /// The storage of the file.
    pub fn media(&self) -> &W::Media {
        &self.media
    }

    /// The inode, as traces name it.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Adds a VMA: from now on its translations are unmapped and write-protected with the others. It must not have any before: a fork
    /// attaches the child's before it copies the parent's translations, or zeros could be copied that are being taken away.
    pub fn attach(&self, vma: Arc<Vma<W>>) {
        self.vmas.lock().push(vma);
    }

    /// Takes a VMA out. No fault may be under way in it, and its translations must be gone or be on their way out.
    pub fn detach(&self, vma: &Arc<Vma<W>>) {
        self.vmas.lock().retain(|other| !Arc::ptr_eq(other, vma));
    }

    /// The VMAs that are attached now.
    pub fn vmas(&self) -> Vec<Arc<Vma<W>>> {
        self.vmas.lock().clone()
    }

    /// How many entries there are, whatever their size.
    pub fn entries(&self) -> u64 {
        self.tree.lock().len()
    }

    /// The entries that cover any of `range`, in order.
    pub fn entries_in(&self, range: PageRange) -> Vec<EntryReport> {
        let tree = self.tree.lock();
        tree.iter_range(range)
            .map(|found| EntryReport {
                start: found.start,
                entry: found.entry,
                dirty: tree.is_marked(found.start, Mark::Dirty),
                to_write: tree.is_marked(found.start, Mark::ToWrite),
            })
            .collect()
    }

    /// How many threads sleep for the entry that starts at `start`. For tests, and for whoever hunts a hang.
    pub fn sleepers(&self, start: PageIndex) -> usize {
        self.dax.waits.sleeping(self.key(start))
    }

    /// Limits the index to so many nodes, beyond which it is out of memory; for tests of what happens then.
    pub fn limit_index_nodes(&self, nodes: Option<usize>) {
        self.tree.lock().set_node_limit(nodes);
    }

    /// The first error that a writeback met since the last call, for a later sync to report.
    pub(crate) fn take_writeback_error(&self) -> Option<IoError> {
        self.writeback_error.lock().take()
    }

    pub(crate) fn record_writeback_error(&self, error: IoError) {
        self.writeback_error.lock().get_or_insert(error);
    }

    pub(crate) fn key(&self, start: PageIndex) -> WaitKey {
        WaitKey { mapping: self.number, start }
    }

    pub(crate) fn wake(&self, start: PageIndex, mode: Wake) {
        W::Platform::step(|| self.dax.waits.wake(self.key(start), mode), |&()| ());
    }

    /// Runs `act` on the index under the tree lock.
    pub(crate) fn with_tree<R: Hash + Copy>(&self, act: impl FnOnce(&mut Index) -> R) -> R {
        W::Platform::step(|| act(&mut self.tree.lock()), |&told| told)
    }

    pub(crate) fn trace(&self, event: impl FnOnce() -> TraceEvent) {
        if let Some(tracer) = &self.dax.tracer {
            tracer.event(&event());
        }
    }

    /// Unmaps `range` in every VMA that maps any of it. Where there are several, none shows what replaces the zeros while another shows zeros.
    #[doc(alias = "unmap_mapping_pages")]
    pub(crate) fn unmap(&self, range: PageRange, copies: PrivateCopies) {
        if W::Space::UNMAP_SHOWS_THE_FILE {
            let mut vmas = 0;
            self.each_vma(range, |_, _| vmas += 1);
            if vmas > 1 {
                self.each_vma(range, |vma, part| vma.space.hold_zeros(part));
            }
        }
        self.each_vma(range, |vma, part| vma.space.unmap(part, copies));
    }

    /// Calls `act` for every VMA that maps any of `range`, with the part that it maps. The list of VMAs is held meanwhile: a
    /// VMA that is being taken out has its address range to itself until that is done.
    pub(crate) fn each_vma(&self, range: PageRange, mut act: impl FnMut(&Vma<W>, PageRange)) {
        let vmas = self.vmas.lock();
        for vma in vmas.iter() {
            let part = vma.pages.intersect(range);
            if !part.is_empty() {
                act(vma, part);
            }
        }
    }

    /// Pages in the file, rounded up (pitfall 21: never `size - 1`).
    pub(crate) fn pages_in_file(&self) -> PageIndex {
        PageIndex(self.filesystem.size_bytes().div_ceil(Order::Pte.bytes()))
    }
}
