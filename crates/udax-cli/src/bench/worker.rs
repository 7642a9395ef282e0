//! One run of a pattern, in a process of its own, so that nothing is left over from the run before.

use super::engine;
use super::pattern::Pattern;
use super::sample::Sample;
use super::way::{self, Memory, Way};
use super::work::{self, Order};
use crate::account::{self, Memory as Account};
use crate::output::print;
use crate::place::Place;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;
/// As large as a file of ext4 can be, in whole 2 MiB.
const SPARSE_BYTES: u64 = (16 << 40) - HUGE;
const SMALL_BYTES: u64 = 64 << 10;
const SMALL_ROUNDS: u64 = 10_000;
/// Single stores whose latency is measured, each in 2 MiB of its own.
const LATENCIES: u64 = 1000;
const SYNC_ROUNDS: usize = 50;
const SYNC_PAGES: usize = 64;
const STORM_THREADS: usize = 2;

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) pattern: Pattern,
    pub(crate) way: Way,
    pub(crate) directory: PathBuf,
    pub(crate) size_bytes: u64,
    pub(crate) seed: u64,
}

/// Does what the task says and prints the sample as JSON.
///
/// # Errors
/// If the file or the memory cannot be had.
pub(crate) fn work(task: &str) -> anyhow::Result<()> {
    let task: Task = serde_json::from_str(task).context("this is no task of `udax bench`")?;
    print(&serde_json::to_string(&run(&task)?)?)
}

fn run(task: &Task) -> anyhow::Result<Sample> {
    if let Some(part) = task.pattern.part() {
        return engine::run(part, task);
    }
    let place = Place::choose(Some(&task.directory))?;
    let file = place.make(file_bytes(task))?;
    if task.pattern.has_data() {
        fill(&file, task.size_bytes)?;
    }
    warm_up(task.way, &place)?;
    let bench = Bench { task, file: &file };
    if task.pattern == Pattern::MapSmall {
        return bench.map_small();
    }
    match task.way {
        // Here the floor is the work of one thread.
        Way::Floor if task.pattern == Pattern::StormApart => bench.measure(way::udax, 1),
        Way::Plain => bench.measure(way::plain, STORM_THREADS),
        Way::Udax => bench.measure(way::udax, STORM_THREADS),
        Way::Floor => bench.measure(|file| way::floor(file, floor_is_huge(task.pattern)), 1),
    }
}

/// Whether the kernel's best for a pattern is huge pages: where nothing is stored, for they would be memory.
const fn floor_is_huge(pattern: Pattern) -> bool {
    matches!(pattern, Pattern::ReadHole | Pattern::ScanHole | Pattern::SparseTouch)
}

fn file_bytes(task: &Task) -> u64 {
    const FIXED: [(Pattern, u64); 3] = [
        (Pattern::SparseTouch, SPARSE_BYTES),
        (Pattern::MapSmall, SMALL_BYTES),
        (Pattern::StoreLatency, LATENCIES * HUGE),
    ];
    match FIXED.iter().find(|(pattern, _)| *pattern == task.pattern) {
        Some((_, bytes)) => *bytes,
        None if task.pattern.has_data() => 2 * task.size_bytes,
        None => task.size_bytes,
    }
}

/// Writes data to the first `bytes` of the file.
fn fill(file: &File, bytes: u64) -> anyhow::Result<()> {
    let chunk = vec![0xda; usize::try_from(HUGE)?];
    for at in (0..bytes).step_by(chunk.len()) {
        file.write_all_at(&chunk, at).context("cannot fill the file")?;
    }
    file.sync_all().context("cannot sync the file")
}

/// Has what there is but once in a process: threads, code, buffers.
fn warm_up(way: Way, place: &Place) -> anyhow::Result<()> {
    let file = place.make(4 * HUGE)?;
    if way == Way::Udax {
        let map = way::udax(&file)?;
        work::load_pages(&map, 0..1024);
        work::store_pages(&map, 0..1024);
    }
    Ok(())
}

struct Bench<'a> {
    task: &'a Task,
    file: &'a File,
}

/// What a process has, before and after.
struct Before {
    memory: Account,
    storage_bytes: u64,
    kernel_faults: u64,
    user_space_faults: u64,
    calls: u64,
    vmas: u64,
}

