//! What a seed draws: each leaves things out, so that what is left meets more often, and seeds differ a lot.

use udax_core::{PAGE_BYTES, PMD_PAGES};
use udax_sim::{Freed, Placement, Prng};

/// What a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Load,
    Store,
    Read,
    Write,
    Truncate,
    Punch,
    ZeroRange,
    Unwritten,
    Allocate,
    WriteZeros,
    Sync,
    Writeback,
    Map,
    Unmap,
    Protect,
    Discard,
    Fork,
    Exit,
    Reflink,
    Unshare,
    Collapse,
    Evict,
    Poison,
    Repair,
    Cure,
}

/// How often each is drawn, where it is drawn at all.
const WEIGHTS: [(Op, u64); 25] = [
    (Op::Load, 60),
    (Op::Store, 60),
    (Op::Read, 8),
    (Op::Write, 14),
    (Op::Truncate, 7),
    (Op::Punch, 7),
    (Op::ZeroRange, 3),
    (Op::Unwritten, 2),
    (Op::Allocate, 2),
    (Op::WriteZeros, 3),
    (Op::Sync, 12),
    (Op::Writeback, 4),
    (Op::Map, 6),
    (Op::Unmap, 4),
    (Op::Protect, 5),
    (Op::Discard, 6),
    (Op::Fork, 2),
    (Op::Exit, 2),
    (Op::Reflink, 2),
    (Op::Unshare, 2),
    (Op::Collapse, 4),
    (Op::Evict, 1),
    (Op::Poison, 2),
    (Op::Repair, 3),
    (Op::Cure, 1),
];

/// What befalls the machine while the workers work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No memory for page tables, private copies, or index nodes.
    Memory,
    /// Calls of the file system or the media fail.
    Calls,
    /// The file system is full.
    Space,
    /// The file system is frozen.
    Freeze,
    /// The journal is held.
    Journal,
    /// Devices pin storage, and write to it.
    Pins,
    /// There is no 2 MiB zero page.
    HugeZero,
    /// New storage is fragmented, or misaligned.
    Placement,
    /// Signals end the waits of threads.
    Signals,
    /// The power is cut, and what is left looked at.
    PowerCut,
}

const TROUBLES: [Trouble; 10] = [
    Trouble::Memory,
    Trouble::Calls,
    Trouble::Space,
    Trouble::Freeze,
    Trouble::Journal,
    Trouble::Pins,
    Trouble::HugeZero,
    Trouble::Placement,
    Trouble::Signals,
    Trouble::PowerCut,
];

/// One seed's choice.
#[derive(Clone, Debug)]
pub struct Config {
    pub seed: u64,
    /// Turns after which no new operation begins.
    pub steps: u64,
    /// The lengths at the start.
    pub sizes: Vec<u64>,
    /// Pages that a file can have.
    pub max_pages: u64,
    /// The pages that are looked at.
    pub pages: Vec<u64>,
    pub workers: usize,
    pub processes: usize,
    pub cpus: usize,
    pub wait_bits: u32,
    pub first_frame: u64,
    pub contiguous_limit: Option<u64>,
    pub freed: Freed,
    pub placement: Placement,
    /// Faults ask for so many pages behind theirs.
    pub ahead: u64,
    /// One in so many mappings is private, has 4 KiB translations only, is misaligned, is a MAP_SYNC one.
    pub private_in: u64,
    pub small_in: u64,
    pub misaligned_in: u64,
    pub synchronous_in: u64,
    /// With the sum of the weights up to each.
    pub ops: Vec<(Op, u64)>,
    pub troubles: Vec<Trouble>,
}

