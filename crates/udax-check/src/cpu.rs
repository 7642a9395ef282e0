//! Loads and stores: through the page tables, faulting into the engine until they get through.

use crate::platform::Checker;
use crate::rig::{Rig, Which};
use crate::tables::{Target, Translation, place};
use std::hash::Hash;
use udax_core::{Access, Fault, Frame, PageIndex, Served};

/// Faults after which an access should have got through.
const TRIES: usize = 16;

/// Faults after which it can only be that another call is half done: a zero page that a writer is about to unmap is never overwritten (SEMANTICS 4.4).
const PATIENCE: usize = 3;

/// What a load sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// The zero page.
    Zeros,
    /// The file's storage.
    Storage,
}

/// A store that got through.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Stored {
    pub(crate) frame: Frame,
    /// Which of the stores to the page it was.
    pub(crate) number: u32,
}

impl<P: Checker> Rig<P> {
    /// What a load of a page is shown; `None` beyond the end of the file, or if there is no memory for it.
    ///
    /// # Panics
    /// If the access does not get through, or what it is shown cannot be.
    pub fn load(&self, which: Which, index: PageIndex) -> Option<Shown> {
        self.access(which, index, Access::Read, |translation| {
            self.load_by(index, translation.target)
        })
    }

    /// Stores to a page; `None` beyond the end of the file, or if there is no memory for it.
    pub(crate) fn store(&self, which: Which, index: PageIndex, byte: u8) -> Option<Stored> {
        self.access(which, index, Access::Write, |translation| {
            let Target::Storage(frame) = translation.target else {
                panic!("page {index} can be stored to, and is no storage")
            };
            let (unit, page) = place(index);
            let page = &mut self.disk.unit(unit as u64).pages[page];
            assert_eq!(
                page.frame,
                Some(frame),
                "a store to page {index} goes to storage that it has not"
            );
            if self.vma(which).durability == udax_core::Durability::MetadataFirst {
                assert!(
                    !page.metadata_dirty,
                    "a store to page {index} was let through before the way to it is durable"
                );
            }
            page.byte = byte;
            page.stores += 1;
            page.published = true;
            Stored { frame, number: page.stores }
        })
    }

    /// One fault of a store, whose wait somebody may end.
    pub(crate) fn fault_unless_interrupted(&self, which: Which, index: PageIndex) {
        let fault = Fault::new(self.vma(which), index, Access::Write);
        let outcome = self.mapping.fault(&Fault { interrupt: Some(&self.interrupt), ..fault });
        let is_fine = matches!(outcome.served, Served::Installed | Served::Interrupted);
        assert!(is_fine, "the fault at page {index} ended in {outcome:?}");
    }

    /// What a load is shown is right if storage is the file's as long as it is mapped, which [`Disk`](crate::Disk) sees to when it gives
    /// storage back; so a load of storage need not look.
    fn load_by(&self, index: PageIndex, target: Target) -> Shown {
        if target == Target::Zeros {
            let (unit, page) = place(index);
            let page = &self.disk.unit(unit as u64).pages[page];
            assert!(!page.published, "a stale zero: page {index} has {page:?}");
            return Shown::Zeros;
        }
        Shown::Storage
    }

    fn access<T: Hash + Copy>(
        &self,
        which: Which,
        index: PageIndex,
        access: Access,
        act: impl Fn(Translation) -> T,
    ) -> Option<T> {
        let vma = self.vma(which);
        let (unit, page) = place(index);
        for tries in 0..TRIES {
            if tries >= PATIENCE {
                P::yield_now();
            }
            let done = P::told(|| {
                // Held over the access: unmapping waits for what is under way.
                let levels = vma.space.0.levels();
                match levels.of_unit(unit).translation(page) {
                    Some(there) if there.writable || access == Access::Read => Ok(act(there)),
                    other => Err(other.is_some()),
                }
            });
            let translation_present = match done {
                Ok(done) => return Some(done),
                Err(is_present) => is_present,
            };
            let fault = Fault::new(vma, index, access);
            let outcome = self.mapping.fault(&Fault { translation_present, ..fault });
            match outcome.served {
                Served::Installed | Served::Retry | Served::Copied => {}
                Served::BusError if self.may_shrink => return None,
                Served::OutOfMemory if self.may_run_out => return None,
                Served::BusError
                | Served::OutOfMemory
                | Served::Poisoned
                | Served::Interrupted
                | Served::Fallback
                | Served::NeedsCommit { .. } => {
                    panic!("the fault at page {index} ended in {outcome:?}")
                }
            }
            P::forget(tries);
        }
        panic!("page {index} is out of reach after {TRIES} faults");
    }
}
