//! Which blocks of a device are free, and which are shared by several files.

use std::collections::BTreeMap;
use udax_core::PMD_PAGES;

/// Where the file system puts new storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In one run, and 2 MiB aligned where at least 512 pages are wanted at an aligned page of the file.
    Aligned,
    /// In runs no longer than this, never next to each other.
    Fragmented {
        /// Pages in a run.
        longest_run: u64,
    },
    /// In one run, whose place never agrees with the page of the file modulo 2 MiB.
    Misaligned,
    /// As ext4 does: where the file's other storage lets it be expected, and else so that the place agrees with the page modulo 2 MiB, in
    /// 2 MiB that nobody has begun to use.
    Congruent,
    /// As XFS does on stripes of 2 MiB: 512 pages and more start at a stripe; fewer where the file's other storage lets
    /// them be expected, and else just anywhere.
    Striped,
}

/// When the storage that a file gave back can be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// At once.
    AtOnce,
    /// After the next commit of that file: until then a power cut would give it back to the file.
    AfterCommit,
}

/// The allocator. Blocks are counted from the start of the device.
#[derive(Debug)]
pub(crate) struct SpaceMap {
    free: BTreeMap<u64, u64>,
    /// Blocks that more than one file has, and how many have them.
    shared: BTreeMap<u64, u64>,
    allocated: u64,
    pub(crate) capacity: Option<u64>,
    pub(crate) placement: Placement,
    pub(crate) freed: Freed,
}

