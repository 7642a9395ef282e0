//! Space that runs out, and files that are cut by others: what the library reserves, and copies in and out without a signal.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;

use common::{CHILD, Mounted, PAGE, UNIT};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use udax::{Mmap, MmapMut, MmapOptions, UnitState};

const MIB: usize = 1 << 20;

fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn sparse(dir: &Path, bytes: usize) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(dir.join("sparse"));
    let file = file.expect("the file can be made");
    file.set_len(bytes as u64).expect("a length");
    file
}

fn map_mut(file: &std::fs::File) -> MmapMut {
    // SAFETY: nobody else has the file; what the tests do to it they do on purpose, and then load from no slice of it.
    let map = unsafe { MmapOptions::new().keep_file().map_mut(file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "the test is about served mappings");
    map
}

fn map(file: &std::fs::File) -> Mmap {
    // SAFETY: as above.
    unsafe { MmapOptions::new().keep_file().map(file) }.expect("mapped")
}

fn storage(file: &std::fs::File) -> u64 {
    file.metadata().expect("metadata").blocks() * 512
}

/// Another process sets the length.
fn cut_by_another(dir: &Path, bytes: usize) {
    // truncate(1) would not wait for the lease.
    let mut command = Command::new("dd");
    command.args(["status=none", "if=/dev/null", "bs=1"]).arg(format!("seek={bytes}"));
    command.arg(format!("of={}", dir.join("sparse").display()));
    assert!(command.status().expect("dd can be run").success());
}

/// Runs `test` on a small tmpfs and on a small ext4, each of 64 MiB; the child must end as `ends` says.
fn on_small_file_systems(test: &str, ends: impl Fn(std::process::ExitStatus, &str)) {
    for mounted in [Mounted::Tmpfs(64), Mounted::Ext4(64)] {
        let dir = tempfile::tempdir_in(common::disk()).expect("a directory");
        let mut command = common::on_its_own(test, dir.path(), mounted);
        if let Some((status, errors)) = common::outcome(&mut command) {
            ends(status, &format!("{mounted:?}: {status}: {errors}"));
        }
    }
}

fn fill_up(dir: &Path) {
    let mut filler = std::fs::File::create(dir.join("filler")).expect("made");
    let _ = std::io::copy(&mut std::io::repeat(1), &mut filler);
    // Down to the last block.
    let _ = std::io::copy(&mut std::io::repeat(1).take(1), &mut filler);
}

#[test]
fn stores_into_what_is_reserved_do_not_run_out_of_space() {
    if common::cannot_serve() {
        return;
    }
    let Some(dir) = child() else {
        let test = "stores_into_what_is_reserved_do_not_run_out_of_space";
        return on_small_file_systems(test, |status, words| assert!(status.success(), "{words}"));
    };
    let file = sparse(&dir, 256 * MIB);
    let mut map = map_mut(&file);
    let reserved = 64 * MIB + 3..70 * MIB;
    assert_eq!(map[65 * MIB], 0, "zeros are shown already");
    map.reserve(reserved.start, reserved.len()).expect("there is space");
    map.reserve(reserved.start, reserved.len()).expect("once more is nothing new");
    assert!(storage(&file) >= reserved.len() as u64);
    fill_up(&dir);
    assert_eq!(map.report().plain_because, None, "it goes on being served");
    let mut all = (0..256 * MIB).step_by(PAGE);
    assert!(all.all(|offset| map[offset] == 0), "reserved is not written");
    let before = storage(&file);
    assert!(map.report().units.iter().filter(|unit| unit.state == UnitState::Zero).count() > 120);
    for offset in reserved.clone().step_by(PAGE) {
        map[offset] = 7;
    }
    map.flush().expect("there is space for all of it");
    assert!(storage(&file) <= before + PAGE as u64, "nothing else has been allocated");
    let read = std::fs::read(dir.join("sparse")).expect("read");
    let is_there = |offset: usize| (map[offset], read[offset]) == (7, 7);
    assert!(reserved.clone().step_by(PAGE).all(is_there), "all of it is in the file");
    let error = map.reserve(0, 128 * MIB).expect_err("there is no space for that");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let words = error.to_string();
    assert!(words.contains("reserve") && words.contains("/sparse"), "{words}");
    assert!(reserved.step_by(PAGE).all(|offset| map[offset] == 7), "and nothing is lost by it");
}

#[test]
fn a_store_without_space_is_sigbus_unless_it_was_reserved() {
    if common::cannot_serve() {
        return;
    }
    let Some(dir) = child() else {
        let test = "a_store_without_space_is_sigbus_unless_it_was_reserved";
        return on_small_file_systems(test, |status, words| {
            assert_eq!(status.signal(), Some(7), "{words}");
        });
    };
    let mut map = map_mut(&sparse(&dir, 256 * MIB));
    map.reserve(0, UNIT).expect("there is space");
    fill_up(&dir);
    for offset in (0..256 * MIB).step_by(PAGE) {
        assert!(offset < 200 * MIB, "the file system has 64 MiB");
        map[offset] = 1;
    }
}

#[test]
fn a_reservation_that_is_refused_names_file_range_and_cause() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in(common::disk()).expect("a directory");
    let file = udax::File::from(sparse(dir.path(), 8 * MIB));
    let error = file.reserve(1 << 62, 1 << 61).expect_err("no file is as large");
    let words = error.to_string();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{words}");
    let range = "reserve 2305843009213693952 bytes at 4611686018427387904";
    assert!(words.contains(range) && words.contains("/sparse"), "{words}");
    // SAFETY: the slice is not used.
    let map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    let kinds = [map.reserve(0, 9 * MIB), map.reserve(0, MIB)].map(|e| e.map_err(|e| e.kind()));
    assert_eq!(kinds, [Err(ErrorKind::InvalidInput); 2], "out of bounds, and not kept");
}

