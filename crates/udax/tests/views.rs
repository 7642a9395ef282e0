//! Several mappings of one file in one process: what a thread has stored through one of them it loads through any other, while a hole is being filled and
//! while a proof ends.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use udax::{File, MmapOptions, SharedMap};

const PAGE: usize = 4096;
const UNIT: usize = 2 << 20;
const VIEWS: usize = 6;
const UNITS: usize = 200;

fn views(file: &File) -> Vec<SharedMap> {
    let views: Vec<_> =
        (0..VIEWS).map(|_| MmapOptions::new().map_shared(file).expect("mapped")).collect();
    assert_eq!(views[VIEWS - 1].report().plain_because, None, "it is to be served");
    views
}

fn byte(view: &SharedMap, at: usize) -> u8 {
    let mut byte = [9];
    view.load(at, &mut byte);
    byte[0]
}

/// Each round ends the zeros of a unit by `act`; at some moment meanwhile another thread stores through one mapping and loads through another.
fn never_an_old_zero(views: &[SharedMap], rounds: usize, mut act: impl FnMut(usize)) {
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (begun, done) = (&begun, &done);
        scope.spawn(move || {
            let ends = (&views[0], &views[VIEWS - 1]);
            for round in 1..=rounds {
                while begun.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                let since = Instant::now();
                let pause = Duration::from_micros(round as u64 * 37 % 300);
                while since.elapsed() < pause {
                    std::hint::spin_loop();
                }
                let (to, from) = if round % 2 == 0 { ends } else { (ends.1, ends.0) };
                let at = (round - 1) * UNIT + (3 + round % 64) * PAGE;
                to.store(at, &[7]);
                let seen = byte(from, at);
                done.store(round, Ordering::Release);
                assert_eq!(seen, 7, "round {round}: an old zero");
            }
        });
        for round in 1..=rounds {
            let unit = (round - 1) * UNIT;
            views.iter().for_each(|view| assert_eq!(byte(view, unit), 0));
            begun.store(round, Ordering::Release);
            act(unit + 200 * PAGE);
            // A failed thread says no more: the scope ends the test then.
            let since = Instant::now();
            while done.load(Ordering::Acquire) < round && since.elapsed() < Duration::from_secs(20)
            {
                std::hint::spin_loop();
            }
            if done.load(Ordering::Acquire) < round {
                break;
            }
        }
    });
}

fn places() -> [&'static Path; 2] {
    [Path::new("/dev/shm"), Path::new(env!("CARGO_TARGET_TMPDIR"))]
}

fn sparse(path: &Path) -> File {
    let file = File::create(path).expect("a file");
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    file
}

#[test]
fn a_write_of_the_process_ends_the_zeros_of_all_mappings_before_one_can_be_stored_to() {
    if common::cannot_serve() {
        return;
    }
    for place in places() {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let file = sparse(&directory.path().join("file"));
        let views = views(&file);
        never_an_old_zero(&views, UNITS, |at| {
            assert_eq!(file.write_at(&[1], at as u64).expect("written"), 1);
        });
    }
}

#[test]
fn a_first_store_ends_the_zeros_of_all_mappings_before_one_can_be_stored_to() {
    if common::cannot_serve() {
        return;
    }
    for place in places() {
        let directory = tempfile::tempdir_in(place).expect("a directory");
        let file = sparse(&directory.path().join("file"));
        let views = views(&file);
        never_an_old_zero(&views, UNITS, |at| views[VIEWS - 1].store(at, &[1]));
    }
}

#[test]
fn the_end_of_a_proof_ends_the_zeros_of_all_mappings_before_one_can_be_stored_to() {
    if common::cannot_serve() {
        return;
    }
    for place in places() {
        for round in 0..150 {
            let directory = tempfile::tempdir_in(place).expect("a directory");
            let path = directory.path().join("file");
            let file = sparse(&path);
            // In the order in which they become plain.
            let mut views = views(&file);
            views.sort_by_key(|view| view.addresses().start);
            views.iter().for_each(|view| assert_eq!(byte(view, 0), 0));
            let stranger = std::thread::spawn(move || {
                std::fs::OpenOptions::new().write(true).open(path).expect("opened");
            });
            let since = Instant::now();
            let pause = Duration::from_micros(round * 37 % 500);
            while since.elapsed() < pause {
                std::hint::spin_loop();
            }
            views[0].store(3 * PAGE, &[7]);
            assert_eq!(byte(&views[VIEWS - 1], 3 * PAGE), 7, "round {round}: an old zero");
            stranger.join().expect("opened");
        }
    }
}