impl SpaceMap {
    pub(crate) fn new(blocks: u64) -> Self {
        Self {
            free: BTreeMap::from([(0, blocks)]),
            shared: BTreeMap::new(),
            allocated: 0,
            capacity: None,
            placement: Placement::Aligned,
            freed: Freed::AtOnce,
        }
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// One run of at most `wanted` blocks for the pages from `page` on; `None` if there is no space. `expected` is where the file's
    /// other storage would let it be expected.
    pub(crate) fn allocate(
        &mut self,
        page: u64,
        wanted: u64,
        expected: Option<u64>,
    ) -> Option<(u64, u64)> {
        let capacity = self.capacity.map_or(u64::MAX, |limit| limit.saturating_sub(self.allocated));
        let wanted = match self.placement {
            Placement::Fragmented { longest_run } => wanted.min(longest_run.max(1)),
            Placement::Aligned
            | Placement::Misaligned
            | Placement::Congruent
            | Placement::Striped => wanted,
        }
        .min(capacity);
        if wanted == 0 {
            return None;
        }
        let (start, count) = match self.placement {
            Placement::Congruent => self.find_congruent(page, wanted, expected),
            Placement::Striped => self.find_striped(page, wanted, expected),
            Placement::Aligned | Placement::Fragmented { .. } | Placement::Misaligned => None,
        }
        .or_else(|| self.find(page, wanted))?;
        self.take(start, count);
        self.allocated += count;
        Some((start, count))
    }

    fn find(&self, page: u64, wanted: u64) -> Option<(u64, u64)> {
        if self.placement == Placement::Aligned
            && wanted >= PMD_PAGES
            && page.is_multiple_of(PMD_PAGES)
        {
            let aligned = self.free.iter().find_map(|(&start, &count)| {
                let first = start.next_multiple_of(PMD_PAGES);
                let rest = (start + count).saturating_sub(first);
                (rest >= PMD_PAGES).then_some((first, rest.min(wanted)))
            });
            if aligned.is_some() {
                return aligned;
            }
        }
        let usable = |(&start, &count): (&u64, &u64)| {
            let skip = match self.placement {
                Placement::Aligned | Placement::Congruent => 0,
                // A block left out in front: the run joins nothing.
                Placement::Fragmented { .. } => 1,
                Placement::Misaligned | Placement::Striped => {
                    u64::from(start % PMD_PAGES == page % PMD_PAGES)
                }
            };
            (count > skip).then(|| (start + skip, (count - skip).min(wanted)))
        };
        let mut runs = self.free.iter().filter_map(usable);
        runs.clone().find(|(_, count)| *count == wanted).or_else(|| {
            let first = runs.next()?;
            Some(runs.fold(first, |best, run| if run.1 > best.1 { run } else { best }))
        })
    }

    /// How many blocks are free from `block` on.
    fn free_at(&self, block: u64) -> u64 {
        let before = self.free.range(..=block).next_back();
        before.map_or(0, |(&start, &count)| (start + count).saturating_sub(block))
    }

    fn find_at(&self, expected: Option<u64>, wanted: u64) -> Option<(u64, u64)> {
        let start = expected?;
        let count = self.free_at(start).min(wanted);
        (count > 0).then_some((start, count))
    }

    /// The first 2 MiB boundary behind which so many whole stripes are free, and how many blocks are from there on.
    fn find_stripes(&self, stripes: u64) -> Option<(u64, u64)> {
        self.free.iter().find_map(|(&start, &count)| {
            let first = start.next_multiple_of(PMD_PAGES);
            let rest = (start + count).saturating_sub(first);
            (rest >= stripes * PMD_PAGES).then_some((first, rest))
        })
    }

    fn find_congruent(&self, page: u64, wanted: u64, expected: Option<u64>) -> Option<(u64, u64)> {
        self.find_at(expected, wanted).or_else(|| {
            let colour = page % PMD_PAGES;
            let stripes = (colour + wanted).div_ceil(PMD_PAGES);
            let (start, rest) = self.find_stripes(stripes).or_else(|| self.find_stripes(1))?;
            Some((start + colour, wanted.min(rest - colour)))
        })
    }

    fn find_striped(&self, page: u64, wanted: u64, expected: Option<u64>) -> Option<(u64, u64)> {
        if wanted < PMD_PAGES || !page.is_multiple_of(PMD_PAGES) {
            return self.find_at(expected, wanted);
        }
        let stripes = wanted.div_ceil(PMD_PAGES);
        let (start, rest) = self.find_stripes(stripes).or_else(|| self.find_stripes(1))?;
        Some((start, wanted.min(rest)))
    }

    fn take(&mut self, start: u64, count: u64) {
        let (&run, &length) =
            self.free.range(..=start).next_back().expect("what was found is in a free run");
        assert!(start + count <= run + length, "what was found is free");
        self.free.remove(&run);
        if run < start {
            self.free.insert(run, start - run);
        }
        if start + count < run + length {
            self.free.insert(start + count, run + length - start - count);
        }
    }

    /// One more file has these blocks.
    pub(crate) fn share(&mut self, start: u64, count: u64) {
        for block in start..start + count {
            *self.shared.entry(block).or_insert(1) += 1;
        }
    }

    /// Whether `start` is shared, and for how many of `count` blocks the answer is the same.
    pub(crate) fn sharing(&self, start: u64, count: u64) -> (bool, u64) {
        let mut blocks = self.shared.range(start..start + count).map(|(block, _)| *block);
        if !self.shared.contains_key(&start) {
            return (false, blocks.next().map_or(count, |next| next - start));
        }
        let run = (start..start + count).take_while(|block| blocks.next() == Some(*block));
        (true, run.count() as u64)
    }

    /// One file fewer has these blocks; those that nobody has any more are free.
    pub(crate) fn give_back(&mut self, start: u64, count: u64) {
        let mut at = start;
        while at < start + count {
            let (is_shared, run) = self.sharing(at, start + count - at);
            if is_shared {
                for block in at..at + run {
                    self.unshare(block);
                }
            } else {
                self.allocated -= run;
                self.release(at, run);
            }
            at += run;
        }
    }

    fn unshare(&mut self, block: u64) {
        if let Some(files) = self.shared.get_mut(&block) {
            *files -= 1;
            if *files == 1 {
                self.shared.remove(&block);
            }
        }
    }

    fn release(&mut self, mut start: u64, mut count: u64) {
        let before = self.free.range(..start).next_back().map(|(&run, &length)| (run, length));
        if let Some((run, length)) = before {
            assert!(run + length <= start, "block {start} was freed twice");
            if run + length == start {
                self.free.remove(&run);
                (start, count) = (run, length + count);
            }
        }
        let behind = self.free.range(start..).next().map(|(&run, &length)| (run, length));
        if let Some((run, length)) = behind {
            assert!(start + count <= run, "block {run} was freed twice");
            if start + count == run {
                self.free.remove(&run);
                count += length;
            }
        }
        self.free.insert(start, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_512_is_found_behind_a_small_run() {
        let mut map = SpaceMap::new(2048);
        assert_eq!(map.allocate(0, 1, None), Some((0, 1)));
        assert_eq!(map.allocate(512, 512, None), Some((512, 512)));
        assert_eq!(map.allocate(3, 2, None), Some((1, 2)), "the gap is used first");
        map.give_back(512, 512);
        map.give_back(0, 3);
        assert_eq!((map.allocated(), map.free.len()), (0, 1), "free runs join again");
    }

    #[test]
    fn misaligned_and_fragmented_never_make_a_pmd() {
        let mut map = SpaceMap::new(4096);
        map.placement = Placement::Misaligned;
        let (start, count) = map.allocate(512, 512, None).expect("space");
        assert_eq!((count, start % 512 == 0), (512, false));
        map.placement = Placement::Fragmented { longest_run: 3 };
        let (first, count) = map.allocate(0, 512, None).expect("space");
        let (second, _) = map.allocate(3, 512, None).expect("space");
        assert_eq!((count, second - first), (3, 4));
    }

    #[test]
    fn no_space_by_capacity_and_by_the_device() {
        let mut map = SpaceMap::new(8);
        map.capacity = Some(2);
        assert_eq!(map.allocate(0, 4, None).map(|(_, count)| count), Some(2));
        assert_eq!(map.allocate(2, 1, None), None);
        map.capacity = None;
        assert_eq!(map.allocate(2, 6, None).map(|(_, count)| count), Some(6));
        assert_eq!(map.allocate(0, 1, None), None);
        map.give_back(0, 1);
        assert_eq!(map.allocate(0, 1, None), Some((0, 1)));
    }

    #[test]
    fn a_shared_block_is_free_when_the_last_file_gives_it_back() {
        let mut map = SpaceMap::new(8);
        assert_eq!(map.allocate(0, 4, None), Some((0, 4)));
        map.share(1, 2);
        assert_eq!((map.sharing(0, 4), map.sharing(1, 3)), ((false, 1), (true, 2)));
        map.give_back(0, 4);
        assert_eq!(map.allocated(), 2);
        map.give_back(1, 2);
        assert_eq!((map.allocated(), map.free.get(&0)), (0, Some(&8)));
    }

    #[test]
    fn congruent_storage_of_one_file_grows_together_and_leaves_whole_2_mib_to_others() {
        let mut map = SpaceMap::new(4096);
        map.placement = Placement::Congruent;
        assert_eq!(map.allocate(3, 1, None), Some((3, 1)));
        assert_eq!(map.allocate(7, 2, Some(7)), Some((7, 2)), "where it is expected");
        assert_eq!(map.allocate(3, 1, None), Some((515, 1)), "another file: other 2 MiB");
        assert_eq!(map.allocate(8, 1, Some(8)), Some((1032, 1)), "taken: anew, as congruent");
        assert_eq!(map.allocate(512, 1024, None), Some((1536, 1024)));
    }

    #[test]
    fn striped_storage_is_aligned_from_512_pages_on_and_else_anywhere() {
        let mut map = SpaceMap::new(4096);
        map.placement = Placement::Striped;
        assert_eq!(map.allocate(0, 1, None), Some((1, 1)), "never where a 2 MiB one could be");
        assert_eq!(map.allocate(5, 1, Some(6)), Some((6, 1)));
        assert_eq!(map.allocate(512, 512, Some(513)), Some((512, 512)));
    }
}
