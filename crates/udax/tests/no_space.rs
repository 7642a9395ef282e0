//! Stores for which there is no space, in mappings that ask: on file systems of their own, of 64 MiB.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;

use common::{CHILD, Mounted, PAGE};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax::{MmapMut, MmapOptions, NoSpace, WithoutSpace};

const MIB: usize = 1 << 20;
const SIZE: usize = 256 * MIB;

/// Runs `test` on both file systems; `ends` says how the child is to end. Where to work, if this is the child.
fn child(test: &str, ends: impl Fn(ExitStatus, &str)) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(CHILD) {
        return Some(dir.into());
    }
    if common::cannot_serve() {
        return None;
    }
    for mounted in [Mounted::Tmpfs(64), Mounted::Ext4(64)] {
        let dir = tempfile::tempdir_in(common::disk()).expect("a directory");
        let mut command = common::on_its_own(test, dir.path(), mounted);
        if let Some((status, errors)) = common::outcome(&mut command) {
            ends(status, &format!("{mounted:?}: {status}: {errors}"));
        }
    }
    None
}

fn succeeds(status: ExitStatus, words: &str) {
    assert!(status.success(), "{words}");
}

fn sparse(dir: &Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(dir.join("sparse"));
    let file = file.expect("the file can be made");
    file.set_len(SIZE as u64).expect("a length");
    file
}

