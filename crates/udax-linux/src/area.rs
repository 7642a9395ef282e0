//! A piece of address space that maps pages of a file.

use crate::events::Access;
use crate::sys::to_usize;
use linux_raw_sys::general as k;
use udax_core::{PAGE_SHIFT, PageIndex, PageRange};

/// Whether stores through a mapping reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// They do (MAP_SHARED).
    Shared,
    /// They stay with the mapping (MAP_PRIVATE).
    Private,
}

/// PROT_* bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prot(u32);

impl Prot {
    pub(crate) const NONE: Self = Self(k::PROT_NONE);
    pub(crate) const READ: Self = Self(k::PROT_READ);

    /// The bits as the program gives them.
    #[must_use]
    pub const fn from_bits(bits: i32) -> Self {
        Self(bits as u32)
    }

    /// The bits as the kernel takes them.
    #[must_use]
    pub const fn bits(self) -> i32 {
        self.0 as i32
    }

    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    /// Whether stores are allowed.
    #[must_use]
    pub const fn can_write(self) -> bool {
        self.0 & k::PROT_WRITE != 0
    }

    /// Whether loads are allowed.
    #[must_use]
    pub const fn can_read(self) -> bool {
        self.0 & k::PROT_READ != 0
    }

    /// Whether an access is allowed, by processors' own rule: what may be stored to or executed may be loaded.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.0 & (k::PROT_READ | k::PROT_WRITE | k::PROT_EXEC) != 0,
            Access::Write => self.can_write(),
        }
    }
}

/// Addresses that map pages of a file, and that may be mapped anew. Only [`crate::NativeCalls::area`] and
/// [`crate::Mapped::area`] make one, so that safe code cannot name memory that is not for it to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaArea {
    pub(crate) address: usize,
    pub(crate) pages: PageRange,
    pub(crate) sharing: Sharing,
    pub(crate) prot: Prot,
}

impl VmaArea {
    /// The address of its first page.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.address
    }

    /// The address behind its last page.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.address + bytes(self.pages)
    }

    /// The file's pages that it maps.
    #[must_use]
    pub const fn pages(&self) -> PageRange {
        self.pages
    }

    /// Whether stores reach the file.
    #[must_use]
    pub const fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The program's rights.
    #[must_use]
    pub const fn prot(&self) -> Prot {
        self.prot
    }

    /// The page of the file at `address`; `None` outside the area.
    #[must_use]
    pub const fn page_of(&self, address: usize) -> Option<PageIndex> {
        if address < self.address || address >= self.end() {
            return None;
        }
        Some(self.pages.start.plus(((address - self.address) >> PAGE_SHIFT) as u64))
    }

    /// The address of page `page`.
    ///
    /// # Panics
    /// If the page lies before the area or behind its end.
    #[must_use]
    pub const fn address_of(&self, page: PageIndex) -> usize {
        assert!(
            self.pages.start.0 <= page.0 && page.0 <= self.pages.end.0,
            "the page is not of this area"
        );
        self.address + to_usize((page.0 - self.pages.start.0) << PAGE_SHIFT)
    }

    /// The address of a run's first page, and its length in bytes.
    pub(crate) const fn span(&self, range: PageRange) -> (usize, usize) {
        (self.address_of(range.start), bytes(range))
    }

    /// The lower part up to `page`, and the rest.
    pub(crate) const fn split(self, page: PageIndex) -> (Self, Self) {
        let lower = Self { pages: PageRange::between(self.pages.start, page), ..self };
        let pages = PageRange::between(page, self.pages.end);
        (lower, Self { address: self.address_of(page), pages, ..self })
    }
}

/// The bytes in a run of pages.
pub(crate) const fn bytes(range: PageRange) -> usize {
    to_usize(range.len() << PAGE_SHIFT)
}
