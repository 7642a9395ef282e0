//! The tree: look-up, search, insertion, removal.

use super::marks::Mark;
use super::node::{
    Need, PMD_SLOTS, Slot, Spares, Which, height_of, last_index, pmd_bits, slot_of, slot_start,
};
use crate::entry::Entry;
use crate::seams::Guarded;
use crate::units::{Order, PageIndex, PageRange};
use core::hash::{Hash, Hasher};
use core::mem;

/// There was no memory for a node of the index; the index is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// Why an entry was not inserted; the index is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "EEXIST")]
pub(crate) enum InsertError {
    /// An entry covers a page of the range already.
    Occupied,
    /// No memory for a node.
    OutOfMemory,
}

impl From<OutOfMemory> for InsertError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// An entry, and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Found {
    /// The entry's own first page, whichever page it was found by (pitfall 49).
    pub(crate) start: PageIndex,
    /// The entry.
    pub(crate) entry: Entry,
}

impl Found {
    /// The same without the lock bit.
    pub(crate) fn unlocked(self) -> Self {
        Self { entry: self.entry.unlocked(), ..self }
    }

    /// The last page that the entry covers. Unlike an end, it is always a number that there is.
    pub(super) const fn last(self) -> u64 {
        self.start.0 + (self.entry.order().pages() - 1)
    }
}

/// The mapping entries of one file, by page; see the [module](super).
///
/// Any `u64` is an index; the very last one lies in no [`PageRange`], so that an entry there is found by its index alone.
#[derive(Debug, Default)]
#[doc(alias = "i_pages")]
#[doc(alias = "xarray")]
pub(crate) struct Index {
    pub(super) root: Slot,
    /// Levels; 0 when empty. The root's level is one less.
    pub(super) height: u32,
    entries: u64,
    pages: u64,
    pub(super) spares: Spares,
}

impl Guarded for Index {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        for found in self.iter_range(PageRange::from(PageIndex(0))) {
            let marks = [Mark::Dirty, Mark::ToWrite].map(|mark| self.is_marked(found.start, mark));
            (found.start, found.entry, marks).hash(&mut state);
        }
        self.spares.describe(state);
        true
    }
}

impl Index {
    /// An index without entries; allocates nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many entries, of whatever order.
    #[doc(alias = "nrexceptional")]
    pub(crate) const fn len(&self) -> u64 {
        self.entries
    }

    /// How many pages the entries cover together.
    #[doc(alias = "nrpages")]
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody reports it yet"))]
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether there is no entry.
    #[doc(alias = "mapping_empty")]
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Lets at most `limit` nodes exist from now on, to inject failures: what would need one more gets [`OutOfMemory`].
    /// Spares are dropped, and with them a reservation; nodes in use stay, even above the limit.
    pub(crate) fn set_node_limit(&mut self, limit: Option<usize>) {
        self.spares.set_limit(limit);
    }

    /// The entry that covers `index`.
    #[doc(alias = "xas_load")]
    pub(crate) fn get(&self, index: PageIndex) -> Option<Found> {
        if index.0 > last_index(self.height) {
            return None;
        }
        let mut slot = &self.root;
        let mut level = self.height;
        loop {
            match slot {
                Slot::Empty => return None,
                Slot::Entry(entry) => {
                    return Some(Found { start: index.align_down(Order::Pmd), entry: *entry });
                }
                Slot::Leaf(leaf) => {
                    let entry = leaf[0].slots[slot_of(index.0, 0)]?;
                    return Some(Found { start: index, entry });
                }
                Slot::Inner(inner) => {
                    level -= 1;
                    slot = &inner[0].slots[slot_of(index.0, level)];
                }
            }
        }
    }

    /// The first entry that has a page in `range`; it may begin before the range does.
    #[doc(alias = "xas_find")]
    #[doc(alias = "xas_find_conflict")]
    pub(crate) fn first_in(&self, range: PageRange) -> Option<Found> {
        self.first(range, Which::Any)
    }

    /// The first entry with `mark` that has a page in `range`; it may begin before the range does.
    #[doc(alias = "xas_find_marked")]
    pub(crate) fn first_marked_in(&self, range: PageRange, mark: Mark) -> Option<Found> {
        self.first(range, Which::Marked(mark))
    }

    fn first(&self, range: PageRange, which: Which) -> Option<Found> {
        if range.is_empty() { None } else { self.search(range.start.0, range.end.0 - 1, which) }
    }

