//! A second mapping of a file costs what the first one did. One test: the counts are the process's.

mod common;

use common::{PAGE, UNIT, disk, sparse};
use std::path::Path;
use udax::{MmapOptions, Statistics};

const UNITS: usize = 16;

fn faults_and_windows(before: &Statistics) -> (u64, u64) {
    let now = udax::statistics();
    (now.faults - before.faults, now.windows_opened - before.windows_opened)
}

#[test]
fn a_second_mapping_shows_holes_with_as_few_faults_and_windows_as_the_first() {
    if common::cannot_serve() {
        return;
    }
    for place in [Path::new("/dev/shm"), disk()] {
        let file = sparse(place, UNITS);
        for unit in 0..UNITS {
            file.write_at(&[1], (unit * UNIT + 300 * PAGE) as u64).expect("written");
        }
        let counts = [(); 2].map(|()| {
            let before = udax::statistics();
            let map = MmapOptions::new().map_shared(&file).expect("mapped");
            assert_eq!(map.report().plain_because, None, "it is to be served");
            for page in 0..UNITS * 512 {
                let mut byte = [7];
                map.load(page * PAGE, &mut byte);
                assert_eq!(byte[0], u8::from(page % 512 == 300), "page {page}");
            }
            // The first stays mapped, and shows zeros, while the second is looked at.
            (faults_and_windows(&before), map)
        });
        let [(first, _), (second, _)] = &counts;
        assert_eq!(first, second, "faults and windows in {}", place.display());
        assert!(first.0 <= UNITS as u64, "{} faults for {UNITS} times 2 MiB", first.0);
        assert!(first.1 <= 2 * UNITS as u64, "{} windows", first.1);
    }
}