impl Bench<'_> {
    fn before(&self) -> anyhow::Result<Before> {
        Ok(Before {
            memory: Account::now()?,
            storage_bytes: self.storage_bytes()?,
            kernel_faults: account::page_faults()?,
            user_space_faults: udax::statistics().faults,
            calls: udax::statistics().calls,
            vmas: account::vmas()?,
        })
    }

    fn storage_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn since(&self, before: &Before, time: Duration) -> anyhow::Result<Sample> {
        let now = self.before()?;
        let memory = now.memory.since(before.memory);
        Ok(Sample {
            nanos: u64::try_from(time.as_nanos())?,
            memory_bytes: memory.rss_bytes + memory.table_bytes,
            storage_bytes: now.storage_bytes.saturating_sub(before.storage_bytes),
            kernel_faults: now.kernel_faults - before.kernel_faults,
            user_space_faults: now.user_space_faults - before.user_space_faults,
            calls: now.calls - before.calls,
            vmas: now.vmas.saturating_sub(before.vmas),
            ..Sample::default()
        })
    }

    fn measure<M: Memory>(
        &self,
        map: impl FnOnce(&File) -> anyhow::Result<M>,
        threads: usize,
    ) -> anyhow::Result<Sample> {
        if self.task.pattern == Pattern::SparseTouch {
            return self.sparse(map);
        }
        let pages = usize::try_from(self.task.size_bytes / PAGE)?;
        let mut order = Order::new(self.task.seed);
        let pattern = self.task.pattern;
        let picked = if matches!(pattern, Pattern::WriteRandom | Pattern::ReadRandom) {
            order.pick(pages, pages / 10)
        } else if pattern == Pattern::Mixed {
            order.pick(pages, pages / 100)
        } else if pattern == Pattern::StoreLatency {
            let units = usize::try_from(LATENCIES)?;
            order.pick(units, units)
        } else {
            Vec::new()
        };
        let rounds = if pattern == Pattern::SyncRandom { SYNC_ROUNDS } else { 0 };
        let rounds: Vec<_> = (0..rounds).map(|_| order.pick(pages, SYNC_PAGES)).collect();
        let memory = map(self.file)?;
        if self.task.way == Way::Floor && pattern.has_data() {
            work::store_pages(&memory, 0..pages);
        }
        let before = self.before()?;
        let begun = Instant::now();
        let mut stored = Vec::new();
        let own_time = match pattern {
            Pattern::ReadHole => timed(|| work::load_pages(&memory, 0..pages)),
            Pattern::ScanHole => timed(|| work::scan(&memory)),
            Pattern::WriteSequential | Pattern::Rewrite => {
                timed(|| work::store_pages(&memory, 0..pages))
            }
            Pattern::WriteStrided => timed(|| work::store_pages(&memory, (0..pages).step_by(16))),
            Pattern::WriteRandom => timed(|| work::store_pages(&memory, picked)),
            Pattern::ReadRandom => timed(|| work::load_pages(&memory, picked)),
            Pattern::Mixed => timed(|| {
                work::store_pages(&memory, picked);
                work::load_pages(&memory, 0..pages)
            }),
            Pattern::SyncRandom => {
                work::store_and_sync(&memory, &rounds)?;
                begun.elapsed()
            }
            Pattern::StormApart => {
                // One thread has half of it.
                let length = memory.length() / STORM_THREADS * threads;
                work::storm_apart(&memory, length, threads)
            }
            Pattern::StormTogether => work::storm_together(&memory, threads),
            Pattern::StoreLatency => {
                stored = self.latencies(&memory, &picked);
                begun.elapsed()
            }
            // Measured elsewhere.
            Pattern::SparseTouch
            | Pattern::MapSmall
            | Pattern::EngineLock
            | Pattern::EngineLookupRandom
            | Pattern::EngineLookupInOrder
            | Pattern::EngineMemory
            | Pattern::EngineHoleFault
            | Pattern::EngineWriteFault => Duration::ZERO,
        };
        let sample = self.since(&before, own_time)?;
        Ok(Sample { latencies: stored, ..sample })
    }

    fn latencies(&self, memory: &impl Memory, units: &[usize]) -> Vec<u64> {
        let mut served = udax::statistics().faults;
        work::latencies(memory, units, || {
            let now = udax::statistics().faults;
            let is_served = std::mem::replace(&mut served, now) != now;
            self.task.way != Way::Udax || is_served
        })
    }

    /// Mapping and unmapping count here.
    fn sparse<M: Memory>(
        &self,
        map: impl FnOnce(&File) -> anyhow::Result<M>,
    ) -> anyhow::Result<Sample> {
        let before = self.before()?;
        let begun = Instant::now();
        let memory = map(self.file)?;
        work::touch(&memory, 1 << 30);
        let touched = begun.elapsed();
        let sample = self.since(&before, touched)?;
        let unmapped = timed(|| drop(memory));
        Ok(Sample { nanos: u64::try_from((touched + unmapped).as_nanos())?, ..sample })
    }

    fn map_small(&self) -> anyhow::Result<Sample> {
        let before = self.before()?;
        let begun = Instant::now();
        for _ in 0..SMALL_ROUNDS {
            match self.task.way {
                Way::Plain => work::touch(&way::plain(self.file)?, usize::MAX),
                Way::Udax => work::touch(&way::udax(self.file)?, usize::MAX),
                Way::Floor => work::touch(&way::floor(self.file, false)?, usize::MAX),
            }
        }
        self.since(&before, begun.elapsed())
    }
}

fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let begun = Instant::now();
    std::hint::black_box(work());
    begun.elapsed()
}
