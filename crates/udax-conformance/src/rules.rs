//! Which differences from a recording are allowed: each a rule over events or fields, with the kernels and file systems that it is
//! about and its reason. `docs/conformance.md` says the same for readers; a test holds the two together.

use crate::flavour::{Flavour, FsKind, Kernel};
use std::collections::BTreeMap;

/// An allowed difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the table says what each is")]
pub enum Rule {
    InsertEventsGone,
    VmaLockFlag,
    VmaLockRetry,
    MajorNotTraced,
    ColourBeforeEnd,
    DirtyOnRead,
    ZeroEntryLeft,
    StoresPastEnd,
    MisalignedStaysWritable,
    HugeStorageInRss,
    CursorInDoneEvent,
    FlushBeforeLayoutChange,
    MarkAfterLayoutChange,
    PrivateStoreNotAsked,
    ForkedStack,
    CopyTriedAgain,
    MetadataBlocks,
}

/// Whether a rule must have been of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The recordings of this repository need it: unused, it is stale.
    Needed,
    /// It is for recordings of the same kind that are not here.
    Unseen,
}

/// Why a difference is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Kernels differ among themselves, and another one is followed.
    OtherKernel,
    /// The file system's or the memory manager's own choice, or timing.
    OwnChoice,
    /// Linux has (or had) a bug there; the engine is held to the better behaviour.
    Better,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which.
    pub rule: Rule,
    /// Its name, as the documentation and the reports have it.
    pub name: &'static str,
    /// The kernels whose recordings it is about.
    pub kernels: &'static [Kernel],
    /// Their file systems.
    pub file_systems: &'static [FsKind],
    /// The kind of its reason.
    pub why: Why,
    /// Whether it has to be of use here.
    pub coverage: Coverage,
    /// The reason.
    pub reason: &'static str,
}

use Coverage::{Needed, Unseen};
use FsKind::{Ext4, Xfs};
use Kernel::{V5_10, V6_1, V6_12};
use Why::{Better, OtherKernel, OwnChoice};

const BOTH: &[FsKind] = &[Ext4, Xfs];
const ALL: &[Kernel] = &[V5_10, V6_1, V6_12];

