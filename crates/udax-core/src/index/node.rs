//! Nodes, their bitmaps, and the spares they come from.

use super::marks::Mark;
use super::tree::OutOfMemory;
use crate::entry::Entry;
use crate::units::PMD_PAGES;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::mem;

/// Index bits that a level decodes.
const LEVEL_BITS: u32 = 6;
/// Slots of a node.
pub(super) const SLOTS: usize = 1 << LEVEL_BITS;
/// Slots of a level-1 node that a 2 MiB entry fills.
pub(super) const PMD_SLOTS: usize = 8;
/// Levels that a 64-bit index needs.
const HEIGHT_LIMIT: u32 = u64::BITS.div_ceil(LEVEL_BITS);
/// Inner nodes that one insert can need at most: a leaf at the root is buried under `HEIGHT_LIMIT - 1` new levels, and next to it
/// goes a path that shares only the root.
pub(super) const INNER_SPARES: usize = 2 * HEIGHT_LIMIT as usize - 3;

const _: () = assert!(SLOTS == 64, "a bitmap is a word, and `slot_of` cuts with 0x3f");
const _: () = assert!((PMD_SLOTS * SLOTS) as u64 == PMD_PAGES);
const _: () = assert!(size_of::<Leaf>() == 24 + 8 * SLOTS, "a leaf slot is one word");

/// The highest index below a node whose level is `height - 1`, if the node is the first of its level.
pub(super) const fn last_index(height: u32) -> u64 {
    if height >= HEIGHT_LIMIT { u64::MAX } else { (1 << (height * LEVEL_BITS)) - 1 }
}

/// The least height of a tree that reaches `index`.
pub(super) const fn height_of(index: u64) -> u32 {
    if index == 0 { 1 } else { (u64::BITS - index.leading_zeros()).div_ceil(LEVEL_BITS) }
}

/// The slot for `index` in a node of `level`.
pub(super) const fn slot_of(index: u64, level: u32) -> usize {
    ((index >> (level * LEVEL_BITS)) & 0x3f) as usize
}

/// The first index below `slot` of the node of `level` that `index` leads to.
pub(super) const fn slot_start(index: u64, level: u32, slot: usize) -> u64 {
    (index & !last_index(level + 1)) | ((slot as u64) << (level * LEVEL_BITS))
}

/// The bits of all eight slots of the 2 MiB entry that `slot` belongs to.
pub(super) const fn pmd_bits(slot: usize) -> u64 {
    0xff << (slot & !(PMD_SLOTS - 1))
}

/// What a search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Any entry.
    Any,
    /// Entries that carry the mark.
    Marked(Mark),
}

/// The bitmaps of a node, one bit a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    /// Slots in use.
    pub(super) occupied: u64,
    /// For each mark, the slots that carry it or have something below them that does.
    pub(super) marks: [u64; Mark::COUNT],
}

impl Bits {
    /// The first slot from `slot` on that has, or leads to, what is looked for.
    pub(super) const fn next(&self, which: Which, slot: usize) -> Option<usize> {
        let bits = match which {
            Which::Any => self.occupied,
            Which::Marked(mark) => self.marks[mark as usize],
        };
        let left = bits & (u64::MAX << slot);
        if left == 0 { None } else { Some(left.trailing_zeros() as usize) }
    }

    /// Forgets the slots in `mask`.
    pub(super) fn clear(&mut self, mask: u64) {
        self.occupied &= !mask;
        for bits in &mut self.marks {
            *bits &= !mask;
        }
    }

    /// Makes the bits of `slot` tell of the node below it.
    pub(super) fn follow(&mut self, slot: usize, below: Self) {
        let bit = 1 << slot;
        self.clear(bit);
        if below.occupied != 0 {
            self.occupied |= bit;
        }
        for (mine, theirs) in self.marks.iter_mut().zip(below.marks) {
            if theirs != 0 {
                *mine |= bit;
            }
        }
    }
}

/// A node of level 0: 64 pages.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) bits: Bits,
    pub(super) slots: [Option<Entry>; SLOTS],
}

/// A node of a higher level.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) bits: Bits,
    pub(super) slots: [Slot; SLOTS],
}

/// A `T` on the heap. An array of one, because that is what can be had of safe Rust without aborting for want of memory.
pub(super) type Boxed<T> = Box<[T; 1]>;

