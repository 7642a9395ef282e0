//! Bad input and bad luck: each test runs itself again as a child process, which meets the bad luck, and looks at how it ends.
#![expect(unsafe_code, reason = "mappings, signal handlers and fork are unsafe")]

mod common;

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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

/// Forbids a system call to this thread and those that it starts, as a container does: it fails with EPERM.
fn forbid(call: libc::c_long) {
    let load_number = 0x20; // BPF_LD | BPF_W | BPF_ABS, of `seccomp_data.nr`
    let jump_if_equal = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    let answer = 0x06; // BPF_RET | BPF_K
    let rule = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = u32::try_from(call).expect("a number");
    let mut rules = [
        rule(load_number, 0, 0, 0),
        rule(jump_if_equal, 0, 1, call),
        rule(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        rule(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: rules.as_mut_ptr() };
    // SAFETY: numbers.
    let given_up = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(given_up, 0, "no new privileges");
    let (set, mode) = (libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program is of that many rules, and borrowed for the call.
    let forbidden = unsafe { libc::prctl(set, mode, &raw const program) };
    assert_eq!(forbidden, 0, "seccomp: {}", std::io::Error::last_os_error());
}

#[test]
fn where_userfaultfd_is_refused_signals_serve_and_it_says_why() {
    if let Some(dir) = child() {
        forbid(libc::SYS_userfaultfd);
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

#[test]
fn forks_in_the_middle_of_faults_lose_nothing() {
    if common::cannot_serve() {
        return;
    }
    if let Some(dir) = child() {
        let file = sparse(&dir, 64 << 20);
        for round in 0..50 {
            file.set_len(0).expect("emptied");
            file.set_len(64 << 20).expect("a length");
            // SAFETY: nobody else has the file but the children, on purpose.
            let map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
            std::thread::scope(|scope| {
                for thread in 0..2 {
                    let map = &map;
                    scope.spawn(move || {
                        for offset in (0..32 * MIB).step_by(32 << 10) {
                            word(map, offset + thread * 8).fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                // SAFETY: the child makes only loads and stores, and _exit.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    for offset in (32 * MIB..64 * MIB).step_by(128 << 10) {
                        word(&map, offset).fetch_add(7, Ordering::Relaxed);
                    }
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(0) };
                }
                let mut status = -1;
                // SAFETY: waits for the child just made.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                assert_eq!(status, 0, "round {round}: the child lives");
            });
            for offset in (0..32 * MIB).step_by(32 << 10) {
                assert_eq!(word(&map, offset).load(Ordering::Relaxed), 1, "round {round}");
                assert_eq!(word(&map, offset + 8).load(Ordering::Relaxed), 1, "round {round}");
            }
            for offset in (32 * MIB..64 * MIB).step_by(128 << 10) {
                assert_eq!(
                    word(&map, offset).load(Ordering::Relaxed),
                    7,
                    "round {round}: the child's"
                );
            }
        }
        return;
    }
    let dir = memory_dir();
    let output = again("forks_in_the_middle_of_faults_lose_nothing", dir.path(), &[]).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{:?} {}", output.status, text(&output));
}
