//! Both sides of a fork are shown the holes of what they only read.
#![expect(unsafe_code, reason = "mapping calls, and loads from what they return")]

mod common;
#[path = "common/fork.rs"]
mod fork;

use common::{PAGE, UNIT};
use fork::{ended_well, in_child};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Mutex;
use udax::program::{NativeCalls, Program, Settings};

const UNITS: usize = 16;
const READ: i32 = 1;
const SHARED: i32 = 1;

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

fn mapped(program: &Program, file: &File) -> usize {
    program.mmap(0, UNITS * UNIT, READ, SHARED, file.as_raw_fd(), 0).expect("mapped")
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

fn say(end: &mut PipeWriter) -> bool {
    end.write_all(b"!").is_ok()
}

fn hear(end: &mut PipeReader) -> bool {
    end.read_exact(&mut [0]).is_ok()
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
    let ((mut child_hears, mut told), (mut hears, mut child_tells)) =
        (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
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
    assert_eq!(byte_at(start + UNIT), 0);
    let writer = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    writer.write_all_at(&[7], UNIT as u64).expect("written");
    assert_eq!(byte_at(start + UNIT), 7, "an old zero in the parent");
    assert!(say(&mut told));
    ended_well(child);
}