    /// The first entry of the sort that has a page in `from..=last`.
    ///
    /// Goes down towards `at`, which moves to the right where there is nothing to the left, and starts anew from the root
    /// behind a node that has nothing more to the right: at most once a level, since no bit promises what is not there.
    pub(super) fn search(&self, from: u64, last: u64, which: Which) -> Option<Found> {
        let mut at = from;
        'root: while at <= last && at <= last_index(self.height) {
            let mut slot = &self.root;
            let mut level = self.height;
            loop {
                let bits = match slot {
                    Slot::Empty => return None,
                    Slot::Entry(entry) => {
                        let start = PageIndex(at).align_down(Order::Pmd);
                        return (start.0 <= last).then_some(Found { start, entry: *entry });
                    }
                    Slot::Leaf(leaf) => &leaf[0].bits,
                    Slot::Inner(inner) => &inner[0].bits,
                };
                level -= 1;
                let here = slot_of(at, level);
                let Some(next) = bits.next(which, here) else {
                    at = (at | last_index(level + 1)).checked_add(1)?;
                    continue 'root;
                };
                if next != here {
                    at = slot_start(at, level, next);
                }
                slot = match slot {
                    Slot::Inner(inner) => &inner[0].slots[next],
                    Slot::Leaf(leaf) => {
                        let found = Found { start: PageIndex(at), entry: leaf[0].slots[next]? };
                        return (at <= last).then_some(found);
                    }
                    Slot::Empty | Slot::Entry(_) => return None,
                };
            }
        }
        None
    }

    /// Allocates the nodes that an insert of an entry of `order` at `index` needs, also if what covers `index` now is removed
    /// first. Until the next insert, that insert cannot fail for want of memory; removals do not change that.
    ///
    /// # Errors
    /// There was no memory; the entries are as before, and so is every earlier reservation.
    #[doc(alias = "radix_tree_preload")]
    pub(crate) fn reserve(&mut self, index: PageIndex, order: Order) -> Result<(), OutOfMemory> {
        self.spares.fill(self.needed(index, order))
    }

    pub(super) fn needed(&self, index: PageIndex, order: Order) -> Need {
        let index = index.align_down(order);
        let leaves = usize::from(order == Order::Pte);
        let height = height_of(index.0 + (order.pages() - 1));
        if self.height == 0 {
            return Need { leaves, inners: height as usize - 1 };
        }
        if height > self.height {
            // The new root and what lies between it and the old one; and the path to `index`, that leaves it at the new root.
            return Need { leaves, inners: (height - self.height + height - 2) as usize };
        }
        let mut slot = &self.root;
        let mut level = self.height;
        loop {
            match slot {
                Slot::Empty | Slot::Entry(_) => return Need { leaves, inners: level as usize - 1 },
                Slot::Leaf(_) => return Need { leaves: 0, inners: 0 },
                Slot::Inner(inner) => {
                    level -= 1;
                    slot = &inner[0].slots[slot_of(index.0, level)];
                }
            }
        }
    }

    /// Inserts an entry, without marks.
    ///
    /// # Errors
    /// A page that it would cover is covered already, or there was no memory (never after a [`reserve`](Self::reserve)). The
    /// index is as before.
    ///
    /// # Panics
    /// If a 2 MiB entry is to start where no 2 MiB range starts.
    #[doc(alias = "dax_radix_tree_insert")]
    pub(crate) fn insert(&mut self, index: PageIndex, entry: Entry) -> Result<(), InsertError> {
        let order = entry.order();
        assert!(index == index.align_down(order), "a 2 MiB entry starts on a multiple of 512");
        let last = index.0 + (order.pages() - 1);
        if self.search(index.0, last, Which::Any).is_some() {
            return Err(InsertError::Occupied);
        }
        self.reserve(index, order)?;
        self.grow(height_of(last));
        self.place(index.0, entry);
        self.entries += 1;
        self.pages += order.pages();
        Ok(())
    }

    /// Adds levels above the root until there are `height`.
    fn grow(&mut self, height: u32) {
        if self.height == 0 {
            self.height = height;
        }
        while self.height < height {
            let mut root = self.spares.take(self.height);
            if let Slot::Inner(inner) = &mut root {
                inner[0].bits.follow(0, self.root.bits());
                inner[0].slots[0] = mem::take(&mut self.root);
            }
            self.root = root;
            self.height += 1;
        }
    }

    /// Writes the entry into its slot or slots, with what is missing of the path to them. The range is free, or holds an entry of
    /// the same start and order.
    fn place(&mut self, index: u64, entry: Entry) {
        let mut slot = &mut self.root;
        let mut level = self.height;
        loop {
            level -= 1;
            let here = slot_of(index, level);
            if matches!(slot, Slot::Empty) {
                *slot = self.spares.take(level);
            }
            match slot {
                Slot::Inner(inner) if level == 1 && entry.order() == Order::Pmd => {
                    inner[0].bits.occupied |= pmd_bits(here);
                    for slot in &mut inner[0].slots[here..here + PMD_SLOTS] {
                        *slot = Slot::Entry(entry);
                    }
                    return;
                }
                Slot::Inner(inner) => {
                    inner[0].bits.occupied |= 1 << here;
                    slot = &mut inner[0].slots[here];
                }
                Slot::Leaf(leaf) => {
                    leaf[0].bits.occupied |= 1 << here;
                    leaf[0].slots[here] = Some(entry);
                    return;
                }
                Slot::Empty | Slot::Entry(_) => unreachable!("a 2 MiB entry covers the page"),
            }
        }
    }

    /// Puts `entry` in the place of the one that starts at `start`, and returns that one. The marks stay.
    ///
    /// # Panics
    /// If no entry of that order starts there.
    #[doc(alias = "__xa_store")]
    pub(crate) fn replace(&mut self, start: PageIndex, entry: Entry) -> Entry {
        let is_within = self.height > 0 && start.0 <= last_index(self.height);
        assert!(is_within, "there is an entry to replace");
        let mut slot = &mut self.root;
        let mut level = self.height;
        loop {
            level -= 1;
            let here = slot_of(start.0, level);
            slot = match slot {
                Slot::Leaf(leaf) => {
                    assert!(entry.order() == Order::Pte, "replacing keeps the order");
                    let old = leaf[0].slots[here].replace(entry);
                    return old.expect("there is an entry to replace");
                }
                Slot::Inner(inner) => {
                    if let Slot::Entry(old) = inner[0].slots[here] {
                        assert!(start == start.align_down(Order::Pmd), "by its own start");
                        assert!(entry.order() == Order::Pmd, "replacing keeps the order");
                        inner[0].slots[here..here + PMD_SLOTS].fill_with(|| Slot::Entry(entry));
                        return old;
                    }
                    &mut inner[0].slots[here]
                }
                Slot::Empty | Slot::Entry(_) => panic!("there is an entry to replace"),
            };
        }
    }

    /// Removes the entry that covers `index`, all of it, with its marks. Nodes that it leaves empty go, but until the next
    /// insert succeeds an entry of the same order can be put back there without memory.
    #[doc(alias = "radix_tree_delete")]
    pub(crate) fn remove(&mut self, index: PageIndex) -> Option<Found> {
        if index.0 > last_index(self.height) {
            return None;
        }
        let found = take(&mut self.root, self.height, index, &mut self.spares)?;
        self.entries -= 1;
        self.pages -= found.entry.order().pages();
        self.shrink();
        Some(found)
    }

    /// Puts `entry` in the place of the small ones in the 2 MiB that starts at `start`, with every mark that any of them carried; each of
    /// those goes to `gone`. What stands there now.
    ///
    /// # Panics
    /// If a 2 MiB entry is there, or no memory was [reserved](Self::reserve).
    #[doc(alias = "collapse_file")]
    pub(crate) fn exchange_unit(
        &mut self,
        start: PageIndex,
        entry: Entry,
        mut gone: impl FnMut(Found),
    ) -> Found {
        let unit = PageRange::unit(start, Order::Pmd);
        let marks = Mark::ALL.map(|mark| self.first_marked_in(unit, mark).is_some());
        while let Some(found) = self.first_in(unit) {
            assert!(found.entry.order() == Order::Pte, "only small entries are exchanged for one");
            self.remove(found.start);
            gone(found);
        }
        assert!(self.insert(start, entry).is_ok(), "the unit is free, and its nodes were reserved");
        for (mark, was_set) in Mark::ALL.into_iter().zip(marks) {
            if was_set {
                self.set_mark(start, mark);
            }
        }
        Found { start, entry }
    }

    /// Takes levels away that only lead to their first slot, or to nothing.
    fn shrink(&mut self) {
        while let Slot::Inner(inner) = &mut self.root {
            if inner[0].bits.occupied != 1 {
                break;
            }
            let below = mem::take(&mut inner[0].slots[0]);
            inner[0].bits.clear(1);
            self.spares.give_back(mem::replace(&mut self.root, below));
            self.height -= 1;
        }
        if self.root.bits().occupied == 0 {
            self.spares.give_back(mem::take(&mut self.root));
            self.height = 0;
        }
    }
}

