//! Bad input and bad luck: each test runs itself again as a child process, which meets the bad luck, and looks at how it ends.
#![expect(unsafe_code, reason = "mappings, signal handlers and fork are unsafe")]

mod common;
#[path = "common/seccomp.rs"]
mod seccomp;

use std::io::{PipeReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use udax::{MmapMut, MmapOptions};

const CHILD: &str = "UDAX_TEST_CHILD";
const MIB: usize = 1 << 20;

/// The directory that the child works in, if this is the child.
fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// This test binary, to run one test of it as a child in `dir`.
fn again(test: &str, dir: &Path, launcher: &[&str]) -> Command {
    let this = std::env::current_exe().expect("its own path");
    let mut words = launcher.iter().map(|word| (*word).to_owned().into());
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new::<std::ffi::OsString>(first);
            command.args(words).arg(this);
            command
        }
        None => Command::new(this),
    };
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, dir);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a directory in memory")
}

/// Another file than the one before.
fn fresh(dir: &Path, bytes: u64) -> std::fs::File {
    std::fs::remove_file(dir.join("sparse")).ok();
    sparse(dir, bytes)
}

fn sparse(dir: &Path, bytes: u64) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(dir.join("sparse"));
    let file = file.expect("the file can be made");
    file.set_len(bytes).expect("a length");
    file
}

fn map(file: &std::fs::File, length: usize) -> MmapMut {
    // SAFETY: nobody else has the file; what the tests do to it they do on purpose.
    let map = unsafe { MmapOptions::new().len(length).map_mut(file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "the test is about served mappings");
    map
}

/// One 2 MiB, as a mapping of its own.
fn map_unit(file: &std::fs::File, unit: usize) -> MmapMut {
    let mut options = MmapOptions::new();
    options.offset((unit * 2 * MIB) as u64).len(2 * MIB);
    // SAFETY: as above.
    let map = unsafe { options.map_mut(file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "unit {unit} is to be served");
    map
}

#[test]
fn a_load_past_the_end_of_the_file_is_sigbus() {
    if common::cannot_serve() {
        return;
    }
    if let Some(dir) = child() {
        let map = map(&sparse(&dir, 5 << 20), 8 * MIB);
        assert_eq!(map[5 * MIB - 1], 0, "inside the file it is zeros");
        std::hint::black_box(map[5 * MIB]);
        return;
    }
    let dir = memory_dir();
    let output = again("a_load_past_the_end_of_the_file_is_sigbus", dir.path(), &[]).output();
    let output = output.expect("runs");
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", text(&output));
}

#[test]
fn a_load_of_what_was_cut_off_is_sigbus() {
    if common::cannot_serve() {
        return;
    }
    if let Some(dir) = child() {
        let file = udax::File::from(sparse(&dir, 8 << 20));
        // SAFETY: nobody else has the file.
        let map = unsafe { MmapOptions::new().map(&file) }.expect("mapped");
        assert_eq!(map[7 * MIB], 0);
        file.set_len(4 << 20).expect("cut");
        assert_eq!(map[3 * MIB], 0);
        std::hint::black_box(map[7 * MIB]);
        return;
    }
    let dir = memory_dir();
    let output = again("a_load_of_what_was_cut_off_is_sigbus", dir.path(), &[]).output();
    let output = output.expect("runs");
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", text(&output));
}

#[test]
fn no_space_is_an_error_from_the_library_and_sigbus_for_a_store() {
    if common::cannot_serve() {
        return;
    }
    const MOUNT: &str =
        r#"mount -t tmpfs -o size=4m none "$UDAX_TEST_CHILD" || exit 77; exec "$0" "$@""#;
    if let Some(dir) = child() {
        let file = udax::File::from(sparse(&dir, 64 << 20));
        let error = file.allocate(0, 32 << 20).expect_err("there are 4 MiB in all");
        let words = error.to_string();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(words.contains("sparse") && words.contains("33554432"), "{words}");
        let error =
            file.write_at(&vec![1; 8 * MIB], 0).and_then(|_| file.write_at(&[1; 4096], 16 << 20));
        assert_eq!(error.map_err(|e| e.kind()), Err(std::io::ErrorKind::StorageFull));
        file.punch_hole(0, 64 << 20).expect("space comes back");
        // SAFETY: nobody else has the file.
        let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
        assert_eq!(map.report().plain_because, None);
        for offset in (0..64 * MIB).step_by(4096) {
            map[offset] = 1;
        }
        return;
    }
    let dir = memory_dir();
    let test = "no_space_is_an_error_from_the_library_and_sigbus_for_a_store";
    let output =
        again(test, dir.path(), &["unshare", "-m", "sh", "-c", MOUNT]).output().expect("runs");
    if matches!(output.status.code(), Some(77 | 1)) && text(&output).contains("ermi") {
        eprintln!("SKIPPED: a small tmpfs cannot be mounted here");
        return;
    }
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", text(&output));
}

#[test]
fn where_userfaultfd_is_refused_signals_serve_and_it_says_why() {
    if let Some(dir) = child() {
        seccomp::forbid(libc::SYS_userfaultfd);
        let file = sparse(&dir, 64 << 20);
        let mut map = map(&file, 64 << 20);
        assert!(map.iter().step_by(4096).all(|&byte| byte == 0));
        assert_eq!(file.metadata().expect("there").blocks(), 0, "holes were read for nothing");
        map[MIB] = 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, MIB as u64).expect("read");
        assert_eq!(byte, [1]);
        let statistics = udax::statistics();
        assert_eq!(statistics.engine, Some("signals"));
        let why = statistics.why_not_better.expect("it is not the best");
        assert!(why.contains("userfaultfd is refused") && why.contains("seccomp"), "{why}");
        return;
    }
    // SAFETY: asks a number.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: it takes root to become a user who has no /dev/userfaultfd");
        return;
    }
    let dir = memory_dir();
    let test = "where_userfaultfd_is_refused_signals_serve_and_it_says_why";
    let output = common::as_nobody(dir.path(), test)
        .env(CHILD, dir.path())
        .env_remove("UDAX_ENGINE")
        .output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{}", text(&output));
}

