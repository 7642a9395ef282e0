//! The library on real memory, as a user of memmap2 would use it.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use udax::{MmapOptions, UnitState};

const MIB: usize = 1 << 20;

/// A file of its own in a directory of its own, on tmpfs and on the disk.
fn places() -> Vec<tempfile::TempDir> {
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut places = vec![tempfile::tempdir_in(disk).expect("a directory on the disk")];
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        places.push(memory);
    }
    places
}

fn sparse(dir: &tempfile::TempDir, bytes: u64) -> (std::fs::File, PathBuf) {
    let path = dir.path().join("sparse");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("the file can be made");
    file.set_len(bytes).expect("a length");
    (file, path)
}

fn served(map: &udax::MapReport) -> bool {
    if let Some(why) = &map.plain_because {
        eprintln!("left plain: {why}");
    }
    map.plain_because.is_none()
}

#[test]
fn reading_a_hole_allocates_nothing_and_reads_zeros() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, _) = sparse(&dir, 256 << 20);
        // SAFETY: nobody else has the file.
        let map = unsafe { MmapOptions::new().map(&file) }.expect("mapped");
        assert!(served(&map.report()), "a lease is to be had on a file of one's own");
        assert!(map.iter().step_by(4096).all(|&byte| byte == 0));
        assert_eq!(file.metadata().expect("metadata").blocks(), 0, "the hole is still a hole");
        let report = map.report();
        assert!(report.units.iter().all(|unit| unit.state == UnitState::Zero), "{report:?}");
    }
}

#[test]
fn stores_reach_the_file_and_nothing_else_does() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, path) = sparse(&dir, 64 << 20);
        // SAFETY: nobody else has the file.
        let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
        assert!(served(&map.report()));
        let offsets = [0, 4095, 5 * MIB + 17, 32 * MIB, 64 * MIB - 1];
        for (value, &offset) in (1_u8..).zip(&offsets) {
            assert_eq!(map[offset], 0);
            map[offset] = value;
        }
        map.flush().expect("flushed");
        let mut bytes = Vec::new();
        OpenOptions::new()
            .read(true)
            .open(path)
            .expect("opens")
            .read_to_end(&mut bytes)
            .expect("reads");
        for (value, &offset) in (1_u8..).zip(&offsets) {
            assert_eq!(bytes[offset], value, "at {offset}");
            bytes[offset] = 0;
        }
        assert!(bytes.iter().all(|&byte| byte == 0), "only the bytes stored are in the file");
        assert!(file.metadata().expect("metadata").blocks() * 512 < MIB as u64, "still sparse");
    }
}

#[test]
fn two_mappings_of_one_file_show_each_others_stores() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, _) = sparse(&dir, 32 << 20);
        // SAFETY: only this test has the file, and it reads one byte at a time.
        let mut first = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
        // SAFETY: as above.
        let second = unsafe { MmapOptions::new().offset(4 << 20).map(&file) }.expect("mapped");
        assert!(served(&first.report()) && served(&second.report()));
        for offset in (4 * MIB..32 * MIB).step_by(MIB) {
            assert_eq!(second[offset - 4 * MIB], 0);
            first[offset] = 7;
            assert_eq!(second[offset - 4 * MIB], 7, "at {offset}");
        }
    }
}

#[test]
fn a_write_through_the_library_is_seen_by_the_next_load() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, _) = sparse(&dir, 32 << 20);
        let file = udax::File::from(file);
        // SAFETY: only this test has the file, and it reads one byte at a time.
        let map = unsafe { MmapOptions::new().map(&file) }.expect("mapped");
        assert!(map.iter().step_by(4096).all(|&byte| byte == 0));
        for offset in (0..32 * MIB).step_by(3 * MIB + 4096) {
            file.write_at(b"seen", offset as u64).expect("written");
            assert_eq!(&map[offset..offset + 4], b"seen", "at {offset}");
        }
        assert!(served(&map.report()), "a write of our own does not end the service");
        file.set_len(16 << 20).expect("shorter");
        file.set_len(32 << 20).expect("longer");
        assert_eq!(map[20 * MIB], 0, "beyond a cut everything is zeros again");
    }
}