fn map(
    file: &std::fs::File,
    decide: impl Fn(&NoSpace<'_>) -> WithoutSpace + Send + Sync + 'static,
) -> MmapMut {
    // SAFETY: nobody else has the file; what the tests do to it they do on purpose.
    let map = unsafe { MmapOptions::new().on_no_space(decide).map_mut(file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "the test is about served mappings");
    map
}

/// Leaves no block of the file system free.
fn fill_up(dir: &Path) {
    let mut filler = std::fs::File::create(dir.join("filler")).expect("made");
    let _ = std::io::copy(&mut std::io::repeat(1), &mut filler);
    let _ = std::io::copy(&mut std::io::repeat(1).take(1), &mut filler);
    let _ = filler.sync_all();
}

fn make_room(dir: &Path) {
    // What is unlinked may be given back later, by whoever uses it yet.
    std::fs::File::create(dir.join("filler")).expect("emptied");
    std::fs::remove_file(dir.join("filler")).expect("removed");
}

/// What is stored to a page.
fn mark(page: usize) -> u8 {
    u8::try_from(page % 251).expect("small") + 1
}

fn check_file(dir: &Path, pages: impl Iterator<Item = usize>) {
    let read = std::fs::read(dir.join("sparse")).expect("read");
    let mut expected = vec![0; SIZE];
    pages.for_each(|page| expected[page * PAGE + page % PAGE] = mark(page));
    let wrong = (0..SIZE).find(|&at| read[at] != expected[at]);
    assert_eq!(wrong, None, "every byte that was stored is in the file, and nothing else");
}

/// Pages all over the file, and 8 MiB of it page by page.
fn pages() -> impl Iterator<Item = usize> {
    (0..SIZE / PAGE).step_by(1001).chain(5000..7048)
}

#[test]
fn what_finds_no_space_is_kept_in_memory_until_it_can_be_saved() {
    let test = "what_finds_no_space_is_kept_in_memory_until_it_can_be_saved";
    let Some(dir) = child(test, succeeds) else { return };
    let file = sparse(&dir);
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let mut map = map(&file, move |lack| {
        assert!(lack.file.ends_with("/sparse") && lack.offset < SIZE as u64);
        assert_eq!((lack.cause.kind(), lack.attempt), (ErrorKind::StorageFull, 0));
        assert!(!lack.is_last, "it was saved before the end");
        count.fetch_add(1, Ordering::Relaxed);
        WithoutSpace::KeepInMemory
    });
    map[17] = 99;
    fill_up(&dir);
    for page in pages() {
        map[page * PAGE + page % PAGE] = mark(page);
    }
    map[17] = 0;
    assert!(asked.load(Ordering::Relaxed) > 10, "the file system is full");
    let is_there = |map: &MmapMut| pages().all(|page| map[page * PAGE + page % PAGE] == mark(page));
    assert!(is_there(&map), "the mapping shows all of it");
    let mut byte = [0];
    for page in pages() {
        map.read_at(page * PAGE + page % PAGE, &mut byte).expect("read");
        assert_eq!(byte[0], mark(page), "and so do copies out of it");
    }
    for _ in 0..2 {
        let error = map.flush().expect_err("some of it cannot be saved");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        let words = error.to_string();
        assert!(words.contains("cannot save") && words.contains("/sparse"), "{words}");
        assert!(is_there(&map), "and nothing is lost by that");
    }
    make_room(&dir);
    map.flush().expect("there is space for all of it");
    assert!(is_there(&map));
    check_file(&dir, pages());
    let before = asked.load(Ordering::Relaxed);
    map[3 * PAGE + 3] = mark(3);
    check_file(&dir, pages().chain([3]));
    drop(map);
    assert_eq!(asked.load(Ordering::Relaxed), before, "all has a place");
}

#[test]
fn room_that_is_made_is_used() {
    let Some(dir) = child("room_that_is_made_is_used", succeeds) else { return };
    let file = sparse(&dir);
    let asked = Arc::new(AtomicU64::new(0));
    let (count, place) = (Arc::clone(&asked), dir.clone());
    let mut map = map(&file, move |lack| {
        assert_eq!(u64::from(lack.attempt), count.fetch_add(1, Ordering::Relaxed));
        if lack.attempt == 2 {
            make_room(&place);
        }
        WithoutSpace::TryAgain
    });
    fill_up(&dir);
    map[77 * PAGE + 77] = mark(77);
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    map.flush().expect("it is where it belongs");
    assert!(map.report().plain_because.is_none(), "the file goes on being served");
    check_file(&dir, [77].into_iter());
}

#[test]
fn what_others_wrote_meanwhile_is_not_overwritten() {
    let test = "what_others_wrote_meanwhile_is_not_overwritten";
    let Some(dir) = child(test, succeeds) else { return };
    let file = sparse(&dir);
    let mut map = map(&file, |_| WithoutSpace::KeepInMemory);
    fill_up(&dir);
    map[40 * PAGE + 8] = 1;
    map[40 * PAGE + 9] = 1;
    map[40 * PAGE + 9] = 0;
    make_room(&dir);
    let other = std::fs::OpenOptions::new().write(true).open(dir.join("sparse")).expect("opened");
    other.write_all_at(&[2, 2, 2], (40 * PAGE + 9) as u64).expect("written");
    assert_eq!(map[40 * PAGE + 10], 0, "kept is kept");
    map.flush().expect("saved");
    let bytes = &map[40 * PAGE + 7..40 * PAGE + 13];
    assert_eq!(bytes, [0, 1, 2, 2, 2, 0], "its own store, and what the other has written");
    fill_up(&dir);
    map[40 * PAGE + 20] = 3;
    map.flush().expect("it has its place");
}

#[test]
fn a_forked_child_loses_nothing_of_its_parent() {
    let Some(dir) = child("a_forked_child_loses_nothing_of_its_parent", succeeds) else { return };
    let file = sparse(&dir);
    let mut map = map(&file, |lack| {
        assert!(!lack.is_last, "the child ends, and that is not asked about");
        WithoutSpace::KeepInMemory
    });
    fill_up(&dir);
    map[40 * PAGE + 8] = 1;
    // SAFETY: the child loads, tries to flush, drops the mapping and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = map.flush().map_err(|error| error.kind());
        let is_right = map[40 * PAGE + 8] == 1 && refused == Err(ErrorKind::Unsupported);
        drop(map);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = -1;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(status, 0);
    make_room(&dir);
    map.flush().expect("saved");
    assert_eq!(std::fs::read(dir.join("sparse")).expect("read")[40 * PAGE + 8], 1);
}

#[test]
fn who_wants_the_signal_gets_it() {
    let ends = |status: ExitStatus, words: &str| assert_eq!(status.signal(), Some(7), "{words}");
    let Some(dir) = child("who_wants_the_signal_gets_it", ends) else { return };
    let mut map = map(&sparse(&dir), |_| WithoutSpace::Signal);
    fill_up(&dir);
    pages().for_each(|page| map[page * PAGE] = 1);
}

#[test]
fn a_file_that_was_cut_is_sigbus_and_nobody_is_asked() {
    let ends = |status: ExitStatus, words: &str| {
        assert_eq!(status.signal(), Some(7), "{words}");
        assert!(!words.contains("asked"), "{words}");
    };
    let test = "a_file_that_was_cut_is_sigbus_and_nobody_is_asked";
    let Some(dir) = child(test, ends) else { return };
    let file = udax::File::from(sparse(&dir));
    let decide = |_: &NoSpace<'_>| {
        eprintln!("asked");
        WithoutSpace::KeepInMemory
    };
    // SAFETY: nobody else has the file.
    let mut map = unsafe { MmapOptions::new().on_no_space(decide).map_mut(&file) }.expect("mapped");
    map[200 * MIB] = 1;
    file.set_len(100 << 20).expect("cut");
    map[99 * MIB] = 1;
    fill_up(&dir);
    map[200 * MIB] = 1;
}

#[test]
fn nothing_is_lost_at_the_end_without_a_word() {
    let Some(dir) = child("nothing_is_lost_at_the_end_without_a_word", succeeds) else { return };
    let file = sparse(&dir);
    let last = Arc::new(AtomicU64::new(0));
    let (count, place) = (Arc::clone(&last), dir.clone());
    let mut map = map(&file, move |lack| {
        if !lack.is_last {
            return WithoutSpace::KeepInMemory;
        }
        if count.fetch_add(1, Ordering::Relaxed) == 1 {
            make_room(&place);
        }
        WithoutSpace::TryAgain
    });
    fill_up(&dir);
    pages().for_each(|page| map[page * PAGE + page % PAGE] = mark(page));
    drop(map);
    assert_eq!(last.load(Ordering::Relaxed), 2);
    check_file(&dir, pages());
}

#[test]
fn stores_beside_keeping_and_saving_are_not_lost() {
    let test = "stores_beside_keeping_and_saving_are_not_lost";
    let Some(dir) = child(test, succeeds) else { return };
    const THREADS: usize = 3;
    let file = sparse(&dir);
    let decide = |_: &NoSpace<'_>| WithoutSpace::KeepInMemory;
    let map = MmapOptions::new().on_no_space(decide).map_shared(&file).expect("mapped");
    // Not too many places: ext4 wants storage for as many pages around each as it has read ahead.
    let own: Vec<usize> = (0..SIZE / PAGE).step_by(1009).chain(5000..7000).collect();
    for round in 1..=6_u8 {
        fill_up(&dir);
        std::thread::scope(|scope| {
            let (map, own, dir) = (&map, &own, &dir);
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    scope.spawn(move || {
                        // Each a byte of its own in every page: what is kept and saved at the same time is shared.
                        own.iter().for_each(|page| map.store(page * PAGE + 10 * thread, &[round]));
                    })
                })
                .collect();
            let mut turn = 0;
            while threads.iter().any(|thread| !thread.is_finished()) {
                let _ = map.flush();
                turn += 1;
                if turn == 5 {
                    make_room(dir);
                }
            }
            if turn < 5 {
                make_room(dir);
            }
        });
        map.flush().expect("there is space for all of it");
        let read = std::fs::read(dir.join("sparse")).expect("read");
        for page in &own {
            for thread in 0..THREADS {
                let (mut byte, at) = ([0], page * PAGE + 10 * thread);
                map.load(at, &mut byte);
                assert_eq!((byte[0], read[at]), (round, round), "page {page}, thread {thread}");
            }
        }
        udax::File::from(file.try_clone().expect("a second"))
            .punch_hole(0, SIZE as u64)
            .expect("empty");
    }
}

