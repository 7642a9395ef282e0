//! Both sides of a fork are shown the holes of what they only read.
#![expect(unsafe_code, reason = "mapping calls, and loads from what they return")]

mod common;
#[path = "common/fork.rs"]
mod fork;

use common::{PAGE, UNIT};
use fork::{ended_well, in_child};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use udax::program::{NativeCalls, Program, Settings};

const UNITS: usize = 16;
const READ: i32 = 1;
const READ_WRITE: i32 = 3;
const SHARED: i32 = 1;
const PRIVATE: i32 = 2;

/// Two programs of one process are not made to fork at the same time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn byte_at(address: usize) -> u8 {
    // SAFETY: all who call this name a byte of a mapping that stays.
    unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
}

fn reads_zeros(start: usize) -> bool {
    (0..UNITS * UNIT).step_by(PAGE).all(|offset| byte_at(start + offset) == 0)
}

fn program() -> Program {
    // SAFETY: the calls below map files of these tests' own where the kernel chooses, and unmap nothing.
    Program::new(unsafe { NativeCalls::new() }, Settings::default())
}

fn mapped_as(program: &Program, file: &File, rights: i32, sharing: i32) -> usize {
    program.mmap(0, UNITS * UNIT, rights, sharing, file.as_raw_fd(), 0).expect("mapped")
}

fn mapped(program: &Program, file: &File) -> usize {
    mapped_as(program, file, READ, SHARED)
}

fn store(address: usize, byte: u8) {
    // SAFETY: all who call this name a byte of a mapping that stays and may be stored to.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) }
}

/// The descriptor is closed before the fork, and the child opens the file by its name.
#[test]
fn a_child_is_shown_the_holes_of_its_parents_mappings() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let path = dir.path().join("holes");
    let file = File::create_new(&path).expect("made");
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    drop(file);
    let parents = program();
    let reader = File::open(&path).expect("opened");
    let (first, second) = (mapped(&parents, &reader), mapped(&parents, &reader));
    drop(reader);
    assert_eq!((byte_at(first), parents.statistics().files.len()), (0, 1));
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let reads = reads_zeros(first) && reads_zeros(second) && reads_zeros(first);
        let again = mapped(&anew, &File::open(&path).expect("opened"));
        reads && reads_zeros(again) && anew.statistics().files.len() == 1
    });
    fork.take().expect("held").parent();
    ended_well(child);
    assert!(reads_zeros(second));
    let storage = std::fs::metadata(&path).expect("looked at").blocks() * 512;
    assert!(storage <= 8 * PAGE as u64, "reading took {storage} bytes of storage");
}

/// To be read and written.
fn nameless() -> File {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file in memory");
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    file
}

fn say(end: &mut PipeWriter) -> bool {
    end.write_all(b"!").is_ok()
}

fn hear(end: &mut PipeReader) -> bool {
    end.read_exact(&mut [0]).is_ok()
}

/// A way to tell the other side of a fork something, and one to be told.
fn both_ways() -> ((PipeReader, PipeWriter), (PipeReader, PipeWriter)) {
    (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"))
}

/// Somebody whom nobody serves opens the file and writes what is loaded at `start`, where zero was loaded before.
fn is_seen_of_a_writer(path: &std::path::Path, start: usize) {
    assert_eq!(byte_at(start + UNIT), 0);
    let writer = std::fs::OpenOptions::new().write(true).open(path).expect("opened");
    writer.write_all_at(&[7], UNIT as u64).expect("written");
    assert_eq!(byte_at(start + UNIT), 7, "an old zero in the parent");
}

/// Each has a lease of its own, and is asked. The writer is a third, which nobody serves.
#[test]
fn who_writes_is_held_up_by_parent_and_child() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (dir, parents) = (tempfile::tempdir_in("/dev/shm").expect("a directory"), program());
    let path = dir.path().join("holes");
    File::create_new(&path).and_then(|file| file.set_len((UNITS * UNIT) as u64)).expect("made");
    let reader = File::open(&path).expect("opened");
    let start = mapped(&parents, &reader);
    let ((mut child_hears, mut told), (mut hears, mut child_tells)) = both_ways();
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let saw_zero = byte_at(start + UNIT) == 0 && anew.statistics().files.len() == 1;
        saw_zero && say(&mut child_tells) && hear(&mut child_hears) && byte_at(start + UNIT) == 7
    });
    fork.take().expect("held").parent();
    drop((child_tells, child_hears));
    assert!(hears.read_exact(&mut [0]).is_ok(), "the child is there");
    is_seen_of_a_writer(&path, start);
    assert!(say(&mut told));
    ended_well(child);
}

