//! The entry lock: waiting for it, taking it, and never forgetting to give it back.
//!
//! Two guards. [`Awaited`] stands for "I looked, and owe": it must lock the entry, remove it, or pass the wake on. [`LockedEntry`] is
//! the lock. The rules W1 to W8 are those of docs/concurrency.md.

use crate::entry::{Entry, Kind};
use crate::index::{Found, Index, Mark};
use crate::interrupt::{Interrupt, Slept};
use crate::mapping::{Mapping, Tree};
use crate::seams::{Media, Parker, ShortLock, World};
use crate::units::{FrameRange, Order, PageIndex, PageRange};
use crate::waits::{Left, Waiting, Wake};
use crate::{Frame, Owner};
use alloc::vec::Vec;
use core::hash::Hash;

/// What a look-up came to.
pub(crate) enum Lookup<'m, W: World> {
    /// Nothing covers the index. Nobody can be waiting there, as deleters wake all.
    Nothing(Tree<'m, W>),
    /// An entry smaller than asked for is in the way; it was not waited for, so nothing is owed (W5).
    Conflict,
    /// An unlocked entry, and a debt.
    Entry(Awaited<'m, W>),
    /// The wait was ended from outside, and whatever wake had come was passed on (W9).
    Interrupted,
}

/// An unlocked entry under the tree lock. Dropping it passes the wake on (W3).
#[must_use = "dropping it passes the wake on without locking the entry"]
#[doc(alias = "put_unlocked_entry")]
pub(crate) struct Awaited<'m, W: World> {
    mapping: &'m Mapping<W>,
    found: Found,
    /// `None` once the debt is paid.
    tree: Option<Tree<'m, W>>,
}

impl<'m, W: World> Awaited<'m, W> {
    pub(crate) fn entry(&self) -> Entry {
        self.found.entry
    }

    pub(crate) fn start(&self) -> PageIndex {
        self.found.start
    }

    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.is_marked(self.found.start, mark))
    }

    /// Takes the entry lock and drops the tree lock.
    #[doc(alias = "dax_lock_entry")]
    pub(crate) fn lock(mut self) -> LockedEntry<'m, W> {
        let entry = self.found.entry.locked();
        if let Some(mut tree) = self.tree.take() {
            tree.replace(self.found.start, entry);
        }
        LockedEntry { mapping: self.mapping, start: self.found.start, entry, held: true }
    }

    /// Deletes the entry, and wakes everybody who waited for it (W4).
    #[doc(alias = "__dax_invalidate_entry")]
    pub(crate) fn remove(mut self) {
        if let Some(mut tree) = self.tree.take() {
            self.mapping.disown(self.found);
            tree.remove(self.found.start);
            drop(tree);
            self.mapping.wake(self.found.start, Wake::All);
        }
    }
}

impl<W: World> Drop for Awaited<'_, W> {
    fn drop(&mut self) {
        if self.tree.take().is_some() {
            self.mapping.wake(self.found.start, Wake::Next);
        }
    }
}

/// A held entry lock. Dropping it unlocks and wakes the next waiter.
#[must_use = "dropping it unlocks the entry"]
pub(crate) struct LockedEntry<'m, W: World> {
    mapping: &'m Mapping<W>,
    start: PageIndex,
    /// The word that is in the index now, lock bit set (I12).
    entry: Entry,
    held: bool,
}

impl<'m, W: World> LockedEntry<'m, W> {
    /// The guard of an entry that the caller has just inserted, locked, under the tree lock.
    pub(crate) fn inserted(mapping: &'m Mapping<W>, start: PageIndex, entry: Entry) -> Self {
        debug_assert!(entry.is_locked(), "a guard stands for a locked entry");
        Self { mapping, start, entry, held: true }
    }

    pub(crate) fn entry(&self) -> Entry {
        self.entry
    }

    pub(crate) fn start(&self) -> PageIndex {
        self.start
    }

    pub(crate) fn found(&self) -> Found {
        Found { start: self.start, entry: self.entry }
    }

