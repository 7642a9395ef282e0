//! Marks: what a later sync has to look at.

use super::node::{Slot, Which, last_index, pmd_bits, slot_of};
use super::tree::Index;
use crate::units::{PageIndex, PageRange};

/// A bit of an entry that a range can be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Stored to; a later sync must flush it.
    #[doc(alias = "PAGECACHE_TAG_DIRTY")]
    Dirty,
    /// Chosen by a sync that is under way.
    #[doc(alias = "PAGECACHE_TAG_TOWRITE")]
    ToWrite,
}

impl Mark {
    /// How many marks there are.
    pub(super) const COUNT: usize = 2;
    /// Every mark.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Dirty, Self::ToWrite];
}

impl Index {
    /// Sets `mark` on the entry that covers `index`.
    ///
    /// # Panics
    /// If there is none: a mark that went nowhere would be a store that no sync sees.
    #[doc(alias = "xas_set_mark")]
    pub(crate) fn set_mark(&mut self, index: PageIndex, mark: Mark) {
        assert!(self.get(index).is_some(), "only an entry can be marked");
        let mut slot = &mut self.root;
        let mut level = self.height;
        loop {
            level -= 1;
            let here = slot_of(index.0, level);
            match slot {
                Slot::Inner(inner) => {
                    let inner = &mut inner[0];
                    let is_entry = matches!(inner.slots[here], Slot::Entry(_));
                    inner.bits.marks[mark as usize] |=
                        if is_entry { pmd_bits(here) } else { 1 << here };
                    slot = &mut inner.slots[here];
                }
                Slot::Leaf(leaf) => {
                    leaf[0].bits.marks[mark as usize] |= 1 << here;
                    return;
                }
                Slot::Empty | Slot::Entry(_) => return,
            }
        }
    }

    /// Clears `mark` on the entry that covers `index`, if there is one.
    #[doc(alias = "xas_clear_mark")]
    pub(crate) fn clear_mark(&mut self, index: PageIndex, mark: Mark) {
        if index.0 <= last_index(self.height) {
            clear(&mut self.root, self.height, index.0, mark);
        }
    }

    /// Whether an entry covers `index` and carries `mark`.
    #[doc(alias = "xas_get_mark")]
    pub(crate) fn is_marked(&self, index: PageIndex, mark: Mark) -> bool {
        self.search(index.0, index.0, Which::Marked(mark)).is_some()
    }

    /// Sets `to` on every entry that carries `from` and has a page in `range`; how many these are.
    #[doc(alias = "tag_pages_for_writeback")]
    pub(crate) fn tag_range(&mut self, range: PageRange, from: Mark, to: Mark) -> u64 {
        let reach = last_index(self.height);
        if self.is_empty() || range.is_empty() || range.start.0 > reach {
            return 0;
        }
        let last = (range.end.0 - 1).min(reach);
        tag(&mut self.root, self.height, range.start.0, last, [from, to])
    }
}

fn clear(slot: &mut Slot, height: u32, index: u64, mark: Mark) {
    match slot {
        Slot::Empty | Slot::Entry(_) => {}
        Slot::Leaf(leaf) => leaf[0].bits.marks[mark as usize] &= !(1 << slot_of(index, 0)),
        Slot::Inner(inner) => {
            let inner = &mut inner[0];
            let here = slot_of(index, height - 1);
            if matches!(inner.slots[here], Slot::Entry(_)) {
                inner.bits.marks[mark as usize] &= !pmd_bits(here);
            } else {
                clear(&mut inner.slots[here], height - 1, index, mark);
                inner.bits.follow(here, inner.slots[here].bits());
            }
        }
    }
}

/// Tags below `slot`, whose node has the level `height - 1`. Of `first` and `last` only the bits that the node and those below
/// it decode count, so the nodes in between get 0 and the highest number.
fn tag(slot: &mut Slot, height: u32, first: u64, last: u64, [from, to]: [Mark; 2]) -> u64 {
    let level = height - 1;
    let (low, high) = (slot_of(first, level), slot_of(last, level));
    let span = (u64::MAX << low) & (u64::MAX >> (63 - high));
    match slot {
        Slot::Empty | Slot::Entry(_) => 0,
        Slot::Leaf(leaf) => {
            let marks = &mut leaf[0].bits.marks;
            let chosen = marks[from as usize] & span;
            marks[to as usize] |= chosen;
            u64::from(chosen.count_ones())
        }
        Slot::Inner(inner) => {
            let inner = &mut inner[0];
            let mut left = inner.bits.marks[from as usize] & span;
            let mut count = 0;
            while left != 0 {
                let here = left.trailing_zeros() as usize;
                let (tagged, bits) = if matches!(inner.slots[here], Slot::Entry(_)) {
                    (1, pmd_bits(here))
                } else {
                    let first = if here == low { first } else { 0 };
                    let last = if here == high { last } else { u64::MAX };
                    (tag(&mut inner.slots[here], level, first, last, [from, to]), 1 << here)
                };
                if tagged > 0 {
                    inner.bits.marks[to as usize] |= bits;
                }
                left &= !bits;
                count += tagged;
            }
            count
        }
    }
}