/// The file has another name by then, and its old one is another file's: the child is shown what it inherits by the kernel. What it maps by the descriptor that it
/// shares with its parent is served, by a lease that is not the parent's.
#[test]
fn a_child_that_maps_its_parents_descriptor_leaves_its_parent_the_lease() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (dir, parents) = (tempfile::tempdir_in("/dev/shm").expect("a directory"), program());
    let (path, later) = (dir.path().join("holes"), dir.path().join("later"));
    File::create_new(&path).and_then(|file| file.set_len((UNITS * UNIT) as u64)).expect("made");
    let reader = File::open(&path).expect("opened");
    let start = mapped(&parents, &reader);
    assert_eq!((byte_at(start + UNIT), parents.statistics().files.len()), (0, 1));
    std::fs::rename(&path, &later).expect("renamed");
    let another = File::create_new(&path).expect("made");
    another.set_len((UNITS * UNIT) as u64).expect("a length");
    another.write_all_at(&[9], UNIT as u64).expect("written");
    drop(another);
    let ((mut child_hears, mut told), (mut hears, mut child_tells)) = both_ways();
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let inherits = byte_at(start) == 0 && anew.statistics().files.is_empty();
        let again = mapped(&anew, &reader);
        let is_served = byte_at(again + UNIT) == 0 && anew.statistics().files.len() == 1;
        let is_told = inherits && is_served && say(&mut child_tells) && hear(&mut child_hears);
        is_told && byte_at(start + UNIT) == 7 && byte_at(again + UNIT) == 7
    });
    fork.take().expect("held").parent();
    drop((child_tells, child_hears));
    assert!(hears.read_exact(&mut [0]).is_ok(), "the child is there");
    is_seen_of_a_writer(&later, start);
    assert!(say(&mut told));
    ended_well(child);
}

/// No lease tells one side of what the other does by the mapping that both have. Nor does an opening, as the file has no name.
#[test]
fn what_may_be_written_is_shown_natively_on_both_sides() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (file, parents) = (nameless(), program());
    let start = mapped_as(&parents, &file, READ_WRITE, SHARED);
    assert!(reads_zeros(start));
    assert_eq!(parents.statistics().files.len(), 1, "the test is about a served file");
    let ((mut child_hears, mut told), (mut hears, mut child_tells)) = both_ways();
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (_anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let reads = byte_at(start + UNIT) == 0 && say(&mut child_tells);
        let sees = reads && hear(&mut child_hears) && byte_at(start + UNIT) == 7;
        store(start + 2 * UNIT, 8);
        sees && file.write_all_at(&[9], 3 * UNIT as u64).is_ok()
    });
    fork.take().expect("held").parent();
    drop((child_tells, child_hears));
    assert!(hears.read_exact(&mut [0]).is_ok(), "the child is there");
    assert_eq!((byte_at(start + 2 * UNIT), byte_at(start + 3 * UNIT)), (0, 0));
    store(start + UNIT, 7);
    assert!(say(&mut told));
    ended_well(child);
    assert_eq!((byte_at(start + 2 * UNIT), byte_at(start + 3 * UNIT)), (8, 9), "a lost byte");
}

/// It is mapped after the fork, by a descriptor that both have. The child maps it last: that opens the file, of which a lease tells.
#[test]
fn what_was_open_to_be_written_is_served_on_neither_side() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (file, parents) = (nameless(), program());
    let ((mut child_hears, mut told), (mut hears, mut child_tells)) = both_ways();
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let is_written = hear(&mut child_hears) && file.write_all_at(&[7], UNIT as u64).is_ok();
        let goes_on = is_written && say(&mut child_tells) && hear(&mut child_hears);
        let start = mapped_as(&anew, &file, READ_WRITE, SHARED);
        let reads = goes_on && byte_at(start + 2 * UNIT) == 0 && say(&mut child_tells);
        reads && hear(&mut child_hears) && byte_at(start + 2 * UNIT) == 8
    });
    fork.take().expect("held").parent();
    drop((child_hears, child_tells));
    let start = mapped_as(&parents, &file, READ_WRITE, SHARED);
    assert!(reads_zeros(start));
    assert!(say(&mut told) && hear(&mut hears), "the child is there");
    assert_eq!(byte_at(start + UNIT), 7, "a lost byte");
    assert!(say(&mut told) && hear(&mut hears), "the child is there");
    file.write_all_at(&[8], 2 * UNIT as u64).expect("written");
    assert!(say(&mut told));
    ended_well(child);
}

