//! Grabbing: the locked entry that a fault works under, made if need be (SEMANTICS 3).

use crate::entry::{Entry, Kind};
use crate::index::InsertError;
use crate::lock::{LockedEntry, Lookup};
use crate::mapping::Mapping;
use crate::seams::{PrivateCopies, ShortLock, World};
use crate::units::{Order, PageIndex, PageRange};
use crate::waits::Waiting;
use alloc::vec::Vec;

/// Why a fault of this size gets no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrabError {
    /// A small entry is in the 2 MiB: small entries are favoured (I4).
    Conflict,
    /// The index could not grow. Nothing has changed.
    OutOfMemory,
}

impl<W: World> Mapping<W> {
    /// The locked entry for a fault of `order` at `index`. A PTE fault may be given a mapped PMD entry to work under; a zero or
    /// empty PMD entry is downgraded for it. May sleep for an entry lock.
    #[doc(alias = "grab_mapping_entry")]
    pub(crate) fn grab(
        &self,
        index: PageIndex,
        order: Order,
    ) -> Result<LockedEntry<'_, W>, GrabError> {
        let start = index.align_down(order);
        // The only loop is that of the wait, which carries nothing from one round into the next (pitfall 15).
        match self.get_unlocked(self.tree.lock(), start, Some(order), Waiting::Exclusive) {
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
            self.unmap(locked.pages(), PrivateCopies::Keep);
        }
        let new = Entry::new(Order::Pte, Kind::Empty).locked();
        locked.downgrade(index, new).map_err(|_| GrabError::OutOfMemory)
    }

    /// Locks entries of `order` behind `from`, as long as nothing is there and `from` has not reached `end`: each comes into
    /// being already locked, so this never waits. `kind` says what each is to be.
    pub(crate) fn grab_ahead(
        &self,
        from: PageIndex,
        end: PageIndex,
        order: Order,
        kind: impl Fn(PageIndex) -> Kind,
    ) -> Vec<LockedEntry<'_, W>> {
        let mut run = Vec::new();
        let mut next = from;
        let mut tree = self.tree.lock();
        while next.plus(order.pages()) <= end && run.try_reserve(1).is_ok() {
            if tree.first_in(PageRange::unit(next, order)).is_some() {
                break;
            }
            let entry = Entry::new(order, kind(next)).locked();
            if tree.insert(next, entry).is_err() {
                break;
            }
            self.own_inserted(next, entry);
            run.push(LockedEntry::inserted(self, next, entry));
            next = next.plus(order.pages());
        }
        run
    }
}
