//! Without privilege: a userfaultfd that tells of faults in user mode only. Each test runs itself again as a child that has no other.
#![expect(unsafe_code, reason = "mappings and raw system calls are unsafe")]

mod common;
#[path = "common/seccomp.rs"]
mod seccomp;

use common::{PAGE, UNIT};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use udax::{Engine, Mmap, MmapMut, MmapOptions};
use udax_linux::UserfaultfdAccess;

const CHILD: &str = "UDAX_TEST_CHILD";
const UNITS: usize = 32;

fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn sparse(dir: &Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(dir.join("sparse"));
    let file = file.expect("the file can be made");
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    file
}

fn map(file: &std::fs::File) -> MmapMut {
    // SAFETY: nobody else has the file; what the tests do to it they do on purpose.
    let map = unsafe { MmapOptions::new().map_mut(file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    assert_eq!(udax::statistics().engine, Some("userfaultfd-user"));
    map
}

/// Runs `test` again, with that engine.
fn again(test: &str) {
    again_with(test, |command| command.env("UDAX_ENGINE", "userfaultfd-user"));
}

fn again_with(test: &str, environment: impl FnOnce(&mut Command) -> &mut Command) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let this = std::env::current_exe().expect("its own path");
    let mut command = Command::new(this);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    run(environment(&mut command), dir.path());
}

fn run(command: &mut Command, dir: &Path) {
    let output = command.env(CHILD, dir).output().expect("runs");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{said:?}");
}

#[test]
fn an_ordinary_user_reads_holes_without_storage_and_stores_reach_the_file() {
    let Some(dir) = child() else {
        // SAFETY: asks a number.
        if unsafe { libc::geteuid() } != 0 {
            return again("an_ordinary_user_reads_holes_without_storage_and_stores_reach_the_file");
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let test = "an_ordinary_user_reads_holes_without_storage_and_stores_reach_the_file";
        let allowed = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
        let mut command = common::as_nobody(dir.path(), test);
        // What such a user gets who asks for none.
        command.env_remove("UDAX_ENGINE");
        if allowed.is_ok_and(|allowed| allowed.trim() == "1") {
            // Then an ordinary user has the other kind as well.
            command.env("UDAX_ENGINE", "userfaultfd-user");
        }
        return run(&mut command, dir.path());
    };
    let file = sparse(&dir);
    let mut map = map(&file);
    assert!(map.iter().all(|byte| *byte == 0));
    assert_eq!(file.metadata().expect("it is there").blocks(), 0, "holes are holes");
    map[5 * UNIT + 7] = 9;
    let mut byte = [0];
    file.read_exact_at(&mut byte, (5 * UNIT + 7) as u64).expect("read");
    assert_eq!(byte, [9]);
}

/// What makes it necessary to prepare memory: the kernel cannot wait for us where it takes a fault itself.
#[test]
fn the_kernel_refuses_a_hole_until_it_is_prepared() {
    let Some(dir) = child() else {
        return again("the_kernel_refuses_a_hole_until_it_is_prepared");
    };
    let file = sparse(&dir);
    let mut map = map(&file);
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    // Over the border of two units.
    let part = UNIT - PAGE / 2..UNIT + PAGE / 2;
    let efault = Some(libc::EFAULT);
    assert_eq!(to.write(&map[part.clone()]).map_err(|e| e.raw_os_error()), Err(efault));
    let prepared = udax::prepare_to_be_read(&map[part.clone()]);
    assert!(prepared.is_some());
    assert_eq!(to.write(&map[part.clone()]).ok(), Some(PAGE));
    drop(prepared);
    // Where the first page is ready, and the memory ends in another.
    let end = 9 * UNIT;
    assert_eq!(map[end - 1], 0);
    let prepared = udax::prepare_to_be_read(&map[end - 8..end + 8]);
    assert_eq!(to.write(&map[end - 8..end + 8]).ok(), Some(16));
    drop(prepared);
    let blocks = file.metadata().expect("it is there").blocks();
    assert_eq!(blocks, 0, "the kernel, too, has read zeros");
    assert_eq!(from.read(&mut [1; 16]).ok(), Some(16));

    assert_eq!(from.read(&mut map[part.clone()]).map_err(|e| e.raw_os_error()), Err(efault));
    to.write_all(&[8; 16]).expect("written");
    let prepared = udax::prepare_to_be_written(&mut map[part.clone()]);
    assert_eq!(from.read(&mut map[part.clone()]).ok(), Some(PAGE));
    drop(prepared);
    let mut sixteen = [0; 16];
    let _prepared = udax::prepare_to_be_written(&mut map[..16]);
    // SAFETY: the memory is the mapping's, and that long.
    let count = unsafe { libc::read(from.as_raw_fd(), map.as_mut_ptr().cast(), 16) };
    assert_eq!(count, 16);
    file.read_exact_at(&mut sixteen, 0).expect("read");
    assert_eq!(sixteen, [8; 16], "what the kernel wrote is in the file");
}

#[test]
fn private_mappings_are_prepared_as_well_and_keep_what_is_theirs() {
    let Some(dir) = child() else {
        return again("private_mappings_are_prepared_as_well_and_keep_what_is_theirs");
    };
    let file = sparse(&dir);
    // SAFETY: nobody else has the file.
    let mut map = unsafe { MmapOptions::new().map_copy(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    map[3 * UNIT] = 5;
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    to.write_all(&[7; 32]).expect("written");
    let part = 3 * UNIT + 8..3 * UNIT + 40;
    let prepared = udax::prepare_to_be_written(&mut map[part.clone()]);
    assert_eq!(from.read(&mut map[part.clone()]).ok(), Some(32));
    drop(prepared);
    assert_eq!((map[3 * UNIT], map[3 * UNIT + 8], map[3 * UNIT + 39]), (5, 7, 7));
    let mut byte = [1; 16];
    file.read_exact_at(&mut byte, (3 * UNIT) as u64).expect("read");
    assert_eq!(byte, [0; 16], "the file has none of it");
}

/// The library's own reads and writes need nobody's help.
#[test]
fn reading_and_writing_files_from_and_into_holes_works() {
    let Some(dir) = child() else {
        return again("reading_and_writing_files_from_and_into_holes_works");
    };
    let file = sparse(&dir);
    let mut map = map(&file);
    let other = udax::File::create(dir.join("other")).expect("made");
    assert_eq!(other.write_at(&map[..3 * PAGE], 0).ok(), Some(3 * PAGE));
    assert_eq!(other.write_at(b"data", 5).ok(), Some(4));
    assert_eq!(other.read_at(&mut map[UNIT..UNIT + PAGE], 0).ok(), Some(PAGE));
    assert_eq!(&map[UNIT + 5..UNIT + 9], b"data");
}

#[test]
fn where_the_kernel_needs_no_help_nothing_is_prepared() {
    let Some(dir) = child() else {
        // SAFETY: asks a number.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: an ordinary user has no such engine");
            return;
        }
        let test = "where_the_kernel_needs_no_help_nothing_is_prepared";
        // Whatever the others are asked to run with.
        return again_with(test, |command| command.env("UDAX_ENGINE", "userfaultfd"));
    };
    if common::cannot_serve() {
        return;
    }
    let file = sparse(&dir);
    // SAFETY: nobody else has the file.
    let map = unsafe { Mmap::map(&file) }.expect("mapped");
    assert!(udax::prepare_to_be_read(&map[..PAGE]).is_none());
    let (_from, mut to) = std::io::pipe().expect("a pipe");
    assert_eq!(to.write(&map[..PAGE]).ok(), Some(PAGE), "the kernel waits for us");
}

/// Gives everybody the device in a mount namespace of its own, and runs the rest there. The device itself may be on a file system whose nodes are no devices.
const WITH_THE_DEVICE: &str = r#"
    number=$(awk '$2 == "userfaultfd" { print $1 }' /proc/misc) && mkdir nodes && mount -t tmpfs none nodes &&
    mknod -m 666 nodes/userfaultfd c 10 "$number" && mount --bind nodes/userfaultfd /dev/userfaultfd || exit 77
    exec "$@""#;

/// Where a user may have the device there is no need of the system call, nor of preparing memory.
#[test]
fn a_user_who_may_open_the_device_has_the_best_engine_by_it() {
    const TEST: &str = "a_user_who_may_open_the_device_has_the_best_engine_by_it";
    let allowed = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    let Some(dir) = child() else {
        let devices = std::fs::read_to_string("/proc/misc").expect("proc is mounted");
        // SAFETY: asks a number.
        if unsafe { libc::geteuid() } != 0 || !devices.contains(" userfaultfd\n") {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {TEST}: no root to give it, or no /dev/userfaultfd (Linux 6.1)"
            );
            return;
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let user = common::as_nobody(dir.path(), TEST);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITH_THE_DEVICE, "sh"]).current_dir(dir.path());
        command.arg(user.get_program()).args(user.get_args()).env_remove("UDAX_ENGINE");
        return run(&mut command, dir.path());
    };
    // Else everybody has the call, which comes first.
    if allowed.is_ok_and(|allowed| allowed.trim() == "1") {
        seccomp::forbid(libc::SYS_userfaultfd);
    }
    let found = udax_linux::probe();
    assert_eq!(found.userfaultfd, UserfaultfdAccess::Device);
    assert_eq!(found.engine(), Ok((Engine::Userfaultfd, None)));
    let file = sparse(&dir);
    // SAFETY: nobody else has the file.
    let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    assert_eq!(to.write(&map[..PAGE]).ok(), Some(PAGE), "the kernel waits for us");
    assert_eq!(file.metadata().expect("it is there").blocks(), 0, "holes are holes");
    assert_eq!(from.read(&mut map[UNIT..UNIT + PAGE]).ok(), Some(PAGE));
    map[5 * UNIT + 7] = 9;
    let mut byte = [0];
    file.read_exact_at(&mut byte, (5 * UNIT + 7) as u64).expect("read");
    assert_eq!(byte, [9]);
    let statistics = udax::statistics();
    assert_eq!((statistics.engine, statistics.why_not_better), (Some("userfaultfd"), None));
    assert!(statistics.faults >= 3, "{} faults", statistics.faults);
}
