//! Parts of the engine by themselves, for who measures them. Nothing is promised of them.

use crate::entry::Entry;
use crate::index::{Index, Mark};
use crate::mapping::Mapping;
use crate::seams::World;
use crate::units::{Order, PageIndex, PageRange};

/// The index of mapping entries, without the lock around it.
#[derive(Debug, Default)]
pub struct BareIndex(Index);

impl BareIndex {
    /// Puts `entry` where nothing is; whether that was so.
    pub fn insert(&mut self, start: PageIndex, entry: Entry) -> bool {
        self.0.insert(start, entry).is_ok()
    }

    /// The entry that covers `index`.
    #[inline]
    #[must_use]
    pub fn get(&self, index: PageIndex) -> Option<Entry> {
        self.0.get(index).map(|found| found.entry)
    }

    /// Sets the Dirty mark of the entry that covers `index`, which there must be, and clears it.
    ///
    /// # Panics
    /// If there is none.
    pub fn mark_and_clear(&mut self, index: PageIndex) {
        self.0.set_mark(index, Mark::Dirty);
        self.0.clear_mark(index, Mark::Dirty);
    }

    /// Removes the entry that covers `index`; whether there was one.
    pub fn remove(&mut self, index: PageIndex) -> bool {
        self.0.remove(index).is_some()
    }

    /// How many entries have a page in `range`: it goes through them one by one.
    #[must_use]
    pub fn walk(&self, range: PageRange) -> u64 {
        self.0.iter_range(range).map(|found| u64::from(found.entry.is_mapped())).sum()
    }
}

/// Takes the lock of the entry at page `index` and gives it back. An entry without storage is made if there is none.
pub fn lock_and_unlock<W: World>(mapping: &Mapping<W>, index: PageIndex) {
    drop(mapping.grab(index, Order::Pte, None));
}
