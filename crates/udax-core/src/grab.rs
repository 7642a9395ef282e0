//! Grabbing: the locked entry that a fault works under, made if need be (SEMANTICS 3).

use crate::entry::{Entry, Kind};
use crate::index::InsertError;
use crate::interrupt::Interrupt;
use crate::lock::{LockedEntry, Lookup};
use crate::mapping::{Mapping, Tree};
use crate::seams::{AddressSpace, Platform, ShortLock, World};
use crate::units::{Order, PageIndex, PageRange};
use crate::waits::Waiting;
use alloc::vec::Vec;
use core::mem;

/// Why a fault of this size gets no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GrabError {
    /// A small entry is in the 2 MiB: small entries are favoured (I4).
    Conflict,
    /// The index could not grow. Nothing has changed.
    OutOfMemory,
    /// Somebody ended the wait for the entry.
    Interrupted,
}

impl<W: World> Mapping<W> {
    /// The locked entry for a fault of `order` at `index`. A PTE fault may be given a mapped PMD entry to work under; a zero or
    /// empty PMD entry is downgraded for it. May sleep for an entry lock, until `interrupt` ends that.
    #[doc(alias = "grab_mapping_entry")]
    pub(crate) fn grab(
        &self,
        index: PageIndex,
        order: Order,
        interrupt: Option<&Interrupt<W::Platform>>,
    ) -> Result<LockedEntry<'_, W>, GrabError> {
        let start = index.align_down(order);
        let told = |grabbed: &Result<LockedEntry<'_, W>, _>| match grabbed {
            Ok(locked) => Ok(locked.found()),
            Err(error) => Err(*error),
        };
        W::Platform::step(|| self.grab_aligned(start, order, interrupt), told)
    }

    fn grab_aligned(
        &self,
        start: PageIndex,
        order: Order,
        interrupt: Option<&Interrupt<W::Platform>>,
    ) -> Result<LockedEntry<'_, W>, GrabError> {
        // The only loop is that of the wait, which carries nothing from one round into the next (pitfall 15).
        let wait = (Some(order), Waiting::Exclusive);
        match self.get_unlocked_unless(self.tree.lock(), start, wait, interrupt) {
            Lookup::Interrupted => Err(GrabError::Interrupted),
            Lookup::Conflict => Err(GrabError::Conflict),
            Lookup::Nothing(mut tree) => {
                let entry = Entry::new(order, Kind::Empty).locked();
                match tree.insert(start, entry) {
                    Ok(()) => Ok(LockedEntry::inserted(self, start, entry)),
                    Err(InsertError::OutOfMemory) => Err(GrabError::OutOfMemory),
                    // The look-up saw the whole unit empty under this same lock.
                    Err(InsertError::Occupied) => Err(GrabError::Conflict),
                }
            }
            Lookup::Entry(awaited) => {
                let needs_downgrade = order == Order::Pte
                    && awaited.entry().order() == Order::Pmd
                    && !awaited.entry().is_mapped();
                let locked = awaited.lock();
                if needs_downgrade { self.downgrade(locked, start) } else { Ok(locked) }
            }
        }
    }

    /// Puts an empty PTE entry at `index` in the place of a zero or empty PMD entry.
    #[doc(alias = "pmd_downgrade")]
    fn downgrade<'m>(
        &'m self,
        locked: LockedEntry<'m, W>,
        index: PageIndex,
    ) -> Result<LockedEntry<'m, W>, GrabError> {
        if locked.entry().is_zero() {
            // The entry lock keeps the zero page from being faulted in again between here and the swap.
            self.each_vma(locked.pages(), |vma, part| vma.space.unmap_zeros(part));
        }
        let new = Entry::new(Order::Pte, Kind::Empty).locked();
        locked.downgrade(index, new).map_err(|_| GrabError::OutOfMemory)
    }

    /// Entries of `order` behind `from`, locked, until one is locked already or of another size, or `end` is reached: empty ones where nothing is,
    /// and those that other VMAs have made. None is waited for. Before the file system is asked about them, as with the entry of the fault
    /// itself: what it says of a page that nobody holds may be old already (pitfall 35).
    pub(crate) fn grab_ahead(&self, from: PageIndex, end: PageIndex, order: Order) -> Run<'_, W> {
        let mut run = Run { mapping: self, entries: Vec::new() };
        if from.plus(order.pages()) > end {
            return run;
        }
        let mut next = from;
        let mut tree = self.tree.lock();
        while next.plus(order.pages()) <= end && run.entries.try_reserve(1).is_ok() {
            let Some(ahead) = self.grab_unlocked(&mut tree, next, order) else { break };
            run.entries.push(ahead);
            next = next.plus(order.pages());
        }
        drop(tree);
        run
    }

    /// One of them, which covers `start` and is no larger or smaller than `order`.
    fn grab_unlocked(
        &self,
        tree: &mut Tree<'_, W>,
        start: PageIndex,
        order: Order,
    ) -> Option<Ahead<'_, W>> {
        let entry = Entry::new(order, Kind::Empty).locked();
        let (entry, is_new) = match tree.insert(start, entry) {
            Ok(()) => (entry, true),
            Err(InsertError::OutOfMemory) => return None,
            Err(InsertError::Occupied) => {
                let found = tree.get(start)?.entry;
                if found.is_locked() || found.order() != order {
                    return None;
                }
                tree.replace(start, found.locked());
                (found.locked(), false)
            }
        };
        Some(Ahead { locked: LockedEntry::inserted(self, start, entry), is_new })
    }
}

