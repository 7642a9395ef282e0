//! Page tables of two levels, as plain data: no locks, no TLB.
//!
//! Glossary: a *level* is the 2 MiB around an address, and is free, a table of 4 KiB translations, or one 2 MiB translation;
//! an *address page* is an address divided by 4096.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use udax_core::{Frame, Order, PAGE_BYTES, PMD_PAGES, PMD_SHIFT, Pmd, PrivateCopies};

/// The bytes of a private copy.
#[derive(Debug)]
pub(crate) struct PrivatePage(pub(crate) Mutex<Vec<u8>>);

impl PrivatePage {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        assert_eq!(bytes.len() as u64, PAGE_BYTES, "a private copy is one page");
        Arc::new(Self(Mutex::new(bytes)))
    }
}

/// What a translation leads to.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    Zero,
    Storage(Frame),
    Private(Arc<PrivatePage>),
}

impl Slot {
    /// The slot of the page `pages` further on in a 2 MiB translation.
    pub(crate) fn plus(&self, pages: u64) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Storage(frame) => Self::Storage(frame.plus(pages)),
            Self::Private(page) => Self::Private(Arc::clone(page)),
        }
    }

    pub(crate) fn is_private(&self) -> bool {
        matches!(self, Self::Private(_))
    }

    fn is_storage_at(&self, wanted: Frame) -> bool {
        matches!(self, Self::Storage(frame) if *frame == wanted)
    }
}

/// One translation, of 4 KiB or 2 MiB.
#[derive(Clone, Debug)]
#[doc(alias = "pte_t")]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) writable: bool,
    pub(crate) dirty: bool,
    pub(crate) accessed: bool,
}

#[derive(Debug)]
enum Level {
    Table(BTreeMap<u64, Entry>),
    Huge(Entry),
}

/// Something of the other size is there.
#[derive(Debug)]
pub(crate) struct Taken;

/// What an installation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Read,
    /// Marked dirty; writable as the VMA allows.
    Store {
        writable: bool,
    },
}

/// The page tables of a process.
#[derive(Debug, Default)]
pub(crate) struct PageTables {
    levels: BTreeMap<u64, Level>,
}

pub(crate) const fn level_of(address_page: u64) -> u64 {
    address_page >> PMD_SHIFT
}

/// The levels that hold any of `pages`.
pub(crate) fn levels_of(pages: &Range<u64>) -> Range<u64> {
    if pages.is_empty() { 0..0 } else { level_of(pages.start)..level_of(pages.end - 1) + 1 }
}

impl PageTables {
    pub(crate) fn pmd(&self, address_page: u64) -> Pmd {
        match self.levels.get(&level_of(address_page)) {
            None => Pmd::None,
            Some(Level::Table(_)) => Pmd::Table,
            Some(Level::Huge(entry)) if entry.writable => Pmd::HugeWritable,
            Some(Level::Huge(_)) => Pmd::HugeReadOnly,
        }
    }

    /// The translation of a page, and its size.
    pub(crate) fn walk(&self, address_page: u64) -> Option<(Order, &Entry)> {
        match self.levels.get(&level_of(address_page))? {
            Level::Table(table) => Some((Order::Pte, table.get(&address_page)?)),
            Level::Huge(entry) => Some((Order::Pmd, entry)),
        }
    }

    pub(crate) fn walk_mut(&mut self, address_page: u64) -> Option<(Order, &mut Entry)> {
        match self.levels.get_mut(&level_of(address_page))? {
            Level::Table(table) => Some((Order::Pte, table.get_mut(&address_page)?)),
            Level::Huge(entry) => Some((Order::Pmd, entry)),
        }
    }

    /// Whether a translation of `order` needs memory for a page table.
    pub(crate) fn needs_table(&self, address_page: u64) -> bool {
        !self.levels.contains_key(&level_of(address_page))
    }

