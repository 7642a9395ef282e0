//! The second half of a synchronous fault (MAP_SYNC): metadata durable, then the store is let through (SEMANTICS 5.5).

use super::{Fault, FaultOutcome, Served};
use crate::index::Mark;
use crate::lock::Lookup;
use crate::mapping::Mapping;
use crate::seams::{AddressSpace, Filesystem, Rights, ShortLock, World};
use crate::trace::{FaultResult, TraceEvent};
use crate::units::{Frame, Order, PageRange};
use crate::waits::Waiting;

impl<W: World> Mapping<W> {
    /// Makes the unit's metadata durable, then its translation writable. The caller still holds the fault lock shared, which keeps
    /// the frame that of the index; the entry is looked up again all the same, since a sync or an invalidation may have come between.
    #[doc(alias = "dax_finish_sync_fault")]
    pub(super) fn finish_sync(
        &self,
        fault: &Fault<'_, W>,
        order: Order,
        frame: Frame,
    ) -> FaultOutcome {
        let unit = PageRange::unit(fault.index, order);
        // No mark before this: the commit would clear it for nothing, and it must come after the last flush.
        // An earlier error of a writeback is not for this store to report: it stays for the next sync.
        let durable = self.writeback(unit).and_then(|()| self.filesystem.commit(unit));
        if let Err(error) = durable {
            return FaultOutcome {
                error: Some(error),
                ..FaultOutcome::new(Served::BusError, order)
            };
        }
        let lookup =
            self.get_unlocked(self.tree.lock(), unit.start, Some(order), Waiting::Exclusive);
        let same = |entry: crate::Entry| entry.order() == order && entry.frame() == Some(frame);
        let locked = match lookup {
            Lookup::Entry(awaited) if same(awaited.entry()) => awaited.lock(),
            Lookup::Entry(_) | Lookup::Nothing(_) | Lookup::Conflict | Lookup::Interrupted => {
                let result = FaultResult::NOPAGE;
                self.trace(|| TraceEvent::InsertPfnMkwriteNoEntry(self.place(fault), result));
                return FaultOutcome::new(Served::Installed, order);
            }
        };
        let start = locked.start();
        locked.with_tree(|tree| tree.set_mark(start, Mark::Dirty));
        let rights = Rights::WritableDirty;
        let outcome = match fault.vma.space.install_storage(unit, frame, order, rights) {
            Ok(_) => FaultOutcome::new(Served::Installed, order),
            Err(error) => FaultOutcome::not_installed(error, order),
        };
        drop(locked);
        self.trace(|| TraceEvent::InsertPfnMkwrite(self.place(fault), outcome.result()));
        outcome
    }
}
