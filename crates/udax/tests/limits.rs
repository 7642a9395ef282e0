//! A process may have about 65,000 mappings: scattered accesses never use them up.
#![expect(unsafe_code, reason = "mappings are made by unsafe functions, as memmap2's are")]

mod common;

use std::os::unix::fs::FileExt as _;
use udax::MmapOptions;

const UNIT: usize = 2 << 20;
/// More runs than are allowed: every other unit is loaded from.
const UNITS: usize = 44_000;

#[test]
fn scattered_loads_over_a_large_file_end_in_one_plain_mapping_and_no_store_is_lost() {
    if common::cannot_serve() {
        return;
    }
    let file = tempfile::tempfile_in("/dev/shm").expect("a file in memory");
    file.set_len((UNITS * UNIT) as u64).expect("a length");
    // SAFETY: nobody else has the file.
    let mut map = unsafe { MmapOptions::new().map_mut(&file) }.expect("mapped");
    let mut most = 0;
    for unit in (0..UNITS).step_by(2) {
        assert_eq!(map[unit * UNIT], 0);
        if unit % 1000 == 0 {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("can be read");
            most = most.max(maps.lines().count());
        }
    }
    assert!((10_000..45_000).contains(&most), "{most} mappings at the most");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("can be read");
    assert!(maps.lines().count() < 1000, "it is one plain mapping in the end");
    for unit in (0..UNITS).step_by(2) {
        map[unit * UNIT + unit % 4096] = 1;
    }
    let mut byte = [0];
    for unit in 0..UNITS {
        file.read_exact_at(&mut byte, (unit * UNIT + unit % 4096) as u64).expect("reads");
        assert_eq!(usize::from(byte[0]), 1 - unit % 2, "unit {unit}");
    }
}