#[test]
fn what_another_process_cuts_off_is_a_short_read() {
    if common::cannot_serve() {
        return;
    }
    for place in [Path::new("/dev/shm"), common::disk()] {
        let dir = tempfile::tempdir_in(place).expect("a directory");
        let file = sparse(dir.path(), 64 * MIB);
        let mut stores = map_mut(&file);
        stores[10 * MIB..10 * MIB + 5].copy_from_slice(b"hello");
        drop(stores);
        let map = map(&file);
        assert_eq!(map.report().plain_because, None);
        let before = storage(&file);
        let mut bytes = vec![9; 3 * MIB];
        for offset in (0..64 * MIB).step_by(bytes.len()) {
            let count = map.read_at(offset, &mut bytes).expect("read");
            assert_eq!(count, bytes.len().min(64 * MIB - offset));
            let stored = 10 * MIB - offset.min(10 * MIB);
            let expected = (offset == 9 * MIB).then(|| b"hello".to_vec()).unwrap_or(vec![0; 5]);
            assert_eq!(bytes[stored % bytes.len()..][..5], expected, "at {offset}");
            let zeros = bytes[..count].iter().filter(|&&byte| byte == 0).count();
            assert!(zeros >= count - 5, "at {offset}");
        }
        assert_eq!(storage(&file), before, "holes are free");
        assert_eq!(cached_pages(&map), 1, "and take no page cache: the one page is the stored one");
        cut_by_another(dir.path(), 10 * MIB + 3);
        assert!(map.report().plain_because.is_some(), "another process has it open");
        assert_eq!(map.read_at(10 * MIB - 5, &mut bytes).expect("read"), 8);
        assert_eq!(&bytes[..8], b"\0\0\0\0\0hel");
        for offset in [10 * MIB + 3, 20 * MIB, 64 * MIB, 65 * MIB] {
            assert_eq!(map.read_at(offset, &mut bytes).expect("no error, and no signal"), 0);
        }
    }
}

#[test]
fn a_hole_ends_with_the_file() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in(common::disk()).expect("a directory");
    let file = sparse(dir.path(), 8 * MIB + 100);
    let mut options = MmapOptions::new();
    // SAFETY: the slice is not used.
    let map = unsafe { options.keep_file().len(16 * MIB).map(&file) }.expect("mapped");
    assert_eq!(map.report().plain_because, None);
    let mut bytes = vec![1; 10 * MIB];
    assert_eq!(map.read_at(7 * MIB, &mut bytes).expect("read"), MIB + 100);
    assert_eq!(map.read_at(8 * MIB + 100, &mut bytes).expect("read"), 0);
    // The program's own way to cut it, past the library: the proof goes on.
    file.set_len(5 << 20).expect("cut");
    assert_eq!(map.read_at(4 * MIB, &mut bytes).expect("read"), MIB);
    assert_eq!(map.read_at(6 * MIB, &mut bytes).expect("read"), 0);
}