/// They are memory of each side's own from the fork on.
#[test]
fn private_copies_are_inherited() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (dir, parents) = (tempfile::tempdir_in("/dev/shm").expect("a directory"), program());
    let path = dir.path().join("holes");
    File::create_new(&path).and_then(|file| file.set_len((UNITS * UNIT) as u64)).expect("made");
    let reader = File::open(&path).expect("opened");
    let shown = mapped(&parents, &reader);
    let copies = mapped_as(&parents, &reader, READ_WRITE, PRIVATE);
    assert!(reads_zeros(shown) && reads_zeros(copies));
    store(copies + UNIT, 5);
    let mut fork = Some(parents.before_fork());
    let child = in_child(|| {
        let (anew, signals) = parents.in_child(fork.take().expect("held"));
        drop(signals);
        let inherits = byte_at(copies + UNIT) == 5 && anew.statistics().files.len() == 1;
        store(copies + 2 * UNIT, 6);
        inherits && byte_at(copies + 2 * UNIT) == 6 && reads_zeros(shown)
    });
    fork.take().expect("held").parent();
    ended_well(child);
    assert_eq!((byte_at(copies + UNIT), byte_at(copies + 2 * UNIT)), (5, 0));
    assert!(reads_zeros(shown));
}

/// A program that is started has the descriptors that were open then, and no lease tells of what it does by them. What it can only read goes on being served.
#[test]
fn what_a_started_program_may_write_is_served_no_more() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let (dir, parents, mut file) =
        (tempfile::tempdir_in("/dev/shm").expect("a directory"), program(), nameless());
    let path = dir.path().join("holes");
    File::create_new(&path).and_then(|file| file.set_len((UNITS * UNIT) as u64)).expect("made");
    let reader = File::open(&path).expect("opened");
    let (read, written) =
        (mapped(&parents, &reader), mapped_as(&parents, &file, READ_WRITE, SHARED));
    assert!(reads_zeros(read) && reads_zeros(written));
    assert_eq!(parents.statistics().files.len(), 2, "the test is about served files");
    file.seek(SeekFrom::Start(UNIT as u64)).expect("sought");
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf x"]).stdout(file.try_clone().expect("a second descriptor"));
    parents.before_spawn();
    assert!(shell.status().expect("it runs").success());
    assert_eq!(byte_at(written + UNIT), b'x', "a lost byte");
    parents.munmap(written, UNITS * UNIT).expect("unmapped");
    let again = mapped_as(&parents, &file, READ_WRITE, SHARED);
    assert_eq!(byte_at(again + UNIT), b'x');
    assert_eq!(parents.statistics().files.len(), 1, "the program may run on, and write");
    assert!(reads_zeros(read));
}

/// Whether the lease is being broken that some process has on the file of that inode.
fn is_breaking(inode: u64) -> bool {
    let locks = std::fs::read_to_string("/proc/locks").expect("proc is mounted");
    let of_file = format!(":{inode} ");
    locks.lines().any(|line| line.contains("BREAKING") && line.contains(&of_file))
}

/// A process that shows the file's zeros has the lease, and cannot give it back as it is stopped. By its end it does.
#[test]
fn an_opener_goes_on_when_the_holder_is_killed() {
    if common::cannot_serve() {
        return;
    }
    let _alone = ONE_AT_A_TIME.lock().expect("the other test holds");
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let path = dir.path().join("holes");
    File::create_new(&path).and_then(|file| file.set_len((UNITS * UNIT) as u64)).expect("made");
    let inode = std::fs::metadata(&path).expect("looked at").ino();
    let (mut hears, mut tells) = std::io::pipe().expect("a pipe");
    let child = in_child(|| {
        // SAFETY: numbers. It is not left behind, stopped, by a test that fails.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let program = program();
        let start = mapped(&program, &File::open(&path).expect("opened"));
        let is_served = reads_zeros(start) && program.statistics().files.len() == 1;
        // SAFETY: a number. It goes on by a signal.
        is_served && say(&mut tells) && unsafe { libc::raise(libc::SIGSTOP) } == 0
    });
    drop(tells);
    assert!(hear(&mut hears), "the child is shown zeros");
    let mut status = 0;
    // SAFETY: the status is borrowed for the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, libc::WUNTRACED) }, child);
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    assert!(!is_breaking(inode), "nobody has opened it yet");
    let opened = AtomicBool::new(false);
    let (opener, was_held) = std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            let file = std::fs::OpenOptions::new().write(true).open(&path);
            opened.store(true, Ordering::SeqCst);
            file
        });
        while !is_breaking(inode) && !opener.is_finished() {
            std::thread::yield_now();
        }
        let was_held = !opened.load(Ordering::SeqCst);
        // SAFETY: numbers; nobody has waited for the child's end yet.
        assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
        (opener.join().expect("it ends"), was_held)
    });
    assert!(was_held, "the file was opened while zeros were shown of it");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
    opener.expect("opened").write_all_at(&[7], UNIT as u64).expect("written");
    let mut bytes = [0; 2];
    let reader = File::open(&path).expect("opened");
    reader.read_exact_at(&mut bytes, UNIT as u64).expect("read");
    assert_eq!(bytes, [7, 0]);
    let start = mapped(&program(), &reader);
    assert_eq!((byte_at(start + UNIT), byte_at(start)), (7, 0));
}
