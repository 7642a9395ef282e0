//! What stores have opened beyond what they touched is given back: holes are holes again, and no byte is lost, whatever goes on meanwhile.
#![expect(
    unsafe_code,
    reason = "mappings are made by unsafe functions, as memmap2's are, and shared as atomics"
)]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use udax::{MmapMut, MmapOptions};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;

fn places() -> [&'static Path; 2] {
    [Path::new("/dev/shm"), Path::new(env!("CARGO_TARGET_TMPDIR"))]
}

/// One test at a time: they look at the counts of the process.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn served(place: &Path, units: usize) -> (File, MmapMut) {
    let file = tempfile::tempfile_in(place).expect("a file");
    file.set_len((units * UNIT) as u64).expect("a length");
    // SAFETY: nobody else has the file, and its bytes are used as atomics or by one thread only.
    let map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    (file, map)
}

fn given_back() -> u64 {
    udax::statistics().given_back_pages
}

/// Until `done`; it is a failure if that takes too long.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: it never came to that");
        std::thread::yield_now();
    }
}

/// Pages here and there, the first and the last among them: `count` different ones.
fn scattered(units: usize, count: usize) -> BTreeSet<usize> {
    let pages = units * UNIT / PAGE;
    let mut chosen = BTreeSet::from([0, pages - 1]);
    let mut next = 12345_usize;
    while chosen.len() < count {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chosen.insert((next >> 20) % pages);
    }
    chosen
}

#[test]
fn few_stores_leave_the_rest_of_a_file_to_the_zero_page() {
    if common::cannot_serve() {
        return;
    }
    let _alone = alone();
    for place in places() {
        const UNITS: usize = 64;
        let before = given_back();
        let (file, mut map) = served(place, UNITS);
        let chosen = scattered(UNITS, 200);
        for &page in &chosen {
            map[page * PAGE + page % PAGE] = 7;
        }
        let stored_bytes = 512 * file.metadata().expect("told").blocks();
        wait_until("all that was opened is given back", || {
            let statistics = udax::statistics();
            let plain: u64 = statistics.files.iter().map(|file| file.plain_bytes).sum();
            given_back() > before && plain <= 200 * 4 * 4096
        });
        for page in 0..UNITS * UNIT / PAGE {
            let expected = if chosen.contains(&page) { 7 } else { 0 };
            assert_eq!(map[page * PAGE + page % PAGE], expected, "page {page}");
        }
        // Holes of less than four pages are shown with the data behind them: tmpfs fills them.
        let filled_bytes = 512 * file.metadata().expect("told").blocks() - stored_bytes;
        assert!(
            filled_bytes <= 200 * 4 * 4096,
            "{filled_bytes} bytes of holes were filled by loads"
        );
        let mut byte = [0];
        for page in 0..UNITS * UNIT / PAGE {
            let expected = if chosen.contains(&page) { 7 } else { 0 };
            file.read_exact_at(&mut byte, (page * PAGE + page % PAGE) as u64).expect("reads");
            assert_eq!(byte[0], expected, "page {page} of the file");
        }
    }
}

/// msync(2) looks for what it has to write under the mappings of the file only.
#[test]
fn data_is_under_the_kernels_own_mapping_again_when_a_sync_may_come() {
    if common::cannot_serve() {
        return;
    }
    let _alone = alone();
    for place in places() {
        const UNITS: usize = 32;
        let before = given_back();
        let (file, mut map) = served(place, UNITS);
        let chosen = scattered(UNITS, 60);
        for &page in &chosen {
            map[page * PAGE] = 9;
        }
        wait_until("something is given back", || given_back() > before);
        // A flush waits for nobody who gives back, and nobody gives back while it runs: what it finds is what any other would.
        map.flush().expect("flushed");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("can be read");
        let inode = file.metadata().expect("told").ino();
        let of_the_file: Vec<(usize, usize)> = maps
            .lines()
            .filter(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()))
            .filter_map(|line| {
                let (start, end) = line.split_whitespace().next()?.split_once('-')?;
                let number = |text| usize::from_str_radix(text, 16).ok();
                Some((number(start)?, number(end)?))
            })
            .collect();
        for &page in &chosen {
            let address = map.as_ptr() as usize + page * PAGE;
            let shown = of_the_file.iter().any(|&(start, end)| (start..end).contains(&address));
            assert!(shown, "page {page} has data, and msync(2) would not find it");
        }
    }
}

