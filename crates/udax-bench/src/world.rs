//! A world that costs nothing: a file all of holes or of storage, on locks of the standard library, with page tables that only say yes.

use std::sync::Arc;
use udax_core::{
    AddressSpace, Backing, Dax, Durability, Filesystem, Frame, FrameRange, HugePages, Inode,
    InstallError, Intent, IoError, Iomap, Mapping, Media, MediaAccess, Order, PageIndex, PageRange,
    Pmd, PrivateCopies, Rights, Sharing, Vma, World, WriteTracking,
};
use udax_linux::StdPlatform;

/// The world, and everything in it.
#[derive(Debug)]
pub(crate) struct Free;

impl World for Free {
    type Platform = StdPlatform;
    type Filesystem = Self;
    type Media = Self;
    type Space = Self;
}

/// A file of `pages` pages, all holes until they are stored to, and all of it in one VMA of 4 KiB pages.
pub(crate) fn file(pages: u64) -> (Arc<Mapping<Free>>, Arc<Vma<Free>>) {
    let mapping = Mapping::new(&Dax::new(None), Inode { dev: 0, ino: 1 }, Free, Free);
    let vma = Arc::new(Vma {
        pages: PageRange::new(PageIndex(0), pages),
        address_page: 0,
        sharing: Sharing::Shared,
        durability: Durability::AtSync,
        huge_pages: HugePages::Never,
        space: Free,
    });
    mapping.attach(Arc::clone(&vma));
    (mapping, vma)
}

impl Filesystem for Free {
    fn size_bytes(&self) -> u64 {
        1 << 50
    }

    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        let (backing, is_new) = match intent {
            Intent::Read | Intent::Zero | Intent::Move => (Backing::Hole, false),
            Intent::Write => (Backing::Mapped(Frame(range.start.0)), true),
        };
        Ok(Iomap { range, backing, is_new, metadata_dirty: false, copy_from: None })
    }

    fn iomap_end(&self, _: &Iomap, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn set_size(&self, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn free(&self, _: PageRange) -> Result<(), IoError> {
        Ok(())
    }

    fn commit(&self, _: PageRange) -> Result<(), IoError> {
        Ok(())
    }

    fn note_store(&self) {}
}

impl Media for Free {
    fn direct_access(&self, frames: FrameRange, _: MediaAccess) -> Result<u64, IoError> {
        Ok(frames.count)
    }

    fn flush(&self, _: FrameRange) -> Result<(), IoError> {
        Ok(())
    }

    fn load(&self, _: Frame, _: u64, into: &mut [u8]) -> Result<usize, IoError> {
        Ok(into.len())
    }

    fn store(&self, _: Frame, _: u64, from: &[u8]) -> Result<usize, IoError> {
        Ok(from.len())
    }

    fn zero(&self, _: Frame, _: u64, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn first_pinned(&self, _: FrameRange) -> Option<Frame> {
        None
    }

    fn wait_unpinned(&self, _: Frame) {}
}

impl AddressSpace for Free {
    fn pmd(&self, _: PageIndex) -> Pmd {
        Pmd::Table
    }

    fn install_storage(
        &self,
        _: PageRange,
        _: Frame,
        _: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        Ok(rights)
    }

    fn install_zeros(&self, _: PageRange, _: Order) -> Result<(), InstallError> {
        Ok(())
    }

    fn install_copy(&self, _: PageIndex, _: Option<Frame>) -> Result<(), InstallError> {
        Ok(())
    }

    fn unmap(&self, _: PageRange, _: PrivateCopies) {}

    fn write_protect(&self, _: PageRange, _: Frame) -> WriteTracking {
        WriteTracking::Faults
    }

    fn clear_pmd(&self, _: PageIndex) {}
}
