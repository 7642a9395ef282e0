//! The entry lock beside a word with a parking_lot mutex around it.

use crate::world::{self, Free};
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::Arc;
use udax_core::internals::lock_and_unlock;
use udax_core::{Access, Fault, Mapping, PageIndex};

/// The lock of one entry among `entries`.
pub struct EntryLock {
    mapping: Arc<Mapping<Free>>,
    index: PageIndex,
}

impl EntryLock {
    /// Of an entry in the middle of `entries` that stand for storage.
    #[must_use]
    pub fn among(entries: u64) -> Self {
        let (mapping, vma) = world::file(entries);
        for index in 0..entries {
            mapping.fault(&Fault::new(&vma, PageIndex(index), Access::Write));
        }
        Self { mapping, index: PageIndex(entries / 2) }
    }

    /// Takes it and gives it back.
    #[inline]
    pub fn take(&self) {
        lock_and_unlock(&self.mapping, black_box(self.index));
    }
}

/// A word with a mutex around it.
#[derive(Debug, Default)]
pub struct EntryWord(Mutex<u64>);

impl EntryWord {
    /// Takes the mutex and gives it back.
    #[inline]
    pub fn take(&self) {
        *black_box(&self.0).lock() += 1;
    }
}