#[test]
fn private_stores_stay_private_and_survive_the_end_of_the_service() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, path) = sparse(&dir, 32 << 20);
        // SAFETY: only this test has the file.
        let mut map = unsafe { MmapOptions::new().map_copy(&file) }.expect("mapped");
        assert!(served(&map.report()));
        map[3 * MIB] = 1;
        map[9 * MIB] = 2;
        // Opening it elsewhere breaks the lease; the plain mapping goes in, with the copies.
        let other = OpenOptions::new().write(true).open(path).expect("opens");
        assert!(!served(&map.report()));
        other.write_all_at(b"x", 20 << 20).expect("written");
        assert_eq!((map[3 * MIB], map[9 * MIB], map[20 * MIB]), (1, 2, b'x'));
        let mut byte = [9];
        file.read_at(&mut byte, 3 << 20).expect("reads");
        assert_eq!(byte, [0], "private stores never reach the file");
    }
}

#[test]
fn a_second_opening_for_writing_ends_the_zeros_before_it_returns() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, path) = sparse(&dir, 32 << 20);
        // SAFETY: only this test has the file, and it reads one byte at a time.
        let map = unsafe { MmapOptions::new().map(&file) }.expect("mapped");
        assert!(map.iter().step_by(4096).all(|&byte| byte == 0));
        let other = OpenOptions::new().write(true).open(path).expect("opens");
        for offset in (0..32 * MIB).step_by(MIB) {
            other.write_all_at(b"!", offset as u64).expect("written");
            assert_eq!(map[offset], b'!', "at {offset}");
        }
    }
}

#[test]
fn offsets_and_lengths_need_no_alignment() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (mut file, _) = sparse(&dir, 16 << 20);
        file.seek(SeekFrom::Start(0)).expect("seeks");
        file.write_all_at(b"hello", 4097).expect("written");
        // SAFETY: only this test has the file.
        let map =
            unsafe { MmapOptions::new().offset(4097).len(5 * MIB + 3).map(&file) }.expect("mapped");
        assert_eq!(map.len(), 5 * MIB + 3);
        assert_eq!(&map[..5], b"hello");
        assert!(map[5..].iter().all(|&byte| byte == 0));
        // SAFETY: only this test has the file.
        let empty = unsafe { MmapOptions::new().len(0).map(&file) }.expect("mapped");
        assert!(empty.is_empty());
    }
}

#[test]
fn errors_name_file_range_and_cause() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (_, path) = sparse(&dir, 4 << 20);
    let read_only = OpenOptions::new().read(true).open(&path).expect("opens");
    // SAFETY: nothing is mapped.
    let error = unsafe { MmapOptions::new().map_mut(&read_only) }.expect_err("cannot be written");
    let text = error.to_string();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(text.contains("sparse") && text.contains("4194304"), "{text}");
}

#[test]
fn mappings_of_parts_of_a_unit_never_show_stale_zeros() {
    if common::cannot_serve() {
        return;
    }
    for dir in places() {
        let (file, _) = sparse(&dir, 16 << 20);
        // SAFETY: only this test has the file, and it reads and writes one byte at a time.
        let mut whole = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
        let mut options = MmapOptions::new();
        // SAFETY: as above. It begins and ends inside of 2 MiB units.
        let mut part =
            unsafe { options.offset(1 << 20).len(9 * MIB).map_mut(&file) }.expect("mapped");
        assert!(served(&whole.report()) && served(&part.report()));
        assert!(whole.iter().step_by(4096).chain(part.iter().step_by(4096)).all(|&byte| byte == 0));
        for (turn, offset) in (0..9 * MIB).step_by(5 * 4096).enumerate() {
            if turn % 2 == 0 {
                whole[MIB + offset] = 3;
            } else {
                part[offset] = 3;
            }
            assert_eq!((whole[MIB + offset], part[offset]), (3, 3), "at {offset}");
            assert_eq!(
                (whole[MIB + offset + 4096], part[offset + 4096]),
                (0, 0),
                "behind {offset}"
            );
        }
    }
}
