//! fsync and msync.

use super::{Answer, Failed, Player, done};
use crate::script::{Msync, Place};
use std::sync::Arc;
use udax_core::{PageIndex, PageRange, Sharing};

/// All pages that a file can have: to the end of all offsets.
pub(super) const WHOLE: PageRange =
    PageRange { start: PageIndex(0), end: PageIndex(1 << (63 - 12)) };

impl Player<'_> {
    pub(super) fn fsync(&mut self, name: &str) -> Answer {
        let node = self.readable(name)?;
        node.mapping.sync(WHOLE)?;
        self.file_mut(name)?.unsure.clear();
        done()
    }

    pub(super) fn msync(&mut self, name: &str, place: Option<Place>, how: Msync) -> Answer {
        let map = self.map(name)?;
        let range = map.range(place);
        if place.is_some_and(|place| !place.offset.is_multiple_of(4096)) {
            return Err(Failed::Errno("EINVAL"));
        }
        let node = Arc::clone(&map.node);
        let parts: Vec<PageRange> =
            map.pieces.iter().map(|piece| piece.layout.pages.intersect(range)).collect();
        let has_gap = !map.covers(range);
        if how == Msync::Sync && map.sharing == Sharing::Shared {
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                node.mapping.sync(part)?;
            }
        }
        if has_gap { Err(Failed::Errno("ENOMEM")) } else { done() }
    }
}
