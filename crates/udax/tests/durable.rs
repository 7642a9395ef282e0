//! What msync(2) has made durable: all that was stored in its range, through whatever mapping, and whatever udax shows there.
#![expect(unsafe_code, reason = "the kernel is asked what it has not written")]

mod common;

use std::os::fd::AsRawFd;

use common::{PAGE, UNIT, disk, sparse, wait_for_giving_back};
use udax::{File, MmapOptions};

/// The pages of a file for which the file system has no place on the disk yet, as they are not written (FIEMAP_EXTENT_DELALLOC).
/// None if it does not tell.
fn not_written(file: &File) -> Option<Vec<u64>> {
    const FS_IOC_FIEMAP: u64 = 0xc020_660b;
    const HEAD: usize = 4;
    const EXTENT: usize = 7;
    const EXTENTS: usize = 512;
    const DELALLOC: u64 = 4;
    let mut request = vec![0_u64; HEAD + EXTENT * EXTENTS];
    // `struct fiemap`: start and length; flags and mapped_extents; extent_count and a reserved word.
    request[1] = u64::MAX;
    request[3] = EXTENTS as u64;
    // SAFETY: the request is as long as the extents that it asks for need.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, request.as_mut_ptr()) };
    if answer != 0 {
        return None;
    }
    let count = usize::try_from(request[2] >> 32).ok()?;
    let extents = request[HEAD..].chunks_exact(EXTENT).take(count);
    let waiting = extents.filter(|extent| extent[5] & DELALLOC != 0);
    Some(waiting.map(|extent| extent[0] / PAGE as u64).collect())
}

/// Whether the file system tells what it has not written.
fn tells() -> bool {
    let file = sparse(disk(), 1);
    file.write_at(&[1], 0).expect("written");
    let tells = not_written(&file).is_some_and(|pages| pages == [0]);
    if !tells {
        eprintln!("SKIPPED: {} does not tell what it has not written", disk().display());
    }
    tells
}

#[test]
fn a_sync_of_one_mapping_writes_what_was_stored_through_another() {
    if common::cannot_serve() || !tells() {
        return;
    }
    let file = sparse(disk(), 4);
    let map = || MmapOptions::new().map_shared(&file).expect("mapped");
    let (stores, syncs) = (map(), map());
    stores.store(UNIT + 5 * PAGE, &[1]);
    syncs.flush().expect("flushed");
    assert_eq!(not_written(&file), Some(vec![]));
}

#[test]
fn a_write_beside_giving_back_takes_nothing_from_a_sync() {
    if common::cannot_serve() || !tells() {
        return;
    }
    for _ in 0..20 {
        let file = sparse(disk(), 64);
        let map = MmapOptions::new().map_shared(&file).expect("mapped");
        let before = udax::statistics().given_back_pages;
        for place in 0..16 * 15 {
            map.store(place / 15 * UNIT + (9 + place % 15 * 32) * PAGE, &[1]);
        }
        wait_for_giving_back(before);
        for unit in (8..16).rev() {
            file.write_at(&[3], (unit * UNIT + 9 * PAGE + 8) as u64).expect("written");
        }
        map.flush().expect("flushed");
        assert_eq!(not_written(&file), Some(vec![]));
    }
}
