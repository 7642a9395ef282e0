//! Truncation and fallocate: the engine's part, and around it what the recorded file systems do by habit.

use super::files::Node;
use super::{Answer, Failed, Player, done};
use crate::script::{Falloc, Place};
use std::sync::Arc;
use udax_core::{
    AddressSpace as _, Filesystem as _, PAGE_BYTES, PageIndex, PageRange, PrivateCopies,
};

/// To the end of all files.
fn everything_from(page: u64) -> PageRange {
    PageRange { start: PageIndex(page), end: super::sync::WHOLE.end }
}

impl Player<'_> {
    /// Before a change of the layout: looking for pinned pages, Linux's file systems take down every translation of the file
    /// (`dax_layout_busy_page` from 0 on). The engine takes down what changes only; the faults that follow are to be the same.
    fn break_layouts(&self, node: &Node) {
        for vma in node.mapping.vmas() {
            vma.space.unmap(vma.pages, PrivateCopies::Keep);
        }
    }

    /// Changes the layout of a file: events in between are told apart, and marks that were there are unsure afterwards.
    fn change(
        &mut self,
        node: &Arc<Node>,
        change: impl FnOnce(&Self) -> Result<(), Failed>,
    ) -> Answer {
        let dirty: Vec<u64> = node
            .mapping
            .entries_in(super::sync::WHOLE)
            .iter()
            .filter(|entry| entry.dirty)
            .map(|entry| entry.start.0)
            .collect();
        for file in self.files.values_mut().filter(|file| Arc::ptr_eq(&file.node, node)) {
            file.unsure.extend(&dirty);
        }
        self.recorder.layout_change(true);
        let result = change(self);
        self.recorder.layout_change(false);
        result?;
        done()
    }

    pub(super) fn truncate(&mut self, name: &str, size: u64) -> Answer {
        let (node, open) = self.writable(name, "EINVAL")?;
        if size > self.flavour.largest_file() {
            return Err(Failed::Errno("EFBIG"));
        }
        let old = node.sim.size_bytes();
        let changed = Arc::clone(&node);
        self.change(&node, move |player| {
            let node = changed;
            player.break_layouts(&node);
            if size < old && player.flavour.flushes_new_end() {
                node.mapping.writeback(PageRange::new(PageIndex::of_byte(size), 1))?;
            }
            node.mapping.truncate(size)?;
            node.forget_past_end(everything_from(size.div_ceil(PAGE_BYTES)));
            let has_tail = !old.is_multiple_of(PAGE_BYTES);
            if size > old && has_tail && player.flavour.flushes_old_end() {
                node.mapping.writeback(PageRange::of_bytes(old, size - old))?;
            }
            Ok(())
        })?;
        self.sync_if(&node, open.dsync)
    }

    pub(super) fn falloc(&mut self, name: &str, mode: Falloc, place: Place) -> Answer {
        let (node, open) = self.writable(name, "EBADF")?;
        let Place { offset, length } = place;
        let size = node.sim.size_bytes();
        let end = offset.checked_add(length).ok_or(Failed::Errno("EFBIG"))?;
        if length == 0 {
            return Err(Failed::Errno("EINVAL"));
        }
        if end > self.flavour.largest_file() {
            return Err(Failed::Errno("EFBIG"));
        }
        match mode {
            Falloc::Alloc | Falloc::Keep => self.allocate(&node, place, mode == Falloc::Alloc)?,
            Falloc::Unshare if self.flavour.fs == crate::flavour::FsKind::Ext4 => {
                return Err(Failed::Errno("EOPNOTSUPP"));
            }
            // Nothing is shared on a DAX file; what is left of it is allocation.
            Falloc::Unshare => self.allocate(&node, place, true)?,
            Falloc::Punch => self.punch(&node, offset, length.min(i64::MAX as u64 - offset))?,
            Falloc::Zero | Falloc::ZeroKeep => {
                self.zero_range(&node, place, mode == Falloc::Zero)?
            }
            Falloc::Collapse | Falloc::Insert => {
                if !offset.is_multiple_of(PAGE_BYTES) || !length.is_multiple_of(PAGE_BYTES) {
                    return Err(Failed::Errno("EINVAL"));
                }
                if mode == Falloc::Collapse {
                    if end >= size {
                        return Err(Failed::Errno("EINVAL"));
                    }
                    self.collapse(&node, place)?
                } else {
                    if offset >= size {
                        return Err(Failed::Errno("EINVAL"));
                    }
                    if length > self.flavour.largest_file() - size {
                        return Err(Failed::Errno("EFBIG"));
                    }
                    self.insert(&node, place)?
                }
            }
        };
        self.sync_if(&node, open.dsync)
    }

    fn lengthen(node: &Node, end: u64) -> Result<(), Failed> {
        if end > node.sim.size_bytes() {
            node.mapping.truncate(end)?;
        }
        Ok(())
    }

    fn allocate(&mut self, node: &Arc<Node>, place: Place, lengthens: bool) -> Answer {
        if self.flavour.breaks_layouts_to_allocate() {
            self.break_layouts(node);
        }
        node.sim.allocate(PageRange::of_bytes(place.offset, place.length))?;
        if lengthens {
            Self::lengthen(node, place.offset + place.length)?;
        }
        done()
    }

    /// Punches a hole; beyond the end of the file there is nothing to do.
    pub(super) fn punch(&mut self, node: &Arc<Node>, offset: u64, length: u64) -> Answer {
        let size = node.sim.size_bytes();
        if offset >= size {
            return done();
        }
        // The rest of the last page goes along.
        let length = length.min(size.next_multiple_of(PAGE_BYTES) - offset);
        let punched = Arc::clone(node);
        self.change(node, move |player| {
            player.break_layouts(&punched);
            Ok(punched.mapping.punch_hole(offset, length)?)
        })
    }

    fn zero_range(&mut self, node: &Arc<Node>, place: Place, lengthens: bool) -> Answer {
        let Place { offset, length } = place;
        let end = offset + length;
        let zeroed = Arc::clone(node);
        self.change(node, move |player| {
            let node = zeroed;
            player.break_layouts(&node);
            let whole =
                PageRange::between(PageIndex(offset.div_ceil(PAGE_BYTES)), PageIndex::of_byte(end));
            // The edges by zeros where there is storage, and what of them has none as unwritten like the rest.
            let head_end = end.min(whole.start.byte());
            node.mapping.zero_range(offset, head_end - offset)?;
            let tail = end.min(whole.end.byte().max(head_end));
            node.mapping.zero_range(tail, end - tail)?;
            if !whole.is_empty() {
                node.mapping.change_layout(whole, |file| file.make_unwritten(whole))?;
            }
            node.sim.allocate(PageRange::of_bytes(offset, length))?;
            if lengthens { Self::lengthen(&node, end) } else { Ok(()) }
        })
    }

    fn collapse(&mut self, node: &Arc<Node>, place: Place) -> Answer {
        let range = PageRange::of_bytes(place.offset, place.length);
        let changed = Arc::clone(node);
        self.change(node, move |player| {
            player.break_layouts(&changed);
            let all = everything_from(range.start.0);
            changed.mapping.change_layout(all, |file| {
                file.collapse(range);
                Ok(())
            })?;
            Ok(())
        })
    }

    fn insert(&mut self, node: &Arc<Node>, place: Place) -> Answer {
        let range = PageRange::of_bytes(place.offset, place.length);
        let changed = Arc::clone(node);
        self.change(node, move |player| {
            player.break_layouts(&changed);
            let all = everything_from(range.start.0);
            changed.mapping.change_layout(all, |file| {
                file.insert(range);
                Ok(())
            })?;
            Ok(())
        })
    }
}