impl Config {
    /// What `seed` draws.
    pub fn draw(seed: u64, steps: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x5357_4152_4d21);
        let units = 1 + prng.below(3);
        let max_pages = units * PMD_PAGES + prng.below(2) * prng.below(PMD_PAGES);
        let pages = Self::draw_pages(&mut prng, max_pages);
        let files = 1 + prng.place(3);
        let sizes = (0..files).map(|_| prng.below(max_pages * 4 + 1).min(max_pages) * PAGE_BYTES);
        let sizes = sizes.collect();
        let troubles: Vec<Trouble> = TROUBLES.into_iter().filter(|_| prng.chance(1, 3)).collect();
        let cuts_power = troubles.contains(&Trouble::PowerCut);
        Self {
            seed,
            steps,
            sizes,
            max_pages,
            pages,
            workers: 2 + prng.place(5),
            processes: 1 + prng.place(3),
            cpus: 1 + prng.place(4),
            wait_bits: [1, 1, 2, 6][prng.place(4)],
            first_frame: if prng.chance(1, 8) { 7 } else { 0 },
            contiguous_limit: if prng.chance(1, 10) { Some(1 + prng.below(4)) } else { None },
            // Else what a power cut brings back may be somebody else's by now, as on a device without a journal.
            freed: if cuts_power { Freed::AfterCommit } else { Freed::AtOnce },
            placement: Self::draw_placement(&mut prng),
            ahead: if prng.chance(1, 4) { 1 + prng.below(1200) } else { 0 },
            private_in: 1 + prng.below(5),
            small_in: 1 + prng.below(5),
            misaligned_in: 2 + prng.below(8),
            synchronous_in: if prng.chance(1, 2) { u64::MAX } else { 1 + prng.below(4) },
            ops: Self::draw_ops(&mut prng),
            troubles,
        }
    }

    /// Some where units meet, some inside, the first and the last.
    fn draw_pages(prng: &mut Prng, max_pages: u64) -> Vec<u64> {
        let mut pages: Vec<u64> =
            vec![0, 1, 2, 3, 5, 510, 511, 512, 513, 514, 700, 1023, 1024, 1025];
        pages.push(max_pages - 1);
        pages.retain(|page| *page < max_pages);
        pages.sort_unstable();
        pages.dedup();
        let wanted = 2 + prng.place(7);
        while pages.len() > wanted {
            pages.remove(prng.place(pages.len()));
        }
        pages
    }

    pub fn draw_placement(prng: &mut Prng) -> Placement {
        match prng.below(6) {
            0 => Placement::Misaligned,
            1 => Placement::Fragmented { longest_run: 1 + prng.below(600) },
            _ => Placement::Aligned,
        }
    }

    fn draw_ops(prng: &mut Prng) -> Vec<(Op, u64)> {
        let mut sum = 0;
        let mut ops = Vec::new();
        let rare = 1 + prng.below(4);
        for (op, weight) in WEIGHTS {
            let is_access = matches!(op, Op::Load | Op::Store);
            if !is_access && !matches!(op, Op::Map) && prng.chance(1, 2) {
                continue;
            }
            let boost = if prng.chance(1, 6) { 5 } else { 1 };
            sum += if is_access { weight } else { (weight * boost).div_ceil(rare) };
            ops.push((op, sum));
        }
        ops
    }

    /// What is done next.
    pub fn op(&self, prng: &mut Prng) -> Op {
        let sum = self.ops.last().map_or(1, |(_, sum)| *sum);
        let drawn = prng.below(sum);
        self.ops.iter().find(|(_, sum)| drawn < *sum).map_or(Op::Load, |(op, _)| *op)
    }

    /// Whether the media may say that storage is poisoned.
    pub fn may_meet_poison(&self) -> bool {
        self.has(Trouble::Calls) || self.ops.iter().any(|(op, _)| *op == Op::Poison)
    }

    /// Whether there may be no 2 MiB of storage in one aligned piece.
    pub fn lacks_huge_storage(&self) -> bool {
        !self.first_frame.is_multiple_of(PMD_PAGES)
            || self.placement != Placement::Aligned
            || self.has(Trouble::Placement)
    }

    pub fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }
}