/// All rules.
pub const TABLE: &[Entry] = &[
    Entry {
        rule: Rule::InsertEventsGone,
        name: "insert-events-gone",
        kernels: &[V6_1, V6_12],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "5.10 traces dax_insert_mapping and dax_pmd_insert_mapping, later kernels do not; the engine does",
    },
    Entry {
        rule: Rule::VmaLockFlag,
        name: "vma-lock-flag",
        kernels: &[V6_12],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "faults under the lock of one VMA carry VMA_LOCK; the engine has no such lock",
    },
    Entry {
        rule: Rule::VmaLockRetry,
        name: "vma-lock-retry",
        kernels: &[V6_12],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "where a 4 KiB fault must take the lock of all VMAs, the 2 MiB attempt before it is made a second time",
    },
    Entry {
        rule: Rule::MajorNotTraced,
        name: "major-not-traced",
        kernels: &[V5_10],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "5.10 counts an allocating small store as major and does not trace it; later kernels and the engine do",
    },
    Entry {
        rule: Rule::ColourBeforeEnd,
        name: "colour-before-end",
        kernels: &[V5_10],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "5.10 tests the colours before the end of the file: a misaligned access wholly beyond it falls back first, and the small \
                 fault has the SIGBUS that the 2 MiB one has later",
    },
    Entry {
        rule: Rule::DirtyOnRead,
        name: "dirty-on-read",
        kernels: &[V6_1],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "6.1 marks entries dirty on read faults too, so that a sync writes back what was only read",
    },
    Entry {
        rule: Rule::ZeroEntryLeft,
        name: "zero-entry-left",
        kernels: &[V6_1],
        file_systems: BOTH,
        why: Better,
        coverage: Needed,
        reason: "6.1 keeps the (dirty) zero entry when a write fills the hole; the others and the engine drop it",
    },
    Entry {
        rule: Rule::StoresPastEnd,
        name: "stores-past-end",
        kernels: &[V5_10, V6_1],
        file_systems: &[Ext4],
        why: Better,
        coverage: Needed,
        reason: "bytes stored behind the end of the file in its last page show when the file grows; XFS, 6.12 and the engine show zeros",
    },
    Entry {
        rule: Rule::MisalignedStaysWritable,
        name: "misaligned-stays-writable",
        kernels: &[V5_10],
        file_systems: BOTH,
        why: Better,
        coverage: Needed,
        reason: "5.10 forgets the small translations of a misaligned mapping when it write-protects a 2 MiB entry, so later stores are \
                 not tracked; the engine is held to the mended behaviour",
    },
    Entry {
        rule: Rule::HugeStorageInRss,
        name: "huge-storage-in-rss",
        kernels: &[V5_10, V6_1],
        file_systems: BOTH,
        why: OtherKernel,
        coverage: Needed,
        reason: "5.10 and 6.1 count 4 KiB of resident memory for each 2 MiB translation to storage",
    },
    Entry {
        rule: Rule::CursorInDoneEvent,
        name: "cursor-in-done-event",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Needed,
        reason: "the first page in dax_writeback_range_done is where Linux's walk of its tree stopped; the engine tells where the range began",
    },
    Entry {
        rule: Rule::FlushBeforeLayoutChange,
        name: "flush-before-layout-change",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Needed,
        reason: "whether a file system flushes before it truncates, punches, zeroes or shifts, and which range, is its own choice and \
                 differs by kernel; the engine flushes at least what would be lost with a 2 MiB entry that sticks out",
    },
    Entry {
        rule: Rule::MarkAfterLayoutChange,
        name: "mark-after-layout-change",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Needed,
        reason: "so an entry that was dirty before such a change may be clean or dirty after it, and be flushed by the next sync or not",
    },
    Entry {
        rule: Rule::PrivateStoreNotAsked,
        name: "private-store-not-asked",
        kernels: &[V6_12],
        file_systems: &[Xfs],
        why: OtherKernel,
        coverage: Needed,
        reason: "XFS in 6.12 does not bring a store to a private 2 MiB translation before DAX: the attempt that falls back is not made",
    },
    Entry {
        rule: Rule::ForkedStack,
        name: "forked-stack",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Needed,
        reason: "a forked child copies pages of its own stack and heap, which count as faults of the operation at work",
    },
    Entry {
        rule: Rule::CopyTriedAgain,
        name: "copy-tried-again",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Needed,
        reason: "the kernel's copy routines try once more, byte by byte, where a buffer cannot be had: the failing fault shows twice",
    },
    Entry {
        rule: Rule::MetadataBlocks,
        name: "metadata-blocks",
        kernels: ALL,
        file_systems: BOTH,
        why: OwnChoice,
        coverage: Unseen,
        reason: "blocks512 counts what a file system needs for itself to find many extents",
    },
];

impl Rule {
    /// Its line of the table.
    ///
    /// # Panics
    /// If the table does not have it, which a test excludes.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        TABLE.iter().find(|entry| entry.rule == self).expect("every rule is in the table")
    }

    /// Whether it is about recordings of this kind.
    #[must_use]
    pub fn covers(self, flavour: Flavour) -> bool {
        let entry = self.entry();
        entry.kernels.contains(&flavour.kernel) && entry.file_systems.contains(&flavour.fs)
    }
}

/// The rules for one comparison, and how often each was of use.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What the recording is of.
    pub flavour: Flavour,
    applied: BTreeMap<Rule, u64>,
}

impl Rules {
    /// None has been of use yet.
    #[must_use]
    pub fn new(flavour: Flavour) -> Self {
        Self { flavour, applied: BTreeMap::new() }
    }

    /// Allows a difference if the rule is about this kind of recording, and notes that it was of use.
    pub fn allow(&mut self, rule: Rule) -> bool {
        let allowed = rule.covers(self.flavour);
        if allowed {
            *self.applied.entry(rule).or_insert(0) += 1;
        }
        allowed
    }

    /// How often each was of use.
    #[must_use]
    pub fn applied(&self) -> &BTreeMap<Rule, u64> {
        &self.applied
    }
}

/// Rules that the recordings at hand should have needed and did not.
#[must_use]
pub fn stale(applied: &BTreeMap<Rule, u64>) -> Vec<&'static Entry> {
    let unused = |entry: &&Entry| !applied.contains_key(&entry.rule);
    TABLE.iter().filter(|entry| entry.coverage == Coverage::Needed).filter(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_the_table_once_and_has_a_reason() {
        for entry in TABLE {
            let same = TABLE.iter().filter(|other| other.rule == entry.rule).count();
            let named = TABLE.iter().filter(|other| other.name == entry.name).count();
            assert_eq!((same, named, entry.reason.len() > 40), (1, 1, true), "{}", entry.name);
        }
    }
}
