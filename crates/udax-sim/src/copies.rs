//! Storage that takes the place of other storage: copies of shared pages, and pages that move.

use crate::extents::{Extent, Fill};
use crate::file::{FileState, SimFile};
use udax_core::{Backing, IoError, IoErrorKind, Iomap, PageIndex, PageRange};

const ENOSPC: i32 = 28;

/// A block for the copy of a shared page.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) block: u64,
    /// How many operations copy there, or have been told to.
    pub(crate) users: u64,
    /// The page moves: it had its old storage for itself, and gives it back when the exchange is durable.
    pub(crate) moves: bool,
}

impl SimFile {
    /// Blocks to copy shared pages to: those reserved before, or new ones.
    pub(crate) fn reserve_copy(
        &self,
        state: &mut FileState,
        page: u64,
        wanted: u64,
    ) -> Result<(u64, u64, bool), IoError> {
        if let Some(&Reserved { block, .. }) = state.copies.get(&page) {
            let mut run = 0;
            while run < wanted {
                let next = state.copies.get_mut(&(page + run));
                let Some(next) = next.filter(|next| next.block == block + run) else { break };
                next.users += 1;
                run += 1;
            }
            return Ok((block, run, false));
        }
        let free = state.copies.range(page..page + wanted).next().map_or(wanted, |(p, _)| p - page);
        let found = self.fs().space().allocate(page, free, None);
        let (block, got) = found.ok_or(IoError::from_errno(ENOSPC))?;
        self.fs().media().make_stale(self.frames(block, got));
        let reserved = |n| (page + n, Reserved { block: block + n, users: 1, moves: false });
        state.copies.extend((0..got).map(reserved));
        Ok((block, got, true))
    }

    /// An aligned run of blocks to move the pages of `range` to.
    pub(crate) fn reserve_move(
        &self,
        state: &mut FileState,
        range: PageRange,
    ) -> Result<Iomap, IoError> {
        let (old, _, _) = self.look_up(state, range);
        let no_space = IoError::from_errno(ENOSPC);
        if state.copies.range(range.start.0..range.end.0).next().is_some() {
            return Err(IoError::new(IoErrorKind::WouldBlock));
        }
        let mut space = self.fs().space();
        let (block, got) = space.allocate(range.start.0, range.len(), None).ok_or(no_space)?;
        let first = self.fs().frame(block);
        if got < range.len() || !first.is_pmd_aligned() {
            space.give_back(block, got);
            return Err(no_space);
        }
        drop(space);
        self.fs().media().make_stale(self.frames(block, got));
        let reserved =
            |n| (range.start.0 + n, Reserved { block: block + n, users: 1, moves: true });
        state.copies.extend((0..got).map(reserved));
        Ok(Iomap {
            range,
            backing: Backing::Mapped(first),
            is_new: true,
            metadata_dirty: false,
            copy_from: Some(old),
        })
    }

    /// The copied pages take the place of the shared ones; reserved blocks that were not used go back.
    pub(crate) fn finish_copy(&self, state: &mut FileState, iomap: &Iomap, done: u64) {
        let Backing::Mapped(first) = iomap.backing else { return };
        for page in iomap.range.start.0..iomap.range.end.0 {
            let number = page - iomap.range.start.0;
            // Somebody else who copies the same page may have finished before, and given it other storage since.
            let reserved = state.copies.get_mut(&page);
            let block = first.0 - self.fs().frame(0).0 + number;
            let Some(reserved) = reserved.filter(|reserved| reserved.block == block) else {
                continue;
            };
            reserved.users -= 1;
            let moves = reserved.moves;
            if number < done {
                state.copies.remove(&page);
                if moves {
                    // Not before the exchange is durable.
                    let old = state.extents.remove(page, page + 1);
                    state.held.extend(old.iter().map(|(_, extent)| (extent.block, extent.pages)));
                } else {
                    self.drop_storage(state, PageRange::new(PageIndex(page), 1));
                }
                state.extents.insert(page, Extent { pages: 1, block, fill: Fill::Written });
            } else if reserved.users == 0 {
                state.copies.remove(&page);
                self.fs().space().give_back(block, 1);
            }
        }
    }
}
