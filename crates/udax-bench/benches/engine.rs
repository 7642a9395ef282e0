//! The engine alone: `cargo bench -p udax-bench --bench engine`.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use udax_bench::{Entries, EntryLock, EntryWord, InBTreeMap, InIndex, hole_faults, write_faults};
use udax_core::PageIndex;

const SIZES: [u64; 3] = [1_000, 1_000_000, 10_000_000];
/// Look-ups in one round.
const LOOKUPS: u64 = 10_000;

/// A sharded hash map, for look-ups alone: it knows no order.
#[derive(Default)]
struct InDashMap(DashMap<u64, u64>);

impl Entries for InDashMap {
    fn insert(&mut self, page: u64) {
        self.0.insert(page, page);
    }

    fn has(&self, page: u64) -> bool {
        self.0.contains_key(&page)
    }

    fn walk(&self, start: u64, end: u64) -> u64 {
        (start..end).map(|page| u64::from(self.has(page))).sum()
    }
}

/// Two threads, `rounds` each; the time from when both are ready until both are done.
fn two_threads(rounds: u64, act: impl Fn() + Sync) -> Duration {
    let (ready, act) = (&Barrier::new(3), &act);
    let begun = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                ready.wait();
                (0..rounds).for_each(|_| act());
            });
        }
        let begun = Instant::now();
        ready.wait();
        begun
    });
    begun.elapsed()
}

fn locks(c: &mut Criterion) {
    let mut group = c.benchmark_group("lock and unlock");
    let (entry, word) = (EntryLock::among(1_000_000), EntryWord::default());
    group.bench_function("entry", |b| b.iter(|| entry.take()));
    group.bench_function("parking_lot mutex", |b| b.iter(|| word.take()));
    group.bench_function("entry, two threads", |b| {
        b.iter_custom(|rounds| two_threads(rounds, || entry.take()));
    });
    group.bench_function("parking_lot mutex, two threads", |b| {
        b.iter_custom(|rounds| two_threads(rounds, || word.take()));
    });
    group.finish();
}

fn lookups_of<E: Entries>(c: &mut Criterion, name: &str) {
    let mut group = c.benchmark_group("look-up");
    group.throughput(Throughput::Elements(LOOKUPS));
    for size in SIZES {
        let entries = E::with(0..size);
        let mut random = fastrand::Rng::with_seed(1);
        let scattered: Vec<u64> = (0..LOOKUPS).map(|_| random.u64(..size)).collect();
        let in_order: Vec<u64> = (0..LOOKUPS).map(|page| page % size).collect();
        for (order, pages) in [("random", &scattered), ("in order", &in_order)] {
            group.bench_with_input(BenchmarkId::new(format!("{name}, {order}"), size), pages, {
                |b, pages| b.iter(|| entries.find(pages))
            });
        }
    }
    group.finish();
}

fn lookups(c: &mut Criterion) {
    lookups_of::<InIndex>(c, "index");
    lookups_of::<InBTreeMap>(c, "BTreeMap");
    lookups_of::<InDashMap>(c, "DashMap");
}

fn inserts_of<E: Entries>(c: &mut Criterion, name: &str) {
    let mut group = c.benchmark_group("insert");
    group.sample_size(10);
    for size in [1_000, 1_000_000] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter_batched(|| (), |()| E::with(0..size), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn inserts(c: &mut Criterion) {
    inserts_of::<InIndex>(c, "index");
    inserts_of::<InBTreeMap>(c, "BTreeMap");
    inserts_of::<InDashMap>(c, "DashMap");
}

fn walks(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk over 10,000 entries");
    group.throughput(Throughput::Elements(LOOKUPS));
    for size in [1_000_000, 10_000_000] {
        let (index, map) = (InIndex::with(0..size), InBTreeMap::with(0..size));
        let start = size / 2;
        group.bench_function(BenchmarkId::new("index", size), |b| {
            b.iter(|| index.walk(black_box(start), start + LOOKUPS));
        });
        group.bench_function(BenchmarkId::new("BTreeMap", size), |b| {
            b.iter(|| map.walk(black_box(start), start + LOOKUPS));
        });
    }
    group.finish();
}

fn marks(c: &mut Criterion) {
    let mut group = c.benchmark_group("mark and clear");
    for size in SIZES {
        let mut index = InIndex::with(0..size);
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| index.0.mark_and_clear(black_box(PageIndex(size / 2))));
        });
    }
    group.finish();
}

fn faults(c: &mut Criterion) {
    const FAULTS: u64 = 10_000;
    let mut group = c.benchmark_group("whole fault on free page tables");
    group.throughput(Throughput::Elements(FAULTS));
    group.bench_function("load from a hole", |b| b.iter(|| hole_faults(FAULTS)));
    group.bench_function("first store", |b| b.iter(|| write_faults(FAULTS)));
    group.finish();
}

criterion_group!(benches, locks, lookups, inserts, walks, marks, faults);
criterion_main!(benches);
