//! One file, one storage, and the VMAs that map it.

use crate::disk::{Disk, File, Storage};
use crate::platform::Checker;
use crate::tables::{Space, Tables};
use std::marker::PhantomData;
use std::sync::Arc;
use udax_core::{
    Dax, Durability, Guarded, HugePages, Inode, Interrupt, Mapping, PMD_PAGES, PageIndex,
    PageRange, Sharing, ShortLock, Vma, World,
};

/// The world of the models, on any platform.
pub struct Model<P>(PhantomData<P>);

impl<P: Checker> World for Model<P> {
    type Platform = P;
    type Filesystem = File<P>;
    type Media = Storage<P>;
    type Space = Space<P>;
}

/// Which of the VMAs. All map the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that may have 2 MiB translations.
    Huge,
    /// The one that may have 4 KiB ones only.
    Small,
}

/// What a rig is made of.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Pages in the file.
    pub pages: u64,
    /// Whether stores wait for metadata (MAP_SYNC).
    pub durability: Durability,
    /// So many nodes may the index have, once the start is there. A fault that gets no node ends its access.
    pub index_nodes: Option<usize>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { pages: PMD_PAGES, durability: Durability::AtSync, index_nodes: None }
    }
}

/// Whoever holds the inode's lock.
pub(crate) struct Writer;

impl Guarded for Writer {}

/// All of a model.
pub struct Rig<P: Checker> {
    /// The engine's file.
    pub mapping: Arc<Mapping<Model<P>>>,
    pub(crate) disk: Arc<Disk<P>>,
    vmas: [Arc<Vma<Model<P>>>; 2],
    /// By which some threads end the waits of others.
    pub(crate) interrupt: Interrupt<P>,
    /// What excludes writers and changes of the length from each other.
    inode: P::Lock<Writer>,
    /// Whether the file may become shorter than what is accessed.
    pub(crate) may_shrink: bool,
    /// Whether the index may be out of memory.
    pub(crate) may_run_out: bool,
}

impl<P: Checker> Rig<P> {
    /// A file of holes that nobody has touched.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        let Layout { pages, durability, index_nodes } = layout;
        let units = pages.div_ceil(PMD_PAGES);
        let tables = [(), ()].map(|()| Arc::new(Tables::new(units)));
        let has_metadata = durability == Durability::MetadataFirst;
        let disk =
            Disk::new(usize::try_from(pages).unwrap_or(usize::MAX), has_metadata, tables.clone());
        let dax = Dax::with_wait_buckets(None, 1);
        let inode = Inode { dev: 1, ino: 1 };
        let mapping =
            Mapping::new(&dax, inode, File(Arc::clone(&disk)), Storage(Arc::clone(&disk)));
        let [huge, small] = tables.map(Space);
        let vmas =
            [(huge, HugePages::Allowed), (small, HugePages::Never)].map(|(space, huge_pages)| {
                let vma = Arc::new(Vma {
                    pages: PageRange::new(PageIndex(0), units * PMD_PAGES),
                    address_page: 0,
                    sharing: Sharing::Shared,
                    durability,
                    huge_pages,
                    space,
                });
                mapping.attach(Arc::clone(&vma));
                vma
            });
        Self {
            mapping,
            disk,
            vmas,
            interrupt: Interrupt::new(),
            inode: ShortLock::new(Writer),
            may_shrink: false,
            may_run_out: index_nodes.is_some(),
        }
    }

    /// A VMA.
    pub fn vma(&self, which: Which) -> &Vma<Model<P>> {
        match which {
            Which::Huge => &self.vmas[0],
            Which::Small => &self.vmas[1],
        }
    }

    pub(crate) fn vmas(&self) -> &[Arc<Vma<Model<P>>>] {
        &self.vmas
    }

    pub(crate) fn inode_lock(&self) -> <P::Lock<Writer> as ShortLock<Writer>>::Guard<'_> {
        self.inode.lock()
    }
}
