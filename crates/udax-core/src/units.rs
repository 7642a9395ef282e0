//! The units the engine counts in: file pages, storage frames, and the two sizes of a mapping entry.
//!
//! Glossary: a *page index* is a byte offset in a file divided by 4096; a *PMD index* is a page index whose low nine bits
//! are clear; the *colour* of an index is those nine bits; a *frame* is 4096 bytes of storage.

use core::fmt;

/// Bytes in a page, as a power of two.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Pages in a PMD unit, as a power of two.
pub const PMD_SHIFT: u32 = 9;
/// Pages in a PMD unit (2 MiB).
pub const PMD_PAGES: u64 = 1 << PMD_SHIFT;
/// Bytes in a PMD unit (2 MiB).
pub const PMD_BYTES: u64 = PMD_PAGES << PAGE_SHIFT;

/// The size of one mapping entry, one translation, one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// 4 KiB: one page table entry.
    Pte,
    /// 2 MiB: one page middle directory entry.
    Pmd,
}

impl Order {
    /// How many pages a unit of this order has: 1 or 512.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Pte => 1,
            Self::Pmd => PMD_PAGES,
        }
    }

    /// How many bytes a unit of this order has.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.pages() << PAGE_SHIFT
    }
}

/// A page of a file: its byte offset divided by 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[doc(alias = "pgoff_t")]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// The page that holds byte `offset`.
    #[must_use]
    pub const fn of_byte(offset: u64) -> Self {
        Self(offset >> PAGE_SHIFT)
    }

    /// The byte offset of the page's first byte.
    #[must_use]
    pub const fn byte(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The first page of the unit of `order` that holds this page.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages() - 1))
    }

    /// Where the page stands in its 2 MiB: 0 to 511.
    #[must_use]
    #[doc(alias = "PG_PMD_COLOUR")]
    pub const fn colour(self) -> u64 {
        self.0 & (PMD_PAGES - 1)
    }

    /// The page `pages` further on; stops at the last index there is.
    #[must_use]
    pub const fn plus(self, pages: u64) -> Self {
        Self(self.0.saturating_add(pages))
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// 4096 bytes of storage, by number. What the number means is the media's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "pfn")]
pub struct Frame(pub u64);

impl Frame {
    /// The frame `frames` further on.
    #[must_use]
    pub const fn plus(self, frames: u64) -> Self {
        Self(self.0.saturating_add(frames))
    }

    /// Whether a 2 MiB translation may start here.
    #[must_use]
    pub const fn is_pmd_aligned(self) -> bool {
        self.0 & (PMD_PAGES - 1) == 0
    }
}

/// A run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// The first frame.
    pub start: Frame,
    /// How many frames.
    pub count: u64,
}

/// A half-open run of pages, `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first page.
    pub start: PageIndex,
    /// The page after the last.
    pub end: PageIndex,
}

impl PageRange {
    /// `count` pages from `start`; cut at the last index there is.
    #[must_use]
    pub const fn new(start: PageIndex, count: u64) -> Self {
        Self { start, end: start.plus(count) }
    }

    /// From `start` up to, not including, `end`; empty if `end` lies before `start`.
    #[must_use]
    pub const fn between(start: PageIndex, end: PageIndex) -> Self {
        Self { start, end: if end.0 < start.0 { start } else { end } }
    }

    /// The unit of `order` that holds `index`.
    #[must_use]
    pub const fn unit(index: PageIndex, order: Order) -> Self {
        Self::new(index.align_down(order), order.pages())
    }

    /// The pages that hold any of the `length_bytes` bytes at `offset`. Saturates at the end of the index space.
    #[must_use]
    pub const fn of_bytes(offset: u64, length_bytes: u64) -> Self {
        let start = PageIndex::of_byte(offset);
        if length_bytes == 0 {
            return Self { start, end: start };
        }
        let last = PageIndex::of_byte(offset.saturating_add(length_bytes - 1));
        Self { start, end: last.plus(1) }
    }

    /// Every page from `start` on.
    #[must_use]
    pub const fn from(start: PageIndex) -> Self {
        Self { start, end: PageIndex(u64::MAX) }
    }

    /// How many pages.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether there is no page in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.start.0
    }

    /// Whether `index` is in it.
    #[must_use]
    pub const fn contains(self, index: PageIndex) -> bool {
        self.start.0 <= index.0 && index.0 < self.end.0
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// The pages in both.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
