//! A virtual memory area: a run of a file's pages at a run of addresses, as faults see it.

use crate::seams::World;
use crate::units::{Order, PMD_PAGES, PageIndex, PageRange};

/// Whether stores reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "VM_SHARED")]
pub enum Sharing {
    /// They do.
    Shared,
    /// They make private copies.
    Private,
}

/// When a store is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "VM_SYNC")]
#[doc(alias = "MAP_SYNC")]
pub enum Durability {
    /// At once; a later sync makes it durable.
    AtSync,
    /// Once the metadata needed to find it is durable.
    MetadataFirst,
}

/// The largest translation a VMA may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// 2 MiB.
    Allowed,
    /// 4 KiB: the machine or the user wants no larger ones.
    Never,
}

/// One virtual memory area.
#[doc(alias = "vm_area_struct")]
pub struct Vma<W: World> {
    /// The file pages it maps.
    pub pages: PageRange,
    /// The virtual page number (address divided by 4096) of `pages.start`.
    pub address_page: u64,
    /// Where stores go.
    pub sharing: Sharing,
    /// When they are let through.
    pub durability: Durability,
    /// How large translations may be.
    pub huge_pages: HugePages,
    /// Its page tables.
    pub space: W::Space,
}

impl<W: World> Vma<W> {
    /// The address of a page, in bytes.
    #[must_use]
    pub fn address(&self, index: PageIndex) -> u64 {
        (self.address_page + (index.0 - self.pages.start.0)) << crate::units::PAGE_SHIFT
    }

    /// Whether addresses and file offsets agree modulo 2 MiB, without which no 2 MiB translation can be (pitfall 20).
    #[must_use]
    pub fn colours_agree(&self) -> bool {
        self.address_page & (PMD_PAGES - 1) == self.pages.start.colour()
    }

    /// Whether the whole 2 MiB around `index` is in the VMA.
    #[must_use]
    pub fn holds_pmd(&self, index: PageIndex) -> bool {
        self.pages.covers(PageRange::unit(index, Order::Pmd))
    }
}
