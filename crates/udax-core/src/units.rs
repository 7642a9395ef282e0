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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const fn range(start: u64, end: u64) -> PageRange {
        PageRange { start: PageIndex(start), end: PageIndex(end) }
    }

    #[test]
    fn orders_bytes_and_colours() {
        assert_eq!((Order::Pte.pages(), Order::Pmd.pages()), (1, 512));
        assert_eq!((Order::Pte.bytes(), Order::Pmd.bytes()), (4096, 2 << 20));
        assert_eq!(
            (PageIndex::of_byte(4095), PageIndex::of_byte(4096)),
            (PageIndex(0), PageIndex(1))
        );
        assert_eq!(PageIndex(3).byte(), 12288);
        assert_eq!(PageIndex(1025).align_down(Order::Pmd), PageIndex(1024));
        assert_eq!(PageIndex(1025).align_down(Order::Pte), PageIndex(1025));
        assert_eq!((PageIndex(1025).colour(), PageIndex(1024).colour()), (1, 0));
        assert_eq!(
            (PageIndex(5).plus(7), PageIndex(5).plus(u64::MAX)),
            (PageIndex(12), PageIndex(u64::MAX))
        );
        assert_eq!(Frame(5).plus(7), Frame(12));
        assert!(
            Frame(512).is_pmd_aligned()
                && Frame(0).is_pmd_aligned()
                && !Frame(513).is_pmd_aligned()
        );
    }

    #[test]
    fn ranges_are_half_open_and_never_turn_round() {
        assert_eq!(PageRange::new(PageIndex(3), 2), range(3, 5));
        assert_eq!(PageRange::between(PageIndex(3), PageIndex(5)), range(3, 5));
        assert_eq!(PageRange::between(PageIndex(5), PageIndex(3)), range(5, 5));
        assert_eq!(PageRange::unit(PageIndex(700), Order::Pmd), range(512, 1024));
        assert_eq!(PageRange::unit(PageIndex(700), Order::Pte), range(700, 701));
        assert_eq!(PageRange::from(PageIndex(7)), range(7, u64::MAX));
        assert_eq!((range(3, 5).len(), range(3, 3).len()), (2, 0));
        assert!(range(3, 3).is_empty() && !range(3, 4).is_empty());
        let contains = [2, 3, 4, 5].map(|index| range(3, 5).contains(PageIndex(index)));
        assert_eq!(contains, [false, true, true, false]);
        let covers =
            [(3, 5), (4, 5), (2, 5), (3, 6), (2, 6)].map(|(a, b)| range(3, 5).covers(range(a, b)));
        assert_eq!(covers, [true, true, false, false, false]);
        assert_eq!(range(3, 8).intersect(range(5, 10)), range(5, 8));
        assert_eq!(range(5, 10).intersect(range(3, 8)), range(5, 8));
        assert!(range(3, 5).intersect(range(5, 10)).is_empty());
    }

    #[test]
    fn pages_of_bytes() {
        assert_eq!(PageRange::of_bytes(4096, 0), range(1, 1));
        assert_eq!(PageRange::of_bytes(4095, 1), range(0, 1));
        assert_eq!(PageRange::of_bytes(4095, 2), range(0, 2));
        assert_eq!(PageRange::of_bytes(0, 8192), range(0, 2));
        assert_eq!(PageRange::of_bytes(0, 8193), range(0, 3));
        assert_eq!(PageRange::of_bytes(u64::MAX, 5).end, PageIndex((u64::MAX >> 12) + 1));
    }

    #[test]
    fn shown_in_hexadecimal() {
        assert_eq!(PageIndex(255).to_string(), "0xff");
        assert_eq!(range(16, 32).to_string(), "0x10..0x20");
    }
}