/// An entry behind that of a fault.
struct Ahead<'m, W: World> {
    locked: LockedEntry<'m, W>,
    /// It is there for the run alone.
    is_new: bool,
}

/// The locked entries behind that of a fault. Those that were made for it and that it did not fill go away with it.
pub(crate) struct Run<'m, W: World> {
    mapping: &'m Mapping<W>,
    entries: Vec<Ahead<'m, W>>,
}

impl<'m, W: World> Run<'m, W> {
    /// Gives the entries that end at or before `end` their kind, up to the first that stood for something else before; and gives the others up.
    /// They are in order.
    pub(crate) fn fill(&mut self, end: PageIndex, kind: impl Fn(PageIndex) -> Kind) {
        if self.entries.is_empty() {
            return;
        }
        let fits = |ahead: &Ahead<'m, W>| {
            let (entry, start) = (ahead.locked.entry(), ahead.locked.start());
            ahead.locked.pages().end <= end && (ahead.is_new || entry.kind() == kind(start))
        };
        let kept = self.entries.iter().take_while(|ahead| fits(ahead)).count();
        let rest = self.entries.split_off(kept);
        self.give_up(rest);
        self.mapping.with_tree(|tree| {
            for ahead in self.entries.iter_mut().filter(|ahead| ahead.is_new) {
                ahead.locked.set_kind_in(tree, kind(ahead.locked.start()));
            }
        });
    }

    /// The pages of `unit` and of the run behind it.
    pub(crate) fn with(&self, unit: PageRange) -> PageRange {
        let end = self.entries.last().map_or(unit.end, |last| last.locked.pages().end);
        PageRange::between(unit.start, end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LockedEntry<'m, W>> {
        self.entries.iter().map(|ahead| &ahead.locked)
    }

    /// Unlocks `entries`, and takes those out of the index that are still empty: left there they would keep 2 MiB entries out for ever.
    fn give_up(&self, entries: Vec<Ahead<'m, W>>) {
        if entries.is_empty() {
            return;
        }
        let is_unused = |ahead: &Ahead<'m, W>| ahead.is_new && ahead.locked.entry().is_empty();
        let (unused, used): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_unused);
        self.mapping.remove_all(unused.into_iter().map(|ahead| ahead.locked).collect());
        self.mapping.unlock_all(used.into_iter().map(|ahead| ahead.locked).collect());
    }
}

impl<W: World> Drop for Run<'_, W> {
    fn drop(&mut self) {
        let entries = mem::take(&mut self.entries);
        self.give_up(entries);
    }
}