/// Four threads count up in pages of their own all over the file, through either of two mappings, for some milliseconds in one eighth of it and then in the next,
/// so that the others cool and are given back. Nothing may be missed, neither by the thread itself nor in the file.
#[test]
fn no_store_is_lost_while_units_are_opened_and_given_back() {
    if common::cannot_serve() {
        return;
    }
    let _alone = alone();
    for place in places() {
        const UNITS: usize = 48;
        const THREADS: usize = 4;
        const COUNTERS: usize = 64;
        let before = given_back();
        let (file, map) = served(place, UNITS);
        // SAFETY: nobody else has the file, and its bytes are used as atomics.
        let maps = [unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped"), map];
        let chosen: Vec<usize> = scattered(UNITS, THREADS * COUNTERS).into_iter().collect();
        let counter = |map: usize, index: usize| -> &AtomicU64 {
            let at = maps[map].as_ptr().wrapping_add(chosen[index] * PAGE).cast_mut().cast::<u64>();
            // SAFETY: page-aligned, inside the mapping, and used as an atomic only.
            unsafe { AtomicU64::from_ptr(at) }
        };
        let enough = AtomicBool::new(false);
        let totals: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let (counter, enough) = (&counter, &enough);
            let begun = Instant::now();
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut counts = vec![0_u64; COUNTERS];
                        let mut next = thread;
                        while !enough.load(Ordering::Relaxed) {
                            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            let eighth = begun.elapsed().as_millis() as usize / 40 % 8;
                            let which = (eighth * COUNTERS + (next >> 40) % COUNTERS) / 8;
                            let map = (next >> 33) % 2;
                            let seen = counter(map, which * THREADS + thread)
                                .fetch_add(1, Ordering::Relaxed);
                            assert_eq!(seen, counts[which], "thread {thread}, counter {which}");
                            counts[which] += 1;
                        }
                        counts
                    })
                })
                .collect();
            // All of it some times over, or as much as comes in a while.
            let wanted = 6 * (UNITS * UNIT / PAGE) as u64;
            while given_back() - before < wanted && begun.elapsed() < Duration::from_secs(4) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            enough.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().expect("no store was missed")).collect()
        });
        let pages = given_back() - before;
        assert!(pages >= (UNITS * UNIT / PAGE) as u64, "only {pages} pages were given back");
        maps[0].flush().expect("flushed");
        let mut bytes = [0; 8];
        for (place, &total) in totals.iter().flatten().enumerate() {
            let index = place % COUNTERS * THREADS + place / COUNTERS;
            for map in 0..2 {
                let shown = counter(map, index).load(Ordering::Relaxed);
                assert_eq!(shown, total, "counter {index}, mapping {map}");
            }
            file.read_exact_at(&mut bytes, (chosen[index] * PAGE) as u64).expect("reads");
            assert_eq!(u64::from_ne_bytes(bytes), total, "counter {index} in the file");
        }
    }
}

/// A descriptor that is opened later ends the service; what is written through it is seen.
#[test]
fn what_another_writes_while_units_are_given_back_is_seen() {
    if common::cannot_serve() {
        return;
    }
    let _alone = alone();
    for place in places() {
        const UNITS: usize = 32;
        for round in 0..40_u8 {
            let directory = tempfile::tempdir_in(place).expect("a directory");
            let path = directory.path().join("file");
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .expect("a file");
            file.set_len((UNITS * UNIT) as u64).expect("a length");
            // SAFETY: the bytes are looked at one by one, after they have been written.
            let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
            for &page in &scattered(UNITS, 50) {
                map[page * PAGE] = 1;
            }
            let since = Instant::now();
            let pause = Duration::from_millis(u64::from(round));
            while since.elapsed() < pause {
                std::hint::black_box(map[UNIT * usize::from(round % 32) + 5 * PAGE]);
            }
            let other = File::options().write(true).open(&path).expect("opened once more");
            for unit in 0..UNITS {
                let at = unit * UNIT + 5 * PAGE + 1;
                other.write_all_at(&[round + 1], at as u64).expect("room");
                assert_eq!(map[at], round + 1, "round {round}, unit {unit}: an old zero");
            }
        }
    }
}

/// One opening ends in the middle of 2 MiB that another mapping shows as zeros whole. Those zeros go, all of them; a store through that mapping then comes
/// without a fault, and a third mapping must show it.
#[test]
fn zeros_that_go_beside_an_opening_hide_no_store() {
    if common::cannot_serve() {
        return;
    }
    let _alone = alone();
    for place in places() {
        let file = tempfile::tempfile_in(place).expect("a file");
        file.set_len(6 * UNIT as u64).expect("a length");
        let whole = || MmapOptions::new().map_shared(&file).expect("mapped");
        let (first, third) = (whole(), whole());
        let part = MmapOptions::new().len(2 * UNIT + UNIT / 2).map_shared(&file).expect("mapped");
        let mut byte = [9];
        first.load(2 * UNIT, &mut byte);
        assert_eq!(byte, [0]);
        // In order: the second opens all that comes behind it in its mapping.
        part.store(0, &[1]);
        part.store(UNIT, &[1]);
        let place = 2 * UNIT + UNIT / 4 * 3;
        first.store(place, &[7]);
        third.load(place, &mut byte);
        assert_eq!(byte, [7], "an old zero");
        file.read_exact_at(&mut byte, place as u64).expect("reads");
        assert_eq!(byte, [7], "in the file");
    }
}
