//! Forks of a program that uses the library.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;
#[path = "common/fork.rs"]
mod fork;

use common::{PAGE, UNIT, disk, sparse, wait_for_giving_back};
use fork::{ended_well, in_child};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use udax::MmapOptions;

const UNITS: usize = 16;

/// The lock that a sync takes may be held by a thread that the child does not have.
#[test]
fn a_child_of_fork_syncs_while_its_parent_gives_back() {
    if common::cannot_serve() {
        return;
    }
    let small = sparse(Path::new("/dev/shm"), 0);
    small.set_len(PAGE as u64).expect("a length");
    let small = MmapOptions::new().map_shared(&small).expect("mapped");
    // A file that was open at a fork is served no more, nor is one that gets its inode.
    let mut open = Vec::new();
    for _ in 0..6 {
        let file = sparse(disk(), 128);
        let map = MmapOptions::new().map_shared(&file).expect("mapped");
        assert_eq!(map.report().plain_because, None, "it is to be served");
        let before = udax::statistics().given_back_pages;
        for unit in 0..128 {
            map.store(unit * UNIT + unit * 7919 % 512 * PAGE, &[1]);
        }
        wait_for_giving_back(before);
        ended_well(in_child(|| {
            small.store(0, &[1]);
            small.flush().is_ok()
        }));
        open.push(file);
    }
}

/// Only for what is open for reading alone: so the file is dropped that can write it.
#[test]
fn a_parent_goes_on_being_shown_the_holes_of_what_it_only_reads() {
    if common::cannot_serve() {
        return;
    }
    let file = sparse(Path::new("/dev/shm"), UNITS);
    let reader = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let reader = reader.expect("opened for reading");
    drop(file);
    // SAFETY: nobody stores to the file.
    let map = unsafe { MmapOptions::new().map(&reader) }.expect("mapped");
    assert_eq!(map.report().plain_because, None, "it is to be served");
    assert_eq!(map[0], 0);
    let child = in_child(|| {
        // SAFETY: the same.
        let again = unsafe { MmapOptions::new().map(&reader) };
        let is_plain =
            again.is_ok_and(|again| again[UNIT] == 0 && again.report().plain_because.is_some());
        is_plain && map[UNIT] == 0
    });
    ended_well(child);
    assert_eq!(map.report().plain_because, None, "it is served still");
    assert!(map.iter().step_by(PAGE).all(|&byte| byte == 0));
    let storage = reader.metadata().expect("looked at").blocks() * 512;
    assert!(storage <= 8 * PAGE as u64, "reading took {storage} bytes of storage");
}
