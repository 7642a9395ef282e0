//! Which extent a fault is about: what the locked entry knows already, or else what the file system says (SEMANTICS 5.2 row 5).
//!
//! When many map one file, all but the first fault on a page find an entry that says all there is to know. Linux asks the file system
//! again each time; its authors left this for later, if needed.

use super::{Fault, FaultOutcome, Served};
use crate::entry::Kind;
use crate::error::IoError;
use crate::index::Mark;
use crate::lock::LockedEntry;
use crate::mapping::Mapping;
use crate::seams::{Backing, Filesystem, Intent, Iomap, World};
use crate::units::{Order, PageRange};
use crate::vma::Durability;

/// Who answered, and hence who has to be told of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Filesystem,
    Entry,
}

/// The extent of a fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) iomap: Iomap,
    source: Source,
}

impl<W: World> Mapping<W> {
    /// The extent of `unit` as the entry knows it, or that of `asked` as the file system does.
    pub(super) fn extent_for(
        &self,
        fault: &Fault<'_, W>,
        locked: &LockedEntry<'_, W>,
        unit: PageRange,
        asked: PageRange,
    ) -> Result<Answer, IoError> {
        if let Some(iomap) = Self::known_extent(fault, locked, unit) {
            return Ok(Answer { iomap, source: Source::Entry });
        }
        let intent = if fault.is_shared_write() { Intent::Write } else { Intent::Read };
        let iomap = self.filesystem.iomap_begin(asked, intent)?;
        Ok(Answer { iomap, source: Source::Filesystem })
    }

    /// What the entry says, where that is enough: the fault lock is held, so its storage is that of the file, and what is to be done
    /// needs nothing else. A store needs leave to store ([`Intent::Write`]); the page has it as long as its entry is dirty. Of a 2 MiB entry that
    /// says nothing: stores under it may have had leave for single pages, the others still being shared.
    fn known_extent(
        fault: &Fault<'_, W>,
        locked: &LockedEntry<'_, W>,
        unit: PageRange,
    ) -> Option<Iomap> {
        if fault.ahead > 0 {
            // How far the extent goes only the file system can tell.
            return None;
        }
        let may_store = || {
            fault.vma.durability == Durability::AtSync
                && locked.entry().order() == Order::Pte
                && locked.is_marked(Mark::Dirty)
        };
        let backing = match locked.entry().kind() {
            // A zero entry proves nothing: a writer may have filled the hole, and not come to deleting the entry yet.
            Kind::Empty | Kind::Zero => return None,
            Kind::Mapped(_) if fault.is_shared_write() && !may_store() => return None,
            Kind::Mapped(_) => Backing::Mapped(locked.frame_of(unit.start)?),
        };
        let (is_new, metadata_dirty, copy_from) = (false, false, None);
        Some(Iomap { range: unit, backing, is_new, metadata_dirty, copy_from })
    }

    /// Closes the file system's operation. Its error is ignored: others may already use the translation (pitfall 86). What was allocated, or is
    /// a copy, is in use from the moment that the entry stands for it, whether a translation could be made or not: it must not go back.
    pub(super) fn end_iomap(
        &self,
        answer: &Answer,
        locked: &LockedEntry<'_, W>,
        outcome: &FaultOutcome,
        unit: PageRange,
    ) {
        if answer.source == Source::Entry {
            return;
        }
        let iomap = &answer.iomap;
        let frame = iomap.frame_at(unit.start);
        let is_held = (iomap.is_new || iomap.copy_from.is_some())
            && frame.is_some_and(|frame| locked.frame_of(unit.start) == Some(frame));
        let unused = !is_held && (outcome.is_error() || outcome.served == Served::Fallback);
        let _ = self.filesystem.iomap_end(iomap, if unused { 0 } else { unit.len() });
    }
}
