//! The index against a `BTreeMap`: every short sequence of operations on few pages, then long random ones.

extern crate std;

use super::node::{INNER_SPARES, Need, PMD_SLOTS, SLOTS, Slot, slot_start};
use super::tree::OutOfMemory;
use super::{Found, Index, InsertError, Mark};
use crate::entry::{Entry, Kind};
use crate::units::{Frame, Order, PMD_PAGES, PageIndex, PageRange};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

mod exhaustive;
mod limits;
mod random;

/// The start of the last 2 MiB there are.
const LAST_PMD: u64 = u64::MAX - (PMD_PAGES - 1);

const MARKS: [Mark; 2] = [Mark::Dirty, Mark::ToWrite];

/// One step of a test.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An entry of this order for the unit that holds the page.
    Insert(u64, Order),
    /// Reserve, remove, and insert an entry of this order: the second must not fail for want of memory.
    Exchange(u64, Order),
    Replace(u64),
    Remove(u64),
    Set(u64, Mark),
    Clear(u64, Mark),
    Tag(u64, u64),
}

/// What the index must be like: by start, the entry and its marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(BTreeMap<u64, (Entry, [bool; 2])>);

impl Model {
    fn start(&self, index: u64) -> Option<u64> {
        let (start, (entry, _)) = self.0.range(..=index).next_back()?;
        (index - start < entry.order().pages()).then_some(*start)
    }

    /// Whether no page of the unit is covered. By its last page, as no [`PageRange`] reaches the last index of all.
    fn is_free(&self, start: u64, order: Order) -> bool {
        let last = start + (order.pages() - 1);
        self.start(start).is_none() && self.0.range(start..=last).next().is_none()
    }

    /// In order, what has a page in the range.
    fn within(&self, range: PageRange) -> Vec<u64> {
        let meets = |(start, (entry, _)): &(&u64, &(Entry, [bool; 2]))| {
            !range.is_empty()
                && **start < range.end.0
                && range.start.0 - range.start.0.min(**start) < entry.order().pages()
        };
        self.0.iter().filter(meets).map(|(start, _)| *start).collect()
    }

    fn found(&self, start: u64) -> Found {
        Found { start: PageIndex(start), entry: self.0[&start].0 }
    }

    fn has_mark(&self, start: u64, mark: Mark) -> bool {
        self.0[&start].1[mark as usize]
    }
}

/// Index and model side by side.
#[derive(Debug, Default)]
struct Pair {
    index: Index,
    model: Model,
    /// Makes every entry another word.
    serial: u64,
}

impl Pair {
    fn entry(&mut self, order: Order) -> Entry {
        self.serial += 1;
        match self.serial % 4 {
            0 => Entry::new(order, Kind::Empty).locked(),
            1 => Entry::new(order, Kind::Zero),
            _ => Entry::new(order, Kind::Mapped(Frame(self.serial * PMD_PAGES))),
        }
    }

    fn insert(&mut self, index: u64, order: Order) -> Result<(), InsertError> {
        let entry = self.entry(order);
        let start = PageIndex(index).align_down(order);
        let is_free = self.model.is_free(start.0, order);
        let done = self.index.insert(start, entry);
        match done {
            Ok(()) => {
                assert!(is_free, "inserted over an entry at {index:#x}");
                self.model.0.insert(start.0, (entry, [false; 2]));
            }
            Err(InsertError::Occupied) => assert!(!is_free, "nothing was at {index:#x}"),
            Err(InsertError::OutOfMemory) => assert!(is_free, "an allocation for nothing"),
        }
        done
    }

    fn remove(&mut self, index: u64) {
        let start = self.model.start(index);
        let expected = start.map(|start| self.model.found(start));
        assert_eq!(self.index.remove(PageIndex(index)), expected, "removed at {index:#x}");
        if let Some(start) = start {
            self.model.0.remove(&start);
        }
    }

    /// Does one step; an error if it stopped for want of memory.
    fn step(&mut self, step: Step) -> Result<(), OutOfMemory> {
        match step {
            Step::Insert(index, order) => {
                if self.insert(index, order) == Err(InsertError::OutOfMemory) {
                    return Err(OutOfMemory);
                }
            }
            Step::Exchange(index, order) => {
                self.index.reserve(PageIndex(index), order)?;
                let limit = self.index.spares.limit.replace(0);
                self.remove(index);
                assert_ne!(self.insert(index, order), Err(InsertError::OutOfMemory), "reserved");
                self.index.spares.limit = limit;
            }
            Step::Replace(index) => {
                if let Some(start) = self.model.start(index) {
                    let old = self.model.found(start).entry;
                    let new = self.entry(old.order());
                    assert_eq!(self.index.replace(PageIndex(start), new), old);
                    self.model.0.entry(start).and_modify(|item| item.0 = new);
                }
            }
            Step::Remove(index) => self.remove(index),
            Step::Set(index, mark) => {
                if let Some(start) = self.model.start(index) {
                    self.index.set_mark(PageIndex(index), mark);
                    self.model.0.entry(start).and_modify(|item| item.1[mark as usize] = true);
                }
            }
            Step::Clear(index, mark) => {
                self.index.clear_mark(PageIndex(index), mark);
                if let Some(start) = self.model.start(index) {
                    self.model.0.entry(start).and_modify(|item| item.1[mark as usize] = false);
                }
            }
            Step::Tag(start, end) => {
                let range = PageRange::between(PageIndex(start), PageIndex(end));
                let mut dirty = self.model.within(range);
                dirty.retain(|start| self.model.has_mark(*start, Mark::Dirty));
                for start in &dirty {
                    self.model.0.entry(*start).and_modify(|item| item.1[1] = true);
                }
                let count = self.index.tag_range(range, Mark::Dirty, Mark::ToWrite);
                assert_eq!(count, dirty.len() as u64, "tagged in {range}");
            }
        }
        Ok(())
    }
}

