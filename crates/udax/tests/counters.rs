//! Eight threads increment a counter in each of 4,096 hole pages at once, a thousand times over: no increment is lost.
#![expect(
    unsafe_code,
    reason = "mappings are made by unsafe functions, as memmap2's are, and shared as atomics"
)]

mod common;

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use udax::{MmapMut, MmapOptions};

const PAGES: usize = 4096;
const PAGE: usize = 4096;
const THREADS: u64 = 8;
const ROUNDS: usize = 1000;

/// The counter at the start of a page.
fn counter(map: &MmapMut, page: usize) -> &AtomicU64 {
    let pointer = map.as_ptr().wrapping_add(page * PAGE).cast_mut().cast::<u64>();
    // SAFETY: page-aligned, inside the mapping, and nobody makes a reference to the bytes that is not an atomic.
    unsafe { AtomicU64::from_ptr(pointer) }
}

fn one_round(dir: &Path, round: usize) {
    let file = tempfile::tempfile_in(dir).expect("a file");
    file.set_len((PAGES * PAGE) as u64).expect("a length");
    // SAFETY: nobody else has the file.
    let map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "round {round}: it is to be served");
    let start = Barrier::new(usize::try_from(THREADS).expect("few"));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (map, start) = (&map, &start);
            scope.spawn(move || {
                start.wait();
                // Each its own way through the pages, half of them upwards; some load first, some store at once.
                for step in 0..PAGES {
                    let place = (step + usize::try_from(thread).expect("few") * 512) % PAGES;
                    let page = if thread % 2 == 0 { place } else { PAGES - 1 - place };
                    let counter = counter(map, page);
                    if thread % 3 == 0 {
                        assert!(counter.load(Ordering::Relaxed) < THREADS);
                    }
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    map.flush().expect("flushed");
    let mut bytes = [0; 8];
    for page in 0..PAGES {
        assert_eq!(
            counter(&map, page).load(Ordering::Relaxed),
            THREADS,
            "round {round} page {page}"
        );
        let offset = (page * PAGE) as u64;
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset).expect("reads");
        assert_eq!(u64::from_ne_bytes(bytes), THREADS, "round {round} page {page} in the file");
    }
}

#[test]
fn no_increment_is_lost_on_tmpfs() {
    if common::cannot_serve() {
        return;
    }
    (0..ROUNDS).for_each(|round| one_round(Path::new("/dev/shm"), round));
}

#[test]
fn no_increment_is_lost_on_the_disk() {
    if common::cannot_serve() {
        return;
    }
    (0..ROUNDS / 10).for_each(|round| one_round(Path::new(env!("CARGO_TARGET_TMPDIR")), round));
}