/// Where the signal handler stores (0: nowhere), how often it has, and how many handlers are at it now.
static TARGET: AtomicUsize = AtomicUsize::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static HANDLING: AtomicU64 = AtomicU64::new(0);

extern "C" fn store_in_a_hole(_signal: libc::c_int) {
    HANDLING.fetch_add(1, Ordering::SeqCst);
    let target = TARGET.load(Ordering::SeqCst);
    if target != 0 {
        let count = usize::try_from(SIGNALS.fetch_add(1, Ordering::SeqCst)).unwrap_or(0);
        let address = target + (count % 16) * 2 * MIB + 8;
        // SAFETY: aligned, in the mapping, which outlives every handler that saw it; all access to the word is atomic.
        let word = unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address)) };
        word.fetch_add(1, Ordering::SeqCst);
    }
    HANDLING.fetch_sub(1, Ordering::SeqCst);
}

fn word(map: &MmapMut, offset: usize) -> &AtomicU64 {
    let pointer = map.as_ptr().wrapping_add(offset).cast_mut().cast::<u64>();
    // SAFETY: aligned, in the mapping, and all access to the word is atomic.
    unsafe { AtomicU64::from_ptr(pointer) }
}

fn timer(microseconds: libc::suseconds_t) {
    let every = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: a valid timer; the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

#[test]
fn signals_in_the_middle_of_faults_lose_nothing() {
    if common::cannot_serve() {
        return;
    }
    if let Some(dir) = child() {
        let file = sparse(&dir, 64 << 20);
        let handler = store_in_a_hole as *const () as libc::sighandler_t;
        // SAFETY: the handler only uses atomics.
        unsafe { libc::signal(libc::SIGALRM, handler) };
        for _ in 0..200 {
            file.set_len(0).expect("emptied");
            file.set_len(64 << 20).expect("a length");
            let map = map(&file, 64 * MIB);
            SIGNALS.store(0, Ordering::Relaxed);
            TARGET.store(map.as_ptr().expose_provenance() + 32 * MIB, Ordering::Relaxed);
            timer(50);
            for offset in (0..32 * MIB).step_by(64 << 10) {
                word(&map, offset).fetch_add(1, Ordering::Relaxed);
            }
            timer(0);
            // One that is pending yet may run on any thread, and finds nothing to do.
            TARGET.store(0, Ordering::SeqCst);
            while HANDLING.load(Ordering::SeqCst) != 0 {
                std::hint::spin_loop();
            }
            let handled = SIGNALS.load(Ordering::Relaxed);
            let stored: u64 = (0..16)
                .map(|unit| word(&map, 32 * MIB + unit * 2 * MIB + 8).load(Ordering::Relaxed))
                .sum();
            assert_eq!(stored, handled, "every handler's store is there");
            for offset in (0..32 * MIB).step_by(64 << 10) {
                assert_eq!(word(&map, offset).load(Ordering::Relaxed), 1);
            }
        }
        return;
    }
    let dir = memory_dir();
    let output = again("signals_in_the_middle_of_faults_lose_nothing", dir.path(), &[]).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{:?} {}", output.status, text(&output));
}

/// In a round of forks each unit is a mapping of its own, so that each first store to one is a fault. Threads store in these; the child has as many, behind them.
const FORK_UNITS: usize = 96;
const FORK_THREADS: usize = 2;
/// Stores of one thread.
const FORK_STEPS: usize = FORK_UNITS / FORK_THREADS * 2;

/// Unit and offset of a thread's `step`th store: a store to each of its units, in no order, and another to the next page of each.
fn place_of(thread: usize, step: usize) -> (usize, usize) {
    let units = FORK_UNITS / FORK_THREADS;
    (thread * units + step * 7 % units, step / units * 4096 + 8 * thread)
}

/// A fork while threads store into a fresh file, as soon as these have made `until` stores. How many they had made when it was over.
fn fork_amid_stores(dir: &Path, until: usize) -> usize {
    let file = fresh(dir, (FORK_UNITS * 4 * MIB) as u64);
    let maps: Vec<MmapMut> = (0..2 * FORK_UNITS).map(|unit| map_unit(&file, unit)).collect();
    let before = udax::statistics().faults;
    let (made, start) = (AtomicUsize::new(0), Barrier::new(FORK_THREADS + 1));
    let made_by_then = std::thread::scope(|scope| {
        for thread in 0..FORK_THREADS {
            let (maps, made, start) = (&maps, &made, &start);
            scope.spawn(move || {
                start.wait();
                for (unit, offset) in (0..FORK_STEPS).map(|step| place_of(thread, step)) {
                    word(&maps[unit], offset).fetch_add(1, Ordering::Relaxed);
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        start.wait();
        while made.load(Ordering::SeqCst) < until {
            std::hint::spin_loop();
        }
        // SAFETY: the child makes only loads and stores, and _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            for map in &maps[FORK_UNITS..] {
                word(map, 0).fetch_add(7, Ordering::Relaxed);
            }
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let made_by_then = made.load(Ordering::SeqCst);
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0, "the child lives");
        made_by_then
    });
    let faults = udax::statistics().faults - before;
    let first_stores = until.min(FORK_UNITS / FORK_THREADS) as u64;
    assert!(faults >= first_stores, "{faults} faults: the fork was to come amid {until}");
    let is_stored = |unit: usize, offset: usize, number: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, (unit * 2 * MIB + offset) as u64).expect("read");
        let shown = word(&maps[unit], offset).load(Ordering::Relaxed);
        let found = (u64::from_ne_bytes(bytes), shown);
        assert_eq!(found, (number, number), "unit {unit}, with a fork after {until} stores");
    };
    for (thread, step) in (0..FORK_THREADS * FORK_STEPS).map(|n| (n % 2, n / FORK_THREADS)) {
        let (unit, offset) = place_of(thread, step);
        is_stored(unit, offset, 1);
    }
    (FORK_UNITS..2 * FORK_UNITS).for_each(|unit| is_stored(unit, 0, 7));
    made_by_then
}

/// What was open at a fork is served no more, so each fork has a file of its own.
#[test]
fn forks_in_the_middle_of_faults_lose_nothing() {
    const ROUNDS: usize = 50;
    if common::cannot_serve() {
        return;
    }
    if let Some(dir) = child() {
        let made: Vec<usize> = (0..ROUNDS).map(|until| fork_amid_stores(&dir, until)).collect();
        // In the others each unit may have been stored to by then, and nothing is left to fault.
        let amid = made.iter().filter(|&&made| made < FORK_UNITS).count();
        assert!(amid > 0, "each fork came behind the faults: {made:?}");
        return;
    }
    let dir = memory_dir();
    let output = again("forks_in_the_middle_of_faults_lose_nothing", dir.path(), &[]).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{:?} {}", output.status, text(&output));
}

/// The process's standard error, while it is a pipe that is full: whoever has something to say is held until it is drained.
struct FullPipe {
    reader: PipeReader,
    stderr: OwnedFd,
}

impl FullPipe {
    fn instead_of_stderr() -> Self {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        // SAFETY: numbers. It is given a page at least.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 1) };
        writer.write_all(&vec![0; usize::try_from(size).expect("a size")]).expect("it fits");
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().expect("a descriptor");
        let full = Self { reader, stderr };
        Self::becomes_stderr(&writer.into());
        full
    }

    fn becomes_stderr(fd: &OwnedFd) {
        // SAFETY: numbers of open descriptors.
        assert_eq!(unsafe { libc::dup2(fd.as_raw_fd(), 2) }, 2);
    }

    /// From here on nobody is held.
    fn drain(mut self) {
        Self::becomes_stderr(&self.stderr);
        // Until those have written who have the pipe still.
        std::io::copy(&mut self.reader, &mut std::io::sink()).expect("read");
    }
}

/// Waits until the thread that has named itself there sleeps.
fn sleeps(thread: &AtomicI32) {
    let is_asleep = || {
        let number = thread.load(Ordering::SeqCst);
        let stat = std::fs::read_to_string(format!("/proc/self/task/{number}/stat"));
        number != 0
            && stat.is_ok_and(|stat| [") S ", ") D "].iter().any(|state| stat.contains(state)))
    };
    while !is_asleep() {
        std::thread::yield_now();
    }
}

fn name_oneself(thread: &AtomicI32) {
    // SAFETY: asks a number.
    thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
}

/// Waits until the thread of that name is held by what it writes.
fn writes(name: &str) {
    let is_held = |task: std::io::Result<std::fs::DirEntry>| {
        let read = |what| std::fs::read_to_string(task.as_ref().ok()?.path().join(what)).ok();
        let call = format!("{} ", libc::SYS_write);
        read("comm").is_some_and(|comm| comm.trim() == name)
            && read("syscall").is_some_and(|now| now.starts_with(&call))
    };
    while !std::fs::read_dir("/proc/self/task").expect("proc is mounted").any(is_held) {
        std::thread::yield_now();
    }
}

/// The fault thread is held in the middle of a fault until it has been said that it is stuck, and nobody can say so for the moment. Another store waits for its turn.
/// Then somebody forks. Who waits for whom comes to an end, and no store is lost.
#[test]
fn a_fork_while_the_fault_thread_is_held_waits_for_it_and_loses_nothing() {
    const TEST: &str = "a_fork_while_the_fault_thread_is_held_waits_for_it_and_loses_nothing";
    if common::cannot_serve() {
        return;
    }
    let Some(dir) = child() else {
        let dir = memory_dir();
        let mut command = again(TEST, dir.path(), &[]);
        let output = command.env("UDAX_TEST_FAIL", "fault-thread-stuck:later").output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{:?} {}", output.status, text(&output));
        return;
    };
    // SAFETY: a number. Who hangs is ended by it.
    unsafe { libc::alarm(60) };
    let file = sparse(&dir, 64 << 20);
    let map = map(&file, 64 * MIB);
    let places: [usize; 3] = [5 * MIB, 25 * MIB, 45 * MIB];
    let store = |which: usize| word(&map, places[which]).store(which as u64 + 1, Ordering::Relaxed);
    let (waits, forks, released) = (AtomicI32::new(0), AtomicI32::new(0), AtomicBool::new(false));
    let full = FullPipe::instead_of_stderr();
    udax_linux::inject::now();
    let (waited, status) = std::thread::scope(|scope| {
        scope.spawn(|| store(0));
        writes("udax-call");
        scope.spawn(|| {
            name_oneself(&waits);
            store(1);
        });
        sleeps(&waits);
        scope.spawn(|| {
            sleeps(&forks);
            released.store(true, Ordering::SeqCst);
            full.drain();
        });
        name_oneself(&forks);
        // SAFETY: the child makes a store, and _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            store(2);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let (waited, mut status) = (released.load(Ordering::SeqCst), -1);
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        (waited, status)
    });
    assert!(waited, "a fork in the middle of a fault");
    assert_eq!(status, 0, "the child lives");
    for (which, place) in (1..).zip(places) {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, place as u64).expect("read");
        let found = (u64::from_ne_bytes(bytes), word(&map, place).load(Ordering::Relaxed));
        assert_eq!(found, (which, which), "at {place}");
    }
}
