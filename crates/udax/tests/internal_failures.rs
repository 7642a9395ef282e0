//! Whatever fails inside of udax: nobody waits for ever, and nothing that was stored is lost. Each test runs itself again as a child, in which one thing fails.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;

use common::CHILD;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use udax::MmapOptions;
use udax_linux::{UserfaultfdAccess, inject};

const MIB: usize = 1 << 20;
const SIZE: usize = 64 * MIB;
/// Stored before anything fails.
const BEFORE: [(usize, u8); 3] = [(5, 1), (10 * MIB + 4095, 2), (33 * MIB, 3)];
/// Stored from then on.
const AFTER: [(usize, u8); 3] = [(20 * MIB + 7, 4), (40 * MIB, 5), (63 * MIB, 6)];

/// Stores, and from [`inject::now`] on all that makes the threads work: loads, stores, giving back, syncs, mappings, and the break of a lease.
fn child(dir: &Path) {
    let options = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options
    };
    let file = options().open(dir.join("sparse")).expect("made");
    file.set_len(SIZE as u64).expect("a length");
    // SAFETY: nobody else has the file but this thread, further down.
    let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "the test is about served mappings");
    for (offset, byte) in BEFORE {
        map[offset] = byte;
    }
    inject::now();
    assert_eq!(map[50 * MIB], 0);
    for (offset, byte) in AFTER {
        assert_eq!(map[offset], 0);
        map[offset] = byte;
    }
    map.flush().expect("flushed");
    let second = options().open(dir.join("second")).expect("made");
    second.set_len(SIZE as u64).expect("a length");
    // SAFETY: nobody else has the file.
    let other = unsafe { MmapOptions::new().map(&second) }.expect("mapped");
    assert_eq!(other[MIB], 0);
    let opened = options().open(dir.join("sparse")).expect("the lease is given back");
    opened.write_all_at(&[9], 51 << 20).expect("written");
    assert_eq!(map[51 * MIB], 9);
    for (offset, byte) in BEFORE.into_iter().chain(AFTER) {
        assert_eq!(map[offset], byte);
    }
}

/// What can fail of a userfaultfd alone.
const OF_USERFAULTFD: [&str; 4] = ["map-thread", "uffd-read", "uffd-ioctl", "mremap"];

/// How the child ended when `point` failed in it, and what it said. All that it stored before is in the file.
fn with(test: &str, point: &str) -> Option<(std::process::ExitStatus, String)> {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir));
        return None;
    }
    if common::cannot_serve() {
        return None;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let mut command = Command::new(std::env::current_exe().expect("its own path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, dir.path());
    if OF_USERFAULTFD.contains(&point) && udax::Engine::expected() == udax::Engine::Signals {
        if let UserfaultfdAccess::Refused { errno, .. } = udax_linux::probe().userfaultfd {
            eprintln!("SKIPPED {test}: userfaultfd is refused: {errno}");
            return None;
        }
        eprintln!("{test}: not with faults by signals, but by a userfaultfd");
        command.env_remove("UDAX_ENGINE");
    }
    // A backtrace takes longer than a watchdog waits on a busy machine.
    let output = command
        .env("UDAX_TEST_FAIL", format!("{point}:later"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("runs");
    let file = std::fs::File::open(dir.path().join("sparse")).expect("it is there");
    let mut byte = [0];
    for (offset, stored) in BEFORE {
        file.read_exact_at(&mut byte, offset as u64).expect("read");
        assert_eq!(byte[0], stored, "{point}: what was stored at {offset}");
    }
    Some((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The process ends by SIGABRT, and one line says each of `words`.
fn ends(test: &str, point: &str, words: &[&str]) {
    let Some((status, errors)) = with(test, point) else { return };
    assert_eq!(status.signal(), Some(6), "{point}: {status}: {errors}");
    let slow = |line: &&str| line.contains("has not come on for");
    let lines: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("udax: ") && !slow(line)).collect();
    let [line] = lines[..] else { panic!("{point}: one line, not {errors}") };
    for word in words {
        assert!(line.contains(word), "{point}: {word:?} is not in {line:?}");
    }
}

/// Plain mappings take the place of what cannot be had, and the process goes on.
fn goes_on(test: &str, point: &str) {
    let Some((status, errors)) = with(test, point) else { return };
    assert!(status.success(), "{point}: {status}: {errors}");
    assert!(!errors.contains("udax: "), "{point}: {errors}");
}

macro_rules! fails {
    ($($name:ident: $point:literal, $how:ident($($words:expr),*);)*) => {
        $(
            #[test]
            fn $name() {
                $how(stringify!($name), $point $(, $words)*);
            }
        )*
    };
}

const TOLD: &str = "told to by UDAX_TEST_FAIL";
/// The load that comes first.
const LOAD: &str = "at a load of bytes 52428800 to 52432896 of ";

fails! {
    the_fault_thread_panics: "fault-thread", ends(&["the fault thread failed", TOLD, LOAD, "/sparse"]);
    the_engine_panics: "engine", ends(&["the fault thread failed", TOLD, LOAD, "/sparse"]);
    the_map_thread_panics: "map-thread", ends(&["the map thread failed", TOLD, LOAD, "/sparse"]);
    the_call_thread_panics: "call-thread", ends(&["the call thread failed", TOLD]);
    the_file_thread_panics: "file-thread", ends(&["the file thread failed", TOLD, "at mapping of bytes 0 to 67108864 of ", "/second"]);
    the_lease_thread_panics: "lease-thread", ends(&["the lease thread failed", TOLD, "at the break of a lease of ", "/sparse"]);
    the_fault_thread_is_gone: "fault-thread-gone", ends(&["the fault thread is gone", LOAD, "/sparse"]);
    the_call_thread_is_gone: "call-thread-gone", ends(&["the call thread is gone"]);
    a_thread_dies_with_the_lock_of_a_space: "space-lock", ends(&["a thread failed while it held a lock"]);
    a_thread_dies_with_the_registry: "registry", ends(&["a thread failed while it held a lock"]);
    the_userfaultfd_cannot_be_read: "uffd-read", ends(&["reading the userfaultfd failed: Input/output error"]);
    the_file_cannot_be_mapped_again: "map-again", ends(&["mapping bytes 0 to 67108864 of the file again: Cannot allocate memory", "at a store of bytes 20971520 to 20975616 of ", "/sparse"]);
    the_userfaultfd_refuses_requests: "uffd-ioctl", goes_on();
    memory_cannot_be_moved: "mremap", goes_on();
}

/// The words are the standard library's, and go where its threads have their standard error: nowhere.
#[test]
fn no_memory_for_a_look_for_holes_ends_the_process() {
    let test = "no_memory_for_a_look_for_holes_ends_the_process";
    let Some((status, errors)) = with(test, "survey-memory") else { return };
    assert_eq!(status.signal(), Some(6), "{status}: {errors}");
}

#[test]
fn a_thread_that_is_stuck_is_told_of_and_the_process_goes_on() {
    let test = "a_thread_that_is_stuck_is_told_of_and_the_process_goes_on";
    let Some((status, errors)) = with(test, "fault-thread-stuck") else { return };
    assert!(status.success(), "{status}: {errors}");
    let said = "udax: the fault thread has not come on for 2 looks (state S";
    assert!(errors.contains(said) && errors.contains(LOAD), "{errors}");
}
