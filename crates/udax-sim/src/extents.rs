//! Where the pages of one file are stored.

use std::collections::BTreeMap;

/// Whether storage holds the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// It was never written: the file reads as zeros there, whatever the storage holds.
    Unwritten,
    Written,
}

/// A run of pages in a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) pages: u64,
    pub(crate) block: u64,
    pub(crate) fill: Fill,
}

/// What is at a page, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing, up to this page; `None` if there is nothing behind.
    Hole(Option<u64>),
    /// Storage: the rest of an extent.
    Extent(Extent),
}

/// The extents of a file, by their first pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExtentMap {
    extents: BTreeMap<u64, Extent>,
    changes: u64,
}

impl ExtentMap {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Extent)> {
        self.extents.iter().map(|(start, extent)| (*start, *extent))
    }

    /// How often it changed: two clones of one map with the same count are the same.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn at(&self, page: u64) -> At {
        if let Some((&start, extent)) = self.extents.range(..=page).next_back()
            && page < start + extent.pages
        {
            let skip = page - start;
            let (pages, block) = (extent.pages - skip, extent.block + skip);
            return At::Extent(Extent { pages, block, fill: extent.fill });
        }
        At::Hole(self.extents.range(page..).next().map(|(start, _)| *start))
    }

    /// The block that the storage before `page`, or else that behind it, lets one expect there.
    pub(crate) fn expected(&self, page: u64) -> Option<u64> {
        let before = self.extents.range(..=page).next_back();
        if let Some((start, extent)) = before {
            return Some(extent.block + (page - start));
        }
        let (start, extent) = self.extents.range(page..).next()?;
        extent.block.checked_sub(start - page)
    }

    /// The holes between `start` and `end`.
    pub(crate) fn holes(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut page = start;
        while page < end {
            page = match self.at(page) {
                At::Hole(next) => {
                    let stop = next.map_or(end, |next| next.min(end));
                    holes.push((page, stop - page));
                    stop
                }
                At::Extent(extent) => page + extent.pages,
            };
        }
        holes
    }

    /// Takes out what is in `start..end`; what was there, in runs.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Vec<(u64, Extent)> {
        self.changes += 1;
        self.cut(start);
        self.cut(end);
        let starts: Vec<u64> = self.extents.range(start..end).map(|(start, _)| *start).collect();
        starts.into_iter().filter_map(|start| Some((start, self.extents.remove(&start)?))).collect()
    }

    fn cut(&mut self, page: u64) {
        let Some((&start, extent)) = self.extents.range_mut(..page).next_back() else { return };
        if page < start + extent.pages {
            let rest = Extent {
                pages: start + extent.pages - page,
                block: extent.block + (page - start),
                fill: extent.fill,
            };
            extent.pages = page - start;
            self.extents.insert(page, rest);
        }
    }

    /// Puts an extent where a hole is; joins it with its neighbours.
    pub(crate) fn insert(&mut self, mut start: u64, mut extent: Extent) {
        self.changes += 1;
        if let Some((&before, &left)) = self.extents.range(..start).next_back() {
            assert!(before + left.pages <= start, "page {start} has storage already");
            let joins = left.fill == extent.fill
                && before + left.pages == start
                && left.block + left.pages == extent.block;
            if joins {
                self.extents.remove(&before);
                start = before;
                extent.pages += left.pages;
                extent.block = left.block;
            }
        }
        if let Some((&behind, &right)) = self.extents.range(start..).next() {
            assert!(start + extent.pages <= behind, "page {behind} has storage already");
            let joins = right.fill == extent.fill
                && start + extent.pages == behind
                && extent.block + extent.pages == right.block;
            if joins {
                self.extents.remove(&behind);
                extent.pages += right.pages;
            }
        }
        self.extents.insert(start, extent);
    }

    /// Everything from `page` on moves to `to`.
    pub(crate) fn shift(&mut self, page: u64, to: u64) {
        for (start, extent) in self.remove(page, u64::MAX) {
            self.insert(start - page + to, extent);
        }
    }
}