#[test]
fn a_store_beside_a_save_is_saved_or_comes_after_it() {
    let test = "a_store_beside_a_save_is_saved_or_comes_after_it";
    let Some(dir) = child(test, succeeds) else { return };
    const PAGES: usize = 2048;
    let file = sparse(&dir);
    let decide = |_: &NoSpace<'_>| WithoutSpace::KeepInMemory;
    let map = MmapOptions::new().on_no_space(decide).map_shared(&file).expect("mapped");
    fill_up(&dir);
    (0..PAGES).for_each(|page| map.store(page * PAGE, &[1]));
    assert!(map.flush().is_err(), "most of it is in memory only");
    make_room(&dir);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (map, stop) = (&map, &stop);
            scope.spawn(move || {
                let mut value = 0_u8;
                while !stop.load(Ordering::Relaxed) {
                    value = value.wrapping_add(1);
                    for page in 0..PAGES {
                        let (at, mut byte) = (page * PAGE + 8 * (thread + 1), [0]);
                        map.store(at, &[value]);
                        map.load(at, &mut byte);
                        assert_eq!(byte[0], value, "page {page}: what was stored is gone");
                    }
                }
            });
        }
        map.flush().expect("there is space for all of it");
        stop.store(true, Ordering::Relaxed);
    });
    let read = std::fs::read(dir.join("sparse")).expect("read");
    for at in (0..PAGES * PAGE).step_by(8) {
        let mut byte = [0];
        map.load(at, &mut byte);
        assert_eq!(byte[0], read[at], "at {at}");
    }
}

extern "C" fn leave(_signal: libc::c_int) {
    // SAFETY: ends the process.
    unsafe { libc::_exit(42) };
}

#[test]
fn who_had_the_signal_before_has_it_for_all_else() {
    let ends = |status: ExitStatus, words: &str| assert_eq!(status.code(), Some(42), "{words}");
    let test = "who_had_the_signal_before_has_it_for_all_else";
    let Some(dir) = child(test, ends) else { return };
    let handler = leave as *const () as libc::sighandler_t;
    // SAFETY: the handler only ends the process.
    unsafe { libc::signal(libc::SIGBUS, handler) };
    let mut map = map(&sparse(&dir), |_| WithoutSpace::KeepInMemory);
    fill_up(&dir);
    map[MIB] = 1;
    let small = tempfile::tempfile_in("/dev/shm").expect("a file");
    small.set_len(1).expect("a length");
    // SAFETY: nobody else has the file; what lies behind its end is loaded on purpose.
    let cut = unsafe { MmapOptions::new().len(2 * PAGE).map(&small) }.expect("mapped");
    std::hint::black_box(cut[PAGE]);
}