    /// Installs a translation, or adds rights to the one that is there (SEMANTICS 4.4).
    pub(crate) fn install(
        &mut self,
        address_page: u64,
        order: Order,
        slot: Slot,
        want: Want,
    ) -> Result<(), Taken> {
        let fresh = |slot| match want {
            Want::Read => Entry { slot, writable: false, dirty: false, accessed: true },
            Want::Store { writable } => Entry { slot, writable, dirty: true, accessed: true },
        };
        let level = level_of(address_page);
        let existing = match (order, self.levels.get_mut(&level)) {
            (Order::Pmd, None) => {
                self.levels.insert(level, Level::Huge(fresh(slot)));
                return Ok(());
            }
            (Order::Pte, None) => {
                let table = BTreeMap::from([(address_page, fresh(slot))]);
                self.levels.insert(level, Level::Table(table));
                return Ok(());
            }
            (Order::Pmd, Some(Level::Huge(entry))) => entry,
            (Order::Pte, Some(Level::Table(table))) => match table.get_mut(&address_page) {
                Some(entry) => entry,
                None => {
                    table.insert(address_page, fresh(slot));
                    return Ok(());
                }
            },
            (Order::Pmd, Some(Level::Table(_))) | (Order::Pte, Some(Level::Huge(_))) => {
                return Err(Taken);
            }
        };
        // Never another page over a valid translation (pitfalls 26, 27): the access faults again.
        if let (Want::Store { writable }, Slot::Storage(frame)) = (want, &slot)
            && existing.slot.is_storage_at(*frame)
        {
            existing.accessed = true;
            existing.dirty = true;
            existing.writable |= writable;
        }
        Ok(())
    }

    /// Puts a private copy over whatever is there; one that is there already stays.
    pub(crate) fn install_private(
        &mut self,
        address_page: u64,
        page: Arc<PrivatePage>,
        writable: bool,
    ) -> Result<(), Taken> {
        let level = self
            .levels
            .entry(level_of(address_page))
            .or_insert_with(|| Level::Table(BTreeMap::new()));
        let Level::Table(table) = level else { return Err(Taken) };
        if table.get(&address_page).is_none_or(|entry| !entry.slot.is_private()) {
            let slot = Slot::Private(page);
            table.insert(address_page, Entry { slot, writable, dirty: true, accessed: true });
        }
        Ok(())
    }

    /// Takes translations away. A 2 MiB one goes whole, tables stay, empty or not.
    #[doc(alias = "zap_page_range")]
    pub(crate) fn zap(&mut self, pages: &Range<u64>, copies: PrivateCopies) {
        for level in levels_of(pages) {
            match self.levels.get_mut(&level) {
                Some(Level::Table(table)) => table.retain(|page, entry| {
                    let kept = copies == PrivateCopies::Keep && entry.slot.is_private();
                    kept || !pages.contains(page)
                }),
                Some(Level::Huge(_)) => {
                    self.levels.remove(&level);
                }
                None => {}
            }
        }
    }

    /// Frees the tables of levels that `in_use` does not name.
    pub(crate) fn free_tables(&mut self, pages: &Range<u64>, in_use: impl Fn(Range<u64>) -> bool) {
        for level in levels_of(pages) {
            if !in_use(level << PMD_SHIFT..(level + 1) << PMD_SHIFT) {
                self.levels.remove(&level);
            }
        }
    }

    /// The table of a level goes if there is nothing in it.
    pub(crate) fn free_empty_table(&mut self, address_page: u64) {
        let level = level_of(address_page);
        if matches!(self.levels.get(&level), Some(Level::Table(table)) if table.is_empty()) {
            self.levels.remove(&level);
        }
    }

    /// A 2 MiB translation becomes nothing.
    pub(crate) fn split(&mut self, address_page: u64) -> bool {
        let level = level_of(address_page);
        let is_huge = matches!(self.levels.get(&level), Some(Level::Huge(_)));
        if is_huge {
            self.levels.remove(&level);
        }
        is_huge
    }