    /// The pages that the entry covers.
    pub(crate) fn pages(&self) -> PageRange {
        PageRange::new(self.start, self.entry.order().pages())
    }

    /// The frame of page `index` of the entry, if it is mapped.
    pub(crate) fn frame_of(&self, index: PageIndex) -> Option<Frame> {
        self.entry.frame().map(|frame| frame.plus(index.0 - self.start.0))
    }

    /// Gives the entry another kind. Its size, its marks and its lock stay; waiters need not know, as their key stays.
    pub(crate) fn set_kind(&mut self, kind: Kind) {
        self.mapping.with_tree(|tree| self.set_kind_in(tree, kind));
    }

    /// The same for who has the tree lock.
    pub(crate) fn set_kind_in(&mut self, tree: &mut Index, kind: Kind) {
        let new = Entry::new(self.entry.order(), kind).locked();
        let old = tree.replace(self.start, new);
        assert_eq!(old, self.entry, "somebody changed an entry that we hold locked");
        self.mapping.disown(Found { start: self.start, entry: old });
        self.mapping.own(Found { start: self.start, entry: new });
        self.entry = new;
    }

    fn unlock_in(&self, tree: &mut Index) {
        let old = tree.replace(self.start, self.entry.unlocked());
        // Not an assertion while unwinding: that would end the process and hide the first failure.
        debug_assert!(old == self.entry, "somebody changed an entry that we hold locked");
    }

    /// Deletes the entry, and wakes everybody who waited for it (W4).
    pub(crate) fn remove(mut self) {
        let mut tree = self.mapping.tree.lock();
        let removed = tree.remove(self.start);
        assert_eq!(removed.map(|found| found.entry), Some(self.entry), "the locked entry is gone");
        self.mapping.disown(self.found());
        drop(tree);
        self.held = false;
        self.mapping.wake(self.start, Wake::All);
    }

    /// Whether the entry carries `mark` now.
    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        self.with_tree(|tree| tree.is_marked(self.start, mark))
    }

    /// Runs `act` on the index under the tree lock: marks.
    pub(crate) fn with_tree<R: Hash + Copy>(&self, act: impl FnOnce(&mut Index) -> R) -> R {
        self.mapping.with_tree(act)
    }

    /// Puts `new` (locked) for one page in the place of this PMD entry, of which nothing is mapped, in one step under the tree lock.
    /// The old key's waiters are all woken (W4). If the index has no memory, the old entry stays, and `self` unlocks it (W7).
    pub(crate) fn downgrade(
        mut self,
        index: PageIndex,
        new: Entry,
    ) -> Result<LockedEntry<'m, W>, OutOfMemory> {
        let mapping = self.mapping;
        let mut tree = mapping.tree.lock();
        let removed = tree.remove(self.start);
        assert_eq!(removed.map(|found| found.entry), Some(self.entry), "the locked entry is gone");
        if tree.insert(index, new).is_err() {
            // The nodes of the old entry have just been given back, so this cannot fail.
            let restored = tree.insert(self.start, self.entry);
            assert!(restored.is_ok(), "the old entry's own nodes are free");
            drop(tree);
            return Err(OutOfMemory);
        }
        mapping.disown(self.found());
        drop(tree);
        self.held = false;
        mapping.wake(self.start, Wake::All);
        Ok(LockedEntry::inserted(mapping, index, new))
    }
}

/// The index could not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

impl<W: World> Drop for LockedEntry<'_, W> {
    #[doc(alias = "dax_unlock_entry")]
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        self.with_tree(|tree| self.unlock_in(tree));
        self.mapping.wake(self.start, Wake::Next);
    }
}

