//! The accesses of each pattern.

use super::way::Memory;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// What is stored to a page, never zeros.
const WORD: [u8; 8] = *b"udaxudax";

/// Where in page `number` an access goes: another place in every page, so that no cache line is spared.
const fn place(number: usize) -> usize {
    number * PAGE + number * WORD.len() % PAGE
}

/// Random numbers from a seed: the same for every way.
pub(super) struct Order(fastrand::Rng);

impl Order {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// `count` different numbers below `limit`, in random order.
    pub(super) fn pick(&mut self, limit: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..limit).collect();
        self.0.shuffle(&mut all);
        all.truncate(count);
        all
    }
}

/// Loads eight bytes of every page; gives how many pages were not zero.
pub(super) fn load_pages(memory: &impl Memory, pages: impl IntoIterator<Item = usize>) -> u64 {
    let mut filled = 0;
    for page in pages {
        let mut word = [0; 8];
        memory.load(place(page), &mut word);
        filled += u64::from(word != [0; 8]);
    }
    black_box(filled)
}

/// Loads every byte.
pub(super) fn scan(memory: &impl Memory) -> u64 {
    let mut page = [0; PAGE];
    let mut filled = 0;
    for at in (0..memory.length()).step_by(PAGE) {
        memory.load(at, &mut page);
        filled += u64::from(black_box(&page)[0] != 0);
    }
    filled
}

/// Stores eight bytes to each of `pages`.
pub(super) fn store_pages(memory: &impl Memory, pages: impl IntoIterator<Item = usize>) {
    for page in pages {
        memory.store(place(page), &WORD);
    }
}

/// Stores to each round's pages, and syncs.
pub(super) fn store_and_sync(memory: &impl Memory, rounds: &[Vec<usize>]) -> anyhow::Result<()> {
    for pages in rounds {
        store_pages(memory, pages.iter().copied());
        memory.sync()?;
    }
    Ok(())
}

/// Loads a byte in every `step` bytes.
pub(super) fn touch(memory: &impl Memory, step: usize) {
    for at in (0..memory.length()).step_by(step) {
        let mut byte = [0];
        memory.load(at, &mut byte);
        black_box(byte);
    }
}

/// `threads` threads store to every page of their parts of the first `length` bytes; from when all are ready until all are done.
pub(super) fn storm_apart(memory: &impl Memory, length: usize, threads: usize) -> Duration {
    let part = length / PAGE / threads;
    in_step(threads, |thread, _| store_pages(memory, part * thread..part * (thread + 1)))
}

/// `threads` threads store to every page, of the same 2 MiB at the same time.
pub(super) fn storm_together(memory: &impl Memory, threads: usize) -> Duration {
    let pages = HUGE / PAGE;
    in_step(threads, |thread, start| {
        for unit in 0..memory.length() / HUGE {
            start.wait();
            // They meet in every page, coming from different sides.
            let turn = |page: usize| (page + thread * pages / 2) % pages;
            store_pages(memory, (0..pages).map(|page| unit * pages + turn(page)));
        }
    })
}

fn in_step(threads: usize, work: impl Fn(usize, &Barrier) + Sync) -> Duration {
    let (ready, start) = (Barrier::new(threads + 1), Barrier::new(threads));
    let (work, ready, start) = (&work, &ready, &start);
    let begun = thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                ready.wait();
                work(thread, start);
            });
        }
        // Before, as this thread may get its turn late: on two processors the others are done by then.
        let begun = Instant::now();
        ready.wait();
        begun
    });
    begun.elapsed()
}

/// Between two stores whose latency is measured the thread is busy for so long.
const BETWEEN: Duration = Duration::from_micros(500);

/// Stores to one page in each of `units`, with something else to do in between, and times the stores of which `counts` says
/// that they count. Sorted nanoseconds.
pub(super) fn latencies(
    memory: &impl Memory,
    units: &[usize],
    mut counts: impl FnMut() -> bool,
) -> Vec<u64> {
    let mut found = Vec::with_capacity(units.len());
    for unit in units {
        let pause = Instant::now();
        while pause.elapsed() < BETWEEN {
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        memory.store(unit * HUGE + unit % (HUGE / PAGE) * PAGE, &WORD);
        let taken = begun.elapsed();
        if counts() {
            found.push(u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    found.sort_unstable();
    found
}
