//! What is measured: patterns of access, and what each is to reach.

use super::engine::{self, Part};
use super::goal::{Against, Goal, Quantity, Where};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A pattern of access.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pattern {
    /// Load eight bytes of every page of a hole.
    ReadHole,
    /// Load every byte of a hole.
    ScanHole,
    /// Store eight bytes to every page of a hole, in order.
    WriteSequential,
    /// Store eight bytes to one page in every 64 KiB of a hole, in order.
    WriteStrided,
    /// Store eight bytes to a tenth of the pages of a hole, in random order.
    WriteRandom,
    /// Store to a hundredth of the pages of a hole at random, then load from every page.
    Mixed,
    /// Store to every page of the half of a sparse file that has data.
    Rewrite,
    /// Load from a tenth of the pages of the half of a sparse file that has data, in random order.
    ReadRandom,
    /// Store to 64 random pages of a hole and msync(2) all of it, 50 times.
    SyncRandom,
    /// Map a file of 16 TiB, load a byte in every GiB, unmap it.
    SparseTouch,
    /// Map a file of 64 KiB, load a byte, unmap it, 10,000 times.
    MapSmall,
    /// Two threads store to every page, each in a half of its own; the floor is udax with one thread in one half.
    StormApart,
    /// Two threads store to every page of the same 2 MiB at the same time, one 2 MiB after the other.
    StormTogether,
    /// One store to a hole that is served in user space, a thousand times; for the others any first store.
    StoreLatency,
    /// The engine alone: take the lock of one of a million entries and give it back, twenty million times; beside a parking_lot mutex.
    EngineLock,
    /// The engine alone: look a million entries up in random order, four times; beside a BTreeMap.
    EngineLookupRandom,
    /// The same in order.
    EngineLookupInOrder,
    /// The engine alone: the memory of a million entries side by side.
    EngineMemory,
    /// The engine alone: the instructions of a load from a hole, on page tables that cost nothing; beside Linux's own, whose page tables do.
    EngineHoleFault,
    /// The same of a first store to a hole.
    EngineWriteFault,
}

impl Pattern {
    /// All of them, in the order of the table.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether the file has data from the start, in one half.
    pub(crate) const fn has_data(self) -> bool {
        matches!(self, Self::Rewrite | Self::ReadRandom)
    }

    /// Whether there is a floor to compare with.
    pub(crate) const fn has_floor(self) -> bool {
        self.part().is_none() && !matches!(self, Self::SyncRandom | Self::StormTogether)
    }

    /// The part of the engine that it is about, if it is about the engine alone.
    pub(crate) const fn part(self) -> Option<Part> {
        Some(match self {
            Self::EngineLock => Part::Lock,
            Self::EngineLookupRandom => Part::LookupRandom,
            Self::EngineLookupInOrder => Part::LookupInOrder,
            Self::EngineMemory => Part::Memory,
            Self::EngineHoleFault => Part::HoleFault,
            Self::EngineWriteFault => Part::WriteFault,
            Self::ReadHole
            | Self::ScanHole
            | Self::WriteSequential
            | Self::WriteStrided
            | Self::WriteRandom
            | Self::Mixed
            | Self::Rewrite
            | Self::ReadRandom
            | Self::SyncRandom
            | Self::SparseTouch
            | Self::MapSmall
            | Self::StormApart
            | Self::StormTogether
            | Self::StoreLatency => return None,
        })
    }

    /// With what udax is compared.
    pub(crate) fn other(self) -> &'static str {
        self.part().map_or("plain", Part::peer)
    }

    /// What it is to reach.
    pub(crate) fn goals(self) -> Vec<Goal> {
        use Against::{Floor, Plain};
        use Quantity::{Instructions, Memory, Storage, Tail, Time, Typical};
        let goal = Goal::new;
        match self {
            Self::ReadHole => vec![
                goal(Time, Floor, 1.5),
                goal(Time, Plain, 1.0 / 200.0).only(Where::Tmpfs),
                goal(Time, Plain, 1.0 / 20.0).only(Where::Disk),
            ],
            Self::ScanHole => vec![goal(Time, Floor, 1.25)],
            Self::WriteSequential => vec![
                goal(Time, Plain, 0.9).only(Where::Tmpfs),
                goal(Time, Plain, 1.05).only(Where::Disk),
            ],
            Self::WriteStrided => vec![goal(Time, Plain, 1.1)],
            Self::WriteRandom => vec![goal(Time, Plain, 1.1), goal(Storage, Plain, 1.25)],
            Self::Mixed => {
                // A disk's file system gives no storage to a page that is loaded: there is nothing to halve.
                vec![
                    goal(Time, Plain, 0.5),
                    goal(Memory, Plain, 0.5),
                    goal(Storage, Plain, 0.5).only(Where::Tmpfs),
                ]
            }
            Self::Rewrite | Self::ReadRandom => vec![goal(Time, Plain, 1.05)],
            Self::SyncRandom => vec![goal(Time, Plain, 1.1)],
            Self::SparseTouch => vec![goal(Time, Plain, 3.0), goal(Memory, Plain, 1.0)],
            Self::MapSmall => vec![goal(Time, Plain, 3.0)],
            // Twice the work of one thread, at 1.7 times its speed.
            Self::StormApart => vec![goal(Time, Floor, 2.0 / 1.7)],
            Self::StormTogether => vec![],
            Self::StoreLatency => vec![goal(Typical, Plain, 4.0), goal(Tail, Plain, 20.0)],
            Self::EngineLock => vec![goal(Time, Plain, 3.0)],
            Self::EngineLookupRandom | Self::EngineLookupInOrder => {
                vec![goal(Time, Plain, 1.0 / 3.0)]
            }
            Self::EngineMemory => vec![Goal::value(Memory, 12.0 * engine::ENTRIES as f64)],
            Self::EngineHoleFault => vec![Goal::value(Instructions, 1500.0)],
            Self::EngineWriteFault => vec![Goal::value(Instructions, 2500.0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_has_a_name_and_no_goal_lacks_its_floor() {
        for &pattern in Pattern::all() {
            assert!(!pattern.name().is_empty());
            let needs_floor = pattern.goals().iter().any(|goal| goal.against == Against::Floor);
            assert!(!needs_floor || pattern.has_floor(), "{}", pattern.name());
        }
    }
}