/// What a slot of an inner node, or the root, holds.
#[derive(Debug, Default)]
pub(super) enum Slot {
    /// Nothing.
    #[default]
    Empty,
    /// A 2 MiB entry, the same in each of its eight slots; at level 1 only.
    Entry(Entry),
    /// 64 pages.
    Leaf(Boxed<Leaf>),
    /// More levels.
    Inner(Boxed<Inner>),
}

impl Slot {
    /// The bitmaps of the node here; all clear where there is none.
    pub(super) fn bits(&self) -> Bits {
        match self {
            Self::Empty | Self::Entry(_) => Bits::default(),
            Self::Leaf(leaf) => leaf[0].bits,
            Self::Inner(inner) => inner[0].bits,
        }
    }
}

/// How many nodes of each sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) leaves: usize,
    pub(super) inners: usize,
}

/// Where nodes come from and go to.
///
/// What a removal frees stays here, up to what one insert can need. So a removal between a reservation and its insert cannot
/// spoil the reservation, even if it takes nodes away from the insert's own path.
#[derive(Debug, Default)]
pub(super) struct Spares {
    leaf: Option<Boxed<Leaf>>,
    /// The first spare inner node; the next hangs in its first slot.
    inners: Slot,
    inner_count: usize,
    /// Nodes in existence, in the tree or spare.
    allocated: usize,
    /// How many may exist.
    pub(super) limit: Option<usize>,
}

impl Spares {
    /// Lets at most `limit` nodes exist, and drops the spares.
    pub(super) fn set_limit(&mut self, limit: Option<usize>) {
        self.allocated -= self.count();
        self.leaf = None;
        self.inners = Slot::Empty;
        self.inner_count = 0;
        self.limit = limit;
    }

    /// Tells `state` what makes a difference to whether there is memory.
    pub(super) fn describe(&self, mut state: &mut dyn Hasher) {
        if let Some(limit) = self.limit {
            (limit, self.allocated, self.inner_count, self.leaf.is_some()).hash(&mut state);
        }
    }

    fn count(&self) -> usize {
        self.inner_count + usize::from(self.leaf.is_some())
    }

    /// Nodes in the tree.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.allocated - self.count()
    }

    /// Allocates until there are spares for `need`. What was allocated before a failure stays, as spares.
    pub(super) fn fill(&mut self, need: Need) -> Result<(), OutOfMemory> {
        let missing = need.leaves.saturating_sub(usize::from(self.leaf.is_some()))
            + need.inners.saturating_sub(self.inner_count);
        if missing > 0 && self.limit.is_some_and(|limit| self.allocated + missing > limit) {
            return Err(OutOfMemory);
        }
        if need.leaves > 0 && self.leaf.is_none() {
            self.leaf = Some(try_boxed(Leaf { bits: Bits::default(), slots: [None; SLOTS] })?);
            self.allocated += 1;
        }
        while self.inner_count < need.inners {
            let slots = [const { Slot::Empty }; SLOTS];
            let inner = try_boxed(Inner { bits: Bits::default(), slots })?;
            self.allocated += 1;
            self.keep_inner(inner);
        }
        Ok(())
    }

    fn keep_inner(&mut self, mut inner: Boxed<Inner>) {
        inner[0].slots[0] = mem::take(&mut self.inners);
        self.inners = Slot::Inner(inner);
        self.inner_count += 1;
    }

    /// A spare for `level`.
    ///
    /// # Panics
    /// If there is none: [`fill`](Self::fill) has not been asked for enough.
    pub(super) fn take(&mut self, level: u32) -> Slot {
        if level == 0 {
            return Slot::Leaf(self.leaf.take().expect("a leaf was reserved"));
        }
        let Slot::Inner(mut inner) = mem::take(&mut self.inners) else {
            panic!("an inner node was reserved");
        };
        self.inners = mem::take(&mut inner[0].slots[0]);
        self.inner_count -= 1;
        Slot::Inner(inner)
    }

    /// Takes an empty node back.
    pub(super) fn give_back(&mut self, node: Slot) {
        match node {
            Slot::Leaf(leaf) if self.leaf.is_none() => self.leaf = Some(leaf),
            Slot::Inner(inner) if self.inner_count < INNER_SPARES => self.keep_inner(inner),
            Slot::Leaf(_) | Slot::Inner(_) => self.allocated -= 1,
            Slot::Empty | Slot::Entry(_) => {}
        }
    }
}

fn try_boxed<T>(value: T) -> Result<Boxed<T>, OutOfMemory> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| OutOfMemory)?;
    one.push(value);
    one.into_boxed_slice().try_into().map_err(|_| OutOfMemory)
}
