//! What one CPU remembers of page tables. It goes stale when they change, and stays so until it is shot down.

use crate::mmu::{Slot, level_of, levels_of};
use std::collections::BTreeMap;
use std::ops::Range;
use udax_core::{Order, PMD_PAGES};

/// A translation as it was when the CPU walked the page tables.
#[derive(Clone, Debug)]
pub(crate) struct Cached {
    pub(crate) slot: Slot,
    pub(crate) writable: bool,
    /// The dirty bit is set in the page tables already: a store need not go there.
    pub(crate) dirty: bool,
}

/// The translation look-aside buffer of one CPU, of all processes. It never evicts: nothing goes away by luck.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    small: BTreeMap<(u64, u64), Cached>,
    huge: BTreeMap<(u64, u64), Cached>,
}

impl Tlb {
    /// What is remembered of a page of `process`.
    pub(crate) fn look_up(&self, process: u64, address_page: u64) -> Option<Cached> {
        if let Some(cached) = self.small.get(&(process, address_page)) {
            return Some(cached.clone());
        }
        let mut cached = self.huge.get(&(process, level_of(address_page)))?.clone();
        cached.slot = cached.slot.plus(address_page & (PMD_PAGES - 1));
        Some(cached)
    }

    pub(crate) fn fill(&mut self, process: u64, address_page: u64, order: Order, cached: Cached) {
        match order {
            Order::Pte => self.small.insert((process, address_page), cached),
            Order::Pmd => self.huge.insert((process, level_of(address_page)), cached),
        };
    }

    /// Forgets all of `pages`, and of the 2 MiB translations that hold any of them.
    pub(crate) fn forget(&mut self, process: u64, pages: &Range<u64>) {
        let levels = levels_of(pages);
        remove(&mut self.small, (process, pages.start)..(process, pages.end));
        remove(&mut self.huge, (process, levels.start)..(process, levels.end));
    }
}

fn remove(map: &mut BTreeMap<(u64, u64), Cached>, keys: Range<(u64, u64)>) {
    if keys.start >= keys.end {
        return;
    }
    let gone: Vec<_> = map.range(keys).map(|(key, _)| *key).collect();
    for key in gone {
        map.remove(&key);
    }
}