/// Takes the entry that covers `index` out of the tree below `slot`, whose node has the level `height - 1`. The node may end
/// empty: then it is for the caller to free.
fn take(slot: &mut Slot, height: u32, index: PageIndex, spares: &mut Spares) -> Option<Found> {
    match slot {
        Slot::Empty | Slot::Entry(_) => None,
        Slot::Leaf(leaf) => {
            let here = slot_of(index.0, 0);
            let entry = leaf[0].slots[here].take()?;
            leaf[0].bits.clear(1 << here);
            Some(Found { start: index, entry })
        }
        Slot::Inner(inner) => {
            let inner = &mut inner[0];
            let here = slot_of(index.0, height - 1);
            if let Slot::Entry(entry) = inner.slots[here] {
                let first = here & !(PMD_SLOTS - 1);
                inner.slots[first..first + PMD_SLOTS].fill_with(Slot::default);
                inner.bits.clear(pmd_bits(here));
                return Some(Found { start: index.align_down(Order::Pmd), entry });
            }
            let below = &mut inner.slots[here];
            let found = take(below, height - 1, index, spares)?;
            let bits = below.bits();
            inner.bits.follow(here, bits);
            if bits.occupied == 0 {
                spares.give_back(mem::take(below));
            }
            Some(found)
        }
    }
}