    /// Takes write right and dirty bit from every translation in `pages` to storage: to the page that `frame_of` says.
    pub(crate) fn write_protect(
        &mut self,
        pages: &Range<u64>,
        frame_of: impl Fn(u64) -> Option<Frame>,
    ) {
        let clean = |first: u64, entry: &mut Entry| {
            if frame_of(first).is_some_and(|frame| entry.slot.is_storage_at(frame)) {
                entry.writable = false;
                entry.dirty = false;
            }
        };
        for level in levels_of(pages) {
            match self.levels.get_mut(&level) {
                Some(Level::Table(table)) => {
                    for (page, entry) in table.range_mut(pages.clone()) {
                        clean(*page, entry);
                    }
                }
                Some(Level::Huge(entry)) => clean(level << PMD_SHIFT, entry),
                None => {}
            }
        }
    }

    /// Takes the write right, as mprotect does; dirty bits stay.
    pub(crate) fn forbid_stores(&mut self, pages: &Range<u64>) {
        for level in levels_of(pages) {
            match self.levels.get_mut(&level) {
                Some(Level::Table(table)) => {
                    table.range_mut(pages.clone()).for_each(|(_, entry)| entry.writable = false);
                }
                Some(Level::Huge(entry)) => entry.writable = false,
                None => {}
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.levels.len()
    }

    /// Gives the right to store back where the dirty bit says that stores are known of.
    pub(crate) fn allow_dirty_stores(&mut self, pages: &Range<u64>, up_to: Order) {
        let allow = |entry: &mut Entry| {
            entry.writable |=
                entry.slot.is_private() || (entry.dirty && !matches!(entry.slot, Slot::Zero));
        };
        for level in levels_of(pages) {
            match self.levels.get_mut(&level) {
                Some(Level::Table(table)) => {
                    table.range_mut(pages.clone()).for_each(|(_, entry)| allow(entry));
                }
                Some(Level::Huge(entry)) if up_to == Order::Pmd => allow(entry),
                Some(Level::Huge(_)) | None => {}
            }
        }
    }

    /// Puts small translations where there are none.
    pub(crate) fn put(&mut self, small: impl IntoIterator<Item = (u64, Entry)>) {
        for (page, entry) in small {
            let level =
                self.levels.entry(level_of(page)).or_insert_with(|| Level::Table(BTreeMap::new()));
            if let Level::Table(table) = level {
                table.insert(page, entry);
            }
        }
    }

    /// Moves the translations of `pages` to the pages from `to` on.
    pub(crate) fn move_range(&mut self, pages: &Range<u64>, to: u64) {
        for level in levels_of(pages) {
            let first = level << PMD_SHIFT;
            if let Some(Level::Table(table)) = self.levels.get_mut(&level) {
                let moving: Vec<u64> = table.range(pages.clone()).map(|(page, _)| *page).collect();
                let moved: Vec<_> = moving
                    .into_iter()
                    .filter_map(|page| Some((page - pages.start + to, table.remove(&page)?)))
                    .collect();
                self.put(moved);
                continue;
            }
            let is_whole = first >= pages.start && first + PMD_PAGES <= pages.end;
            let target = (first + to).wrapping_sub(pages.start);
            if let Some(huge) = self.levels.remove(&level)
                && is_whole
                && level_start(target) == target
            {
                self.levels.insert(level_of(target), huge);
            }
        }
    }

    /// All translations, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Order, &Entry)> {
        self.levels.iter().flat_map(|(level, content)| {
            let (table, huge) = match content {
                Level::Table(table) => (Some(table), None),
                Level::Huge(entry) => (None, Some((level << PMD_SHIFT, Order::Pmd, entry))),
            };
            let small = table.into_iter().flatten();
            small.map(|(page, entry)| (*page, Order::Pte, entry)).chain(huge)
        })
    }
}

/// The first page of the 2 MiB around `address_page`.
pub(crate) const fn level_start(address_page: u64) -> u64 {
    address_page & !(PMD_PAGES - 1)
}
