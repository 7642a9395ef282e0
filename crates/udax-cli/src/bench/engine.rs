//! The engine alone: its lock, its index, and whole faults on page tables that cost nothing, beside what does the same work elsewhere.

use super::sample::Sample;
use super::way::Way;
use super::work::Order;
use super::worker::Task;
use crate::account::Memory;
use anyhow::{Context, bail};
use std::process::Command;
use std::time::Instant;
use udax_bench::{Entries, EntryLock, EntryWord, InBTreeMap, InIndex};

/// Entries in the index.
pub(super) const ENTRIES: u64 = 1_000_000;
/// How often a lock is taken.
const LOCKINGS: u32 = 20_000_000;
/// How often every entry is looked up.
const LOOKUP_ROUNDS: usize = 4;
/// Faults whose instructions are counted: those of twice as many, less those of so many.
const FAULTS: u64 = 20_000;
/// What Linux 6.1 on ext4 takes for the same, in instructions: a load from a hole and a first store, of a file mapped with DAX; its page tables
/// and its file system are included.
const LINUX_HOLE_FAULT: u64 = 3_800;
const LINUX_WRITE_FAULT: u64 = 34_000;

/// A part of the engine, and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Lock,
    LookupRandom,
    LookupInOrder,
    Memory,
    HoleFault,
    WriteFault,
}

impl Part {
    /// With what it is compared.
    pub(super) const fn peer(self) -> &'static str {
        match self {
            Self::Lock => "parking_lot",
            Self::LookupRandom | Self::LookupInOrder | Self::Memory => "BTreeMap",
            Self::HoleFault | Self::WriteFault => "Linux",
        }
    }

    /// Whether every run counts the same.
    pub(super) const fn is_exact(self) -> bool {
        matches!(self, Self::HoleFault | Self::WriteFault)
    }

    /// Why it cannot be measured here, if it cannot.
    pub(super) fn missing(self) -> Option<&'static str> {
        let has_valgrind = || Command::new("valgrind").arg("--version").output().is_ok();
        (self.is_exact() && !has_valgrind()).then_some("valgrind is not installed")
    }
}

/// One run, in the process that is measured.
///
/// # Errors
/// If the process's memory or its instructions cannot be counted.
pub(super) fn run(part: Part, task: &Task) -> anyhow::Result<Sample> {
    match (part, task.way) {
        (Part::HoleFault | Part::WriteFault, Way::Udax) => count_instructions(task),
        (Part::HoleFault, Way::Plain) => Ok(of_instructions(LINUX_HOLE_FAULT)),
        (Part::WriteFault, Way::Plain) => Ok(of_instructions(LINUX_WRITE_FAULT)),
        // Inside of valgrind: the faults that are counted, and nothing else.
        (Part::HoleFault, Way::Floor) => Ok(timed(|| udax_bench::hole_faults(task.size_bytes))),
        (Part::WriteFault, Way::Floor) => Ok(timed(|| udax_bench::write_faults(task.size_bytes))),
        (Part::Lock, Way::Udax) => {
            let lock = EntryLock::among(ENTRIES);
            Ok(timed(|| (0..LOCKINGS).for_each(|_| lock.take())))
        }
        (Part::Lock, _) => {
            let word = EntryWord::default();
            Ok(timed(|| (0..LOCKINGS).for_each(|_| word.take())))
        }
        (Part::Memory, Way::Udax) => memory::<InIndex>(),
        (Part::Memory, _) => memory::<InBTreeMap>(),
        (Part::LookupRandom | Part::LookupInOrder, Way::Udax) => look_up::<InIndex>(part, task),
        (Part::LookupRandom | Part::LookupInOrder, _) => look_up::<InBTreeMap>(part, task),
    }
}

fn of_instructions(instructions: u64) -> Sample {
    Sample { instructions, ..Sample::default() }
}

fn timed<R>(work: impl FnOnce() -> R) -> Sample {
    let begun = Instant::now();
    std::hint::black_box(work());
    let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Sample { nanos, ..Sample::default() }
}

fn look_up<E: Entries>(part: Part, task: &Task) -> anyhow::Result<Sample> {
    let entries = E::with(0..ENTRIES);
    let count = usize::try_from(ENTRIES)?;
    let pages: Vec<u64> = if part == Part::LookupRandom {
        Order::new(task.seed).pick(count, count).into_iter().map(|page| page as u64).collect()
    } else {
        (0..ENTRIES).collect()
    };
    Ok(timed(|| (0..LOOKUP_ROUNDS).map(|_| entries.find(&pages)).sum::<u64>()))
}

fn memory<E: Entries>() -> anyhow::Result<Sample> {
    let before = Memory::now()?;
    let entries = E::with(0..ENTRIES);
    let grown = Memory::now()?.since(before);
    let mut sample = timed(|| entries.walk(0, ENTRIES));
    sample.memory_bytes = grown.rss_bytes;
    Ok(sample)
}

fn count_instructions(task: &Task) -> anyhow::Result<Sample> {
    let (once, twice) = (instructions_of(task, FAULTS)?, instructions_of(task, 2 * FAULTS)?);
    Ok(of_instructions(twice.saturating_sub(once) / FAULTS))
}

/// The instructions of a process that takes `count` faults.
fn instructions_of(task: &Task, count: u64) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let inner = Task { way: Way::Floor, size_bytes: count, ..task.clone() };
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["bench", "--task", &serde_json::to_string(&inner)?])
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind ended with {}: {said}", output.status);
    }
    counted(&said).with_context(|| format!("valgrind did not say how many instructions: {said}"))
}

/// The number in callgrind's line `==123== Collected : 4567`.
fn counted(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_count_is_found() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==\n";
        assert_eq!(counted(said), Some(1_234_567));
        assert_eq!(counted("==7== nothing"), None);
    }
}