/// Pages of the mapped file that are in memory.
fn cached_pages(map: &Mmap) -> usize {
    let mut pages = vec![0_u8; map.len().div_ceil(PAGE)];
    let (length, flags) = (map.len(), libc::MAP_SHARED);
    let fd = std::fs::read_dir("/proc/self/fd").expect("listed").find_map(|entry| {
        let path = entry.ok()?.path();
        let name = std::fs::read_link(&path).ok()?;
        let number = path.file_name()?.to_str()?.parse().ok()?;
        name.ends_with("sparse").then_some(number)
    });
    let fd: i32 = fd.expect("the file is open");
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: `pages` has a byte for each page of the mapping.
    let told = unsafe { libc::mincore(at, length, pages.as_mut_ptr()) };
    // SAFETY: nobody uses it.
    unsafe { libc::munmap(at, length) };
    assert_eq!(told, 0);
    pages.iter().filter(|&&page| page & 1 != 0).count()
}

#[test]
fn what_is_copied_in_reaches_the_file_and_never_makes_it_longer() {
    if common::cannot_serve() {
        return;
    }
    for place in [Path::new("/dev/shm"), common::disk()] {
        let dir = tempfile::tempdir_in(place).expect("a directory");
        let file = sparse(dir.path(), 64 * MIB);
        let mut map = map_mut(&file);
        let from: Vec<u8> = (1..=255).cycle().take(5 * MIB).collect();
        assert_eq!(map.write_at(7 * MIB + 5, &from).expect("written"), from.len());
        assert_eq!(map[7 * MIB + 5..12 * MIB + 5], from, "the mapping shows it");
        assert_eq!(
            map.write_at(64 * MIB - 9, &from).expect("written"),
            9,
            "up to the mapping's end"
        );
        cut_by_another(dir.path(), 8 * MIB + 7);
        assert_eq!(map.write_at(8 * MIB, &from).expect("no signal"), 7);
        assert_eq!(map.write_at(8 * MIB + 7, &from).expect("no signal"), 0);
        assert_eq!(map.write_at(20 * MIB, &from).expect("no signal"), 0);
        let read = std::fs::read(dir.path().join("sparse")).expect("read");
        assert_eq!(read.len(), 8 * MIB + 7, "it is as long as it was cut");
        assert_eq!(read[8 * MIB..], from[..7]);
        assert_eq!(read[7 * MIB + 5..8 * MIB], from[..MIB - 5]);
        cut_by_another(dir.path(), 9 * MIB);
        let mut bytes = [1; 100];
        assert_eq!(map.read_at(8 * MIB + 7, &mut bytes).expect("read"), 100);
        assert_eq!(bytes, [0; 100], "nothing that was not counted comes to light later");
    }
}

#[test]
fn a_copy_that_finds_no_space_is_an_error_and_no_signal() {
    if common::cannot_serve() {
        return;
    }
    let Some(dir) = child() else {
        let test = "a_copy_that_finds_no_space_is_an_error_and_no_signal";
        return on_small_file_systems(test, |status, words| assert!(status.success(), "{words}"));
    };
    let file = sparse(&dir, 256 * MIB);
    let mut map = map_mut(&file);
    let from = vec![3; 256 * MIB];
    let count = map.write_at(0, &from).expect("the first byte finds room");
    assert!(count > 32 * MIB && count <= 64 * MIB, "{count} bytes on 64 MiB");
    let error = map.write_at(count, &from).expect_err("and here it ended");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let words = error.to_string();
    assert!(words.contains(&format!("at {count} of")) && words.contains("/sparse"), "{words}");
    map.flush().expect("all that was counted has a place");
    let mut read = std::fs::File::open(dir.join("sparse")).expect("opened");
    let mut bytes = vec![0; count + 10];
    read.read_exact(&mut bytes).expect("read");
    assert!(bytes[..count].iter().all(|&byte| byte == 3) && bytes[count..] == [0; 10]);
}

#[test]
fn a_mapping_that_is_not_served_reads_and_writes_all_the_same() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in(common::disk()).expect("a directory");
    let file = sparse(dir.path(), 10_000);
    let mut options = MmapOptions::new();
    // SAFETY: the slice is not used.
    let mut map = unsafe { options.keep_file().offset(5000).map_mut(&file) }.expect("mapped");
    drop(file);
    assert!(map.report().plain_because.is_some(), "it is too small");
    assert_eq!(map.write_at(90, b"abc").expect("written"), 3);
    let mut bytes = [1; 5];
    assert_eq!(map.read_at(89, &mut bytes).expect("read"), 5);
    assert_eq!(&bytes, b"\0abc\0");
    assert_eq!(&std::fs::read(dir.path().join("sparse")).expect("read")[5090..5093], b"abc");
    assert_eq!(map.read_at(4999, &mut bytes).expect("read"), 1);
    assert_eq!(map.read_at(5001, &mut bytes).expect("read"), 0);
}
