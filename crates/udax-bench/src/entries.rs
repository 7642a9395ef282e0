//! Mapping entries by page: in the index, and in a BTreeMap.

use std::collections::BTreeMap;
use std::hint::black_box;
use udax_core::internals::BareIndex;
use udax_core::{Entry, Frame, Kind, Order, PageIndex, PageRange};

fn entry(page: u64) -> Entry {
    Entry::new(Order::Pte, Kind::Mapped(Frame(page)))
}

/// Something that finds the entry of a page.
pub trait Entries: Default {
    /// Puts an entry for `page` in.
    fn insert(&mut self, page: u64);
    /// Whether there is one.
    fn has(&self, page: u64) -> bool;
    /// How many there are from `start` to `end`, looking at each.
    fn walk(&self, start: u64, end: u64) -> u64;

    /// With an entry for each of `pages`.
    fn with(pages: impl IntoIterator<Item = u64>) -> Self {
        let mut made = Self::default();
        pages.into_iter().for_each(|page| made.insert(page));
        made
    }

    /// Looks all of `pages` up; how many were there.
    fn find(&self, pages: &[u64]) -> u64 {
        pages.iter().map(|&page| u64::from(self.has(black_box(page)))).sum()
    }
}

/// In the engine's index.
#[derive(Debug, Default)]
pub struct InIndex(pub BareIndex);

impl Entries for InIndex {
    fn insert(&mut self, page: u64) {
        self.0.insert(PageIndex(page), entry(page));
    }

    #[inline]
    fn has(&self, page: u64) -> bool {
        self.0.get(PageIndex(page)).is_some_and(Entry::is_mapped)
    }

    fn walk(&self, start: u64, end: u64) -> u64 {
        self.0.walk(PageRange::between(PageIndex(start), PageIndex(end)))
    }
}

/// In a map of the standard library.
#[derive(Debug, Default)]
pub struct InBTreeMap(BTreeMap<u64, Entry>);

impl Entries for InBTreeMap {
    fn insert(&mut self, page: u64) {
        self.0.insert(page, entry(page));
    }

    #[inline]
    fn has(&self, page: u64) -> bool {
        self.0.get(&page).is_some_and(|entry| entry.is_mapped())
    }

    fn walk(&self, start: u64, end: u64) -> u64 {
        self.0.range(start..end).map(|(_, entry)| u64::from(entry.is_mapped())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<E: Entries>() {
        let entries = E::with((0..1000).map(|page| page * 3));
        assert_eq!(entries.find(&[0, 1, 3, 2997, 3000]), 3);
        assert_eq!(entries.walk(1, 31), 10);
    }

    #[test]
    fn both_find_what_was_put_in() {
        check::<InIndex>();
        check::<InBTreeMap>();
    }
}