impl<W: World> Mapping<W> {
    /// Waits until what covers `index` is unlocked. With a size: an entry smaller than that, anywhere in the unit, is a conflict
    /// and is not waited for. The order of the tests matters: nothing, too small, locked (pitfall 11).
    ///
    /// Gives the tree lock up while it sleeps (W8).
    #[doc(alias = "get_unlocked_entry")]
    #[doc(alias = "get_next_unlocked_entry")]
    pub(crate) fn get_unlocked<'m>(
        &'m self,
        tree: Tree<'m, W>,
        index: PageIndex,
        size: Option<Order>,
        waiting: Waiting,
    ) -> Lookup<'m, W> {
        self.get_unlocked_unless(tree, index, (size, waiting), None)
    }

    /// The same, until somebody says through `interrupt` that the wait has been long enough.
    pub(crate) fn get_unlocked_unless<'m>(
        &'m self,
        mut tree: Tree<'m, W>,
        index: PageIndex,
        (size, waiting): (Option<Order>, Waiting),
        interrupt: Option<&Interrupt<W::Platform>>,
    ) -> Lookup<'m, W> {
        loop {
            let found = match size {
                Some(Order::Pmd) => tree.first_in(PageRange::unit(index, Order::Pmd)),
                Some(Order::Pte) | None => tree.get(index),
            };
            let Some(found) = found else { return Lookup::Nothing(tree) };
            if size.is_some_and(|size| found.entry.order() < size) {
                return Lookup::Conflict;
            }
            if !found.entry.is_locked() {
                return Lookup::Entry(Awaited { mapping: self, found, tree: Some(tree) });
            }
            // The key is that of the entry seen in this very round (W5).
            let key = self.key(found.start);
            let parker = self.dax.waits.enqueue(key, waiting);
            drop(tree);
            match interrupt {
                None => parker.park(),
                Some(interrupt) => {
                    if interrupt.park(&parker) == Slept::Interrupted {
                        if self.dax.waits.leave(key, &parker) == Left::AfterItsWake {
                            self.dax.waits.wake(key, Wake::Next);
                        }
                        return Lookup::Interrupted;
                    }
                }
            }
            tree = self.tree.lock();
        }
    }

    /// Locks the entry that covers `index`, if it stands for storage. For those who come from the storage and may find the
    /// file gone: they wait without exclusivity (W6).
    #[doc(alias = "dax_lock_mapping_entry")]
    #[doc(alias = "dax_lock_folio")]
    pub(crate) fn lock_mapped(&self, index: PageIndex) -> Option<LockedEntry<'_, W>> {
        match self.get_unlocked(self.tree.lock(), index, None, Waiting::Shared) {
            Lookup::Entry(awaited) if awaited.entry().is_mapped() => Some(awaited.lock()),
            Lookup::Entry(_) | Lookup::Nothing(_) | Lookup::Conflict | Lookup::Interrupted => None,
        }
    }

    /// Deletes entries that the caller holds, and wakes everybody who waited for them (W4).
    pub(crate) fn remove_all(&self, entries: Vec<LockedEntry<'_, W>>) {
        if entries.is_empty() {
            return;
        }
        let mut tree = self.tree.lock();
        for entry in &entries {
            tree.remove(entry.start);
            self.disown(Found { start: entry.start, entry: entry.entry });
        }
        drop(tree);
        for mut entry in entries {
            entry.held = false;
            self.wake(entry.start, Wake::All);
        }
    }

    /// Unlocks entries that the caller holds, under one tree lock, and wakes the next waiter of each.
    pub(crate) fn unlock_all(&self, entries: Vec<LockedEntry<'_, W>>) {
        if entries.is_empty() {
            return;
        }
        self.with_tree(|tree| entries.iter().for_each(|entry| entry.unlock_in(tree)));
        for mut entry in entries {
            entry.held = false;
            self.wake(entry.start, Wake::Next);
        }
    }

    pub(crate) fn own(&self, found: Found) {
        self.associate(found, Some(Owner { mapping: self.number, index: found.start }));
    }

    pub(crate) fn disown(&self, found: Found) {
        self.associate(found, None);
    }

    fn associate(&self, found: Found, owner: Option<Owner>) {
        if let Some(start) = found.entry.frame() {
            self.media.associate(FrameRange { start, count: found.entry.order().pages() }, owner);
        }
    }
}

#[cfg(test)]
mod tests;