/// Everything that must be so of an index that ought to be like `model`, asked for at and around `probes`.
fn check(index: &Index, model: &Model, probes: &[u64]) {
    check_structure(index, model);
    assert_eq!(index.len(), model.0.len() as u64);
    assert_eq!(index.is_empty(), model.0.is_empty());
    let pages: u64 = model.0.values().map(|(entry, _)| entry.order().pages()).sum();
    assert_eq!(index.pages(), pages);
    for &probe in probes {
        let start = model.start(probe);
        assert_eq!(index.get(PageIndex(probe)), start.map(|start| model.found(start)));
        for mark in MARKS {
            let marked = start.is_some_and(|start| model.has_mark(start, mark));
            assert_eq!(index.is_marked(PageIndex(probe), mark), marked, "{mark:?} at {probe:#x}");
        }
        let page = PageRange::new(PageIndex(probe), 1);
        let unit = PageRange::unit(PageIndex(probe), Order::Pmd);
        check_range(index, model, page);
        check_range(index, model, unit);
        check_range(index, model, PageRange::from(PageIndex(probe)));
        check_range(index, model, PageRange::between(PageIndex(0), PageIndex(probe)));
    }
}

fn check_range(index: &Index, model: &Model, range: PageRange) {
    let starts = model.within(range);
    let first = starts.first().map(|start| model.found(*start));
    assert_eq!(index.first_in(range), first, "first in {range}");
    for mark in MARKS {
        let first = starts.iter().find(|start| model.has_mark(**start, mark));
        let first = first.map(|start| model.found(*start));
        assert_eq!(index.first_marked_in(range, mark), first, "first {mark:?} in {range}");
    }
    let mut walk = index.iter_range(range);
    for start in starts {
        assert_eq!(walk.next(), Some(model.found(start)), "walk over {range}");
    }
    assert_eq!(walk.next(), None, "the walk over {range} ends");
}

/// The tree by itself: bitmaps tell the truth, no empty node, no level too many, each entry where it belongs (I1), and every node
/// accounted for.
fn check_structure(index: &Index, model: &Model) {
    let mut items = BTreeMap::new();
    let mut nodes = 0;
    if index.height > 0 {
        walk(&index.root, index.height, 0, &mut items, &mut nodes);
    } else {
        assert!(matches!(index.root, Slot::Empty), "no levels, no root");
    }
    assert_eq!(&items, &model.0, "items in the tree");
    assert_eq!(nodes, index.spares.in_use(), "nodes in the tree");
    if let Slot::Inner(root) = &index.root {
        let is_item = matches!(root[0].slots[0], Slot::Entry(_));
        assert!(is_item || root[0].bits.occupied != 1, "the root has more than its first slot");
    }
}

type Items = BTreeMap<u64, (Entry, [bool; 2])>;

fn walk(slot: &Slot, height: u32, base: u64, items: &mut Items, nodes: &mut usize) {
    *nodes += 1;
    let level = height - 1;
    let bits = slot.bits();
    assert_ne!(bits.occupied, 0, "an empty node at {base:#x}");
    let marks = |here: usize| bits.marks.map(|mark| mark & (1 << here) != 0);
    for here in 0..SLOTS {
        let start = slot_start(base, level, here);
        let is_used = bits.occupied & (1 << here) != 0;
        match slot {
            Slot::Leaf(leaf) => {
                assert_eq!(level, 0, "leaves are at level 0");
                assert_eq!(leaf[0].slots[here].is_some(), is_used, "occupied at {start:#x}");
                assert!(is_used || marks(here) == [false; 2], "a mark on nothing at {start:#x}");
                if let Some(entry) = leaf[0].slots[here] {
                    assert_eq!(entry.order(), Order::Pte);
                    items.insert(start, (entry, marks(here)));
                }
            }
            Slot::Inner(inner) => match &inner[0].slots[here] {
                Slot::Empty => assert!(!is_used && marks(here) == [false; 2]),
                Slot::Entry(entry) => {
                    assert_eq!((level, entry.order(), is_used), (1, Order::Pmd, true));
                    let first = start & !(PMD_PAGES - 1);
                    let item = (*entry, marks(here));
                    assert_eq!(*items.entry(first).or_insert(item), item, "one of eight slots");
                    let whole = here - here % PMD_SLOTS..here - here % PMD_SLOTS + PMD_SLOTS;
                    assert!(
                        inner[0].slots[whole].iter().all(|slot| matches!(slot, Slot::Entry(_)))
                    );
                }
                below @ (Slot::Leaf(_) | Slot::Inner(_)) => {
                    assert!(is_used, "a node below a free slot at {start:#x}");
                    assert_eq!(marks(here), below.bits().marks.map(|mark| mark != 0), "{start:#x}");
                    walk(below, level, start, items, nodes);
                }
            },
            Slot::Empty | Slot::Entry(_) => panic!("no node at {base:#x}"),
        }
    }
}
