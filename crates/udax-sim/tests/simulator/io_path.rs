//! Reading, writing and zeroing beside mappings, SEMANTICS 8.1 to 8.3 and 8.5. Scenarios 9, 14, 15, 19.

use crate::journalled::{Rig, Shape, explore_then, page, pages};
use std::sync::Arc;
use udax_core::{
    Backing, Filesystem as _, FrameRange, Intent, IoError, IoErrorKind, Media as _, MediaAccess,
    PAGE_BYTES, PMD_BYTES,
};
use udax_sim::{AccessError, Evicted, FsCall, MediaCall, Plan};

const EIO: IoError = IoError::from_errno(5);
const ENOSPC: IoError = IoError::from_errno(28);
const EAGAIN: IoError = IoError::from_errno(11);

fn rig() -> Arc<Rig> {
    Arc::new(Rig::new(2 * PMD_BYTES))
}

/// From the `n`th call on.
fn from(n: u64) -> Plan {
    Plan { after: n - 1, times: u64::MAX }
}

fn small() -> Shape {
    Shape::shared(0, 1024).small()
}

fn kind<T>(result: Result<T, IoError>) -> Option<IoErrorKind> {
    result.err().map(|error| error.kind)
}

/// 8.1, scenario 15.
#[test]
fn pitfall_072_length_zero_asks_nobody() {
    let rig = rig();
    assert_eq!(rig.mapping.read(u64::MAX, &mut []), Ok(0), "pitfall 72");
    assert_eq!(rig.mapping.write(u64::MAX, &[]), Ok(0));
    assert_eq!(rig.mapping.zero_range(0, 0), Ok(()));
    assert!(rig.points.journal().is_empty());
    assert_eq!(rig.file.size_bytes(), 2 * PMD_BYTES);
}

/// 8.1, scenario 15.
#[test]
fn pitfall_073_offsets_past_all_files_are_refused() {
    let rig = rig();
    let last = i64::MAX as u64;
    for at in [last, last - 1, u64::MAX - 1, u64::MAX] {
        let mut bytes = [0; 4];
        assert_eq!(
            kind(rig.mapping.read(at, &mut bytes)),
            Some(IoErrorKind::OutOfRange),
            "pitfall 73"
        );
        assert_eq!(kind(rig.mapping.write(at, &bytes)), Some(IoErrorKind::OutOfRange));
        assert_eq!(kind(rig.mapping.zero_range(at, 4)), Some(IoErrorKind::OutOfRange));
        assert_eq!(kind(rig.mapping.punch_hole(at, 4)), Some(IoErrorKind::OutOfRange));
    }
    assert_eq!(
        rig.mapping.read(last - 4, &mut [0; 4]),
        Ok(0),
        "but up to there it is the end of the file"
    );
    assert_eq!(rig.file.size_bytes(), 2 * PMD_BYTES);
}

/// 8.1, scenario 15.
#[test]
fn pitfall_074_what_the_file_system_would_wait_for_is_passed_on() {
    let rig = rig();
    rig.file.fail(FsCall::BeginWrite, Plan::ONCE, EAGAIN);
    assert_eq!(rig.mapping.write(0, &[1]), Err(EAGAIN), "pitfall 74");
    assert_eq!(rig.mapping.write(0, &[1]), Ok(1));
}

#[test]
fn io_8_1_reads_holes_as_zeros_up_to_the_end() {
    let rig = rig();
    rig.file.allocate(pages(1, 1)).expect("space");
    rig.file.poke(2 * PAGE_BYTES, &[7; 10]);
    let mut bytes = vec![9; 3 * 4096];
    assert_eq!(rig.mapping.read(0, &mut bytes), Ok(bytes.len()));
    assert!(bytes[..8192].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[8192..8203], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
    assert_eq!(rig.mapping.read(2 * PMD_BYTES - 3, &mut bytes), Ok(3), "short at the end");
    assert_eq!(rig.mapping.read(2 * PMD_BYTES, &mut bytes), Ok(0));
    assert_eq!(rig.fs.allocated_pages(), 2, "holes stay holes");
    assert!(rig.entries().is_empty());
}

#[test]
fn io_8_1_an_extent_that_cannot_be_used_is_an_error_and_is_closed() {
    let rig = rig();
    for (intent, backing) in
        [("read", Backing::Other), ("write", Backing::Unwritten), ("write", Backing::Hole)]
    {
        rig.points.change_iomap(move |mut iomap| {
            iomap.backing = backing;
            iomap
        });
        rig.clear();
        let result = if intent == "read" {
            rig.mapping.read(0, &mut [0; 4])
        } else {
            rig.mapping.write(0, &[1; 4])
        };
        assert_eq!(kind(result), Some(IoErrorKind::Io), "{intent} {backing:?}");
        assert!(rig.points.journal().contains(&"iomap_end 0".to_owned()));
    }
    rig.points.change_iomap(|mut iomap| {
        iomap.range = pages(iomap.range.start.0 + 1, 1);
        iomap
    });
    assert_eq!(kind(rig.mapping.read(0, &mut [0; 4])), Some(IoErrorKind::Io), "it misses the page");
}

#[test]
fn pitfall_037_io_8_1_scenario_09_a_write_under_a_zero_page_drops_it_after_the_allocation_and_before_the_copy()
 {
    for (shape, entry) in [(small(), "5 zero-pte"), (Shape::shared(0, 1024), "0 zero-pmd")] {
        let rig = rig();
        let (map, other) = (rig.map(shape), rig.map(shape));
        assert_eq!((rig.read(&map, 5), rig.read(&other, 5)), (Ok(0), Ok(0)));
        assert_eq!(rig.entries(), [entry]);
        rig.clear();
        assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[7; 4096]), Ok(4096));
        let journal = rig.points.journal();
        let place = |what: &str| {
            let hit = journal.iter().position(|call| call.starts_with(what));
            hit.unwrap_or_else(|| panic!("no {what} in {journal:?}"))
        };
        assert!(
            place("iomap_begin Write") < place("unmap") && place("unmap") < place("store"),
            "pitfall 37"
        );
        assert!(place("store") < place("iomap_end"));
        assert!(rig.entries().is_empty() && map.table().is_empty() && other.table().is_empty());
        assert_eq!(
            (rig.read(&map, 5), rig.read(&other, 5)),
            (Ok(7), Ok(7)),
            "pitfall 33, generic/428"
        );
        assert_eq!(rig.read(&map, 6), Ok(0), "the rest of the 2 MiB is a hole still");
        rig.check(&[&map, &other]);
    }
}

#[test]
fn scenario_09_a_write_that_overlaps_two_pmd_ranges_in_part() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!((rig.read(&map, 0), rig.read(&map, 600)), (Ok(0), Ok(0)));
    let from = 511 * PAGE_BYTES + 100;
    assert_eq!(rig.mapping.write(from, &[7; 5000]), Ok(5000));
    assert!(rig.entries().is_empty() && map.table().is_empty());
    let mut bytes = [9; 3];
    map.cpu.load(map.sim.address(page(511)) + 99, &mut bytes).expect("data");
    assert_eq!(bytes, [0, 7, 7]);
    map.cpu.load(map.sim.address(page(512)) + 1003, &mut bytes).expect("data");
    assert_eq!(bytes, [7, 0, 0]);
    rig.check(&[&map]);
}

#[test]
fn pitfall_037_io_8_1_a_write_over_mapped_storage_invalidates_nothing() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    rig.clear();
    assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[7, 8]), Ok(2));
    assert!(!rig.points.journal().iter().any(|call| call.starts_with("unmap")), "pitfall 37");
    assert_eq!(map.table(), ["5 storage W D"]);
    assert_eq!((rig.read(&map, 5), rig.entries()), (Ok(7), vec!["5 data-pte D".to_owned()]));
    rig.check(&[&map]);
}

#[test]
fn io_8_2_a_write_marks_nothing_is_durable_by_itself_and_cleans_nothing() {
    let rig = rig();
    let map = rig.map(small());
    rig.file.write_zeros(pages(5, 2)).expect("space");
    rig.mapping.sync(pages(0, 1024)).expect("nothing to flush");
    rig.read(&map, 5).expect("storage");
    assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[7]), Ok(1));
    assert_eq!(rig.entries(), ["5 data-pte"], "no mark");
    assert_eq!(rig.file.contents_after_crash(Evicted::Nothing)[5 * 4096], 7, "durable as to data");
    rig.write(&map, 6, 1).expect("storage");
    assert_eq!(rig.mapping.write(6 * PAGE_BYTES, &[2]), Ok(1));
    assert_eq!(rig.entries()[1], "6 data-pte D", "still to be flushed");
    assert_eq!(rig.read(&map, 6), Ok(2), "the same memory");
    rig.check(&[&map]);
}

#[test]
fn io_8_1_a_write_cut_short_counts_what_it_did_and_an_error_at_the_first_byte_is_told() {
    let rig = rig();
    rig.media.fail(MediaCall::Store, from(3), EIO);
    assert_eq!(rig.mapping.write(0, &vec![7; 5 * 4096]), Ok(2 * 4096), "two pages were copied");
    rig.media.fail(MediaCall::Store, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.write(0, &[7; 10]), Err(EIO));
    rig.media.fail(MediaCall::Store, Plan { after: 0, times: 0 }, EIO);
    rig.media.fail(MediaCall::Load, from(2), EIO);
    let mut bytes = vec![0; 2 * 4096];
    assert_eq!(rig.mapping.read(0, &mut bytes), Ok(4096));
    rig.media.fail(MediaCall::Load, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.read(0, &mut bytes), Err(EIO));
}

#[test]
fn io_8_1_every_copy_is_bounded_by_what_the_media_grants() {
    let rig = rig();
    rig.media.set_contiguous_limit(Some(1));
    assert_eq!(rig.mapping.write(100, &vec![7; 3 * 4096]), Ok(3 * 4096), "pitfall 91");
    let mut bytes = vec![0; 3 * 4096];
    assert_eq!(rig.mapping.read(100, &mut bytes), Ok(3 * 4096));
    assert!(bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn io_8_1_a_write_past_the_end_lengthens_the_file_over_zeros() {
    let rig = Arc::new(Rig::new(100));
    let map = rig.map(Shape::shared(0, 64));
    map.cpu.store(map.sim.address(page(0)) + 3000, &[5]).expect("past the end, in the last page");
    assert_eq!(rig.mapping.write(2 * PAGE_BYTES + 10, &[7; 5]), Ok(5));
    assert_eq!(rig.file.size_bytes(), 2 * PAGE_BYTES + 15);
    let mut bytes = vec![9; 2 * 4096 + 20];
    assert_eq!(rig.mapping.read(0, &mut bytes), Ok(2 * 4096 + 15));
    assert!(
        bytes[..2 * 4096 + 10].iter().all(|byte| *byte == 0),
        "what was stored past the end is gone"
    );
    rig.check(&[&map]);
}

/// A truncation set the length, and failed to free what lay behind it.
#[test]
fn section_7_6_what_a_truncation_left_behind_is_zeros_when_the_file_grows() {
    for grows_by_write in [false, true] {
        let rig = rig();
        let map = rig.map(small());
        (0..8).for_each(|index| rig.write(&map, index, 9).expect("space"));
        rig.file.fail(FsCall::Free, Plan::ONCE, ENOSPC);
        assert_eq!(rig.mapping.truncate(PAGE_BYTES), Err(ENOSPC));
        assert_eq!(rig.file.size_bytes(), PAGE_BYTES, "the length is the new one");
        if grows_by_write {
            assert_eq!(rig.mapping.write(7 * PAGE_BYTES + 10, &[7]), Ok(1));
        } else {
            rig.mapping.truncate(7 * PAGE_BYTES + 11).expect("longer");
        }
        for index in 1..7 {
            assert_eq!(rig.read(&map, index), Ok(0), "page {index}");
        }
        assert_eq!((rig.read(&map, 0), rig.read(&map, 7)), (Ok(9), Ok(0)));
        rig.mapping.sync(pages(0, 1024)).expect("all is well");
        let left = rig.file.contents_after_crash(Evicted::Nothing);
        assert!(left[4096..7 * 4096 + 10].iter().all(|byte| *byte == 0), "a crash brings it back");
        rig.check(&[&map]);
    }
}

/// 8.1.
#[test]
fn pitfall_068_a_lengthening_write_that_fails_leaves_no_storage_beyond_the_end() {
    for fails_at in [1, 3] {
        let rig = Arc::new(Rig::new(PAGE_BYTES));
        rig.media.fail(MediaCall::Store, from(fails_at), EIO);
        let written = rig.mapping.write(PAGE_BYTES, &vec![7; 8 * 4096]);
        let done = (fails_at - 1) * PAGE_BYTES;
        let expected = usize::try_from(done).ok().filter(|done| *done > 0).ok_or(EIO);
        assert_eq!(written, expected);
        assert_eq!(rig.file.size_bytes(), PAGE_BYTES + done);
        assert_eq!(rig.fs.allocated_pages(), fails_at - 1, "pitfall 68");
    }
    let rig = Arc::new(Rig::new(PAGE_BYTES));
    rig.file.fail(FsCall::SetSize, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.write(PAGE_BYTES, &[7; 4096]), Err(EIO));
    assert_eq!((rig.file.size_bytes(), rig.fs.allocated_pages()), (PAGE_BYTES, 0));
    // A write inside the file that fails takes nothing away that was laid out beyond the end.
    rig.file.allocate(pages(4, 4)).expect("space");
    rig.media.fail(MediaCall::Store, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.write(0, &[7; 10]), Err(EIO));
    assert_eq!(rig.file.extents().iter().map(|extent| extent.range.len()).sum::<u64>(), 5);
}

#[test]
fn io_8_1_no_space_is_told() {
    let rig = rig();
    rig.fs.set_capacity(Some(1));
    assert_eq!(rig.mapping.write(0, &vec![7; 2 * 4096]), Ok(4096));
    assert_eq!(rig.mapping.write(PAGE_BYTES, &[7]), Err(ENOSPC));
    assert_eq!(rig.mapping.write(0, &[8]), Ok(1));
}

#[test]
fn scenario_19_in_one_thread_at_each_point_of_a_write_a_fault_never_leaves_a_stale_zero() {
    for point in ["iomap_begin", "iomap_begin done", "unmap", "store", "iomap_end"] {
        for shape in [small(), Shape::shared(0, 1024), Shape::shared(0, 1024).ahead(64)] {
            let rig = rig();
            let map = rig.map(shape);
            rig.read(&map, 5).expect("a hole");
            let (weak, by) = (Arc::downgrade(&rig), map.clone());
            rig.points.once(point, move || {
                let rig = weak.upgrade().expect("the rig lives");
                assert!(matches!(rig.read(&by, 5), Ok(0 | 7)), "{point}");
            });
            assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[7; 4096]), Ok(4096));
            assert_eq!(rig.read(&map, 5), Ok(7), "{point}: pitfalls 35 to 37");
            rig.check(&[&map]);
        }
    }
}

/// Two faults against a write into the same hole, under many schedules.
fn faults_against_a_write(shape: Shape) {
    explore_then(0..80, |run| {
        let rig = rig();
        let map = rig.map(shape);
        let own = Arc::clone(&rig);
        run.spawn("write", move || {
            assert_eq!(own.mapping.write(5 * PAGE_BYTES, &[7; 8192]), Ok(8192));
        });
        for (cpu, index) in [(0, 3), (1, 5)] {
            let (own, mut by) = (Arc::clone(&rig), map.clone());
            by.cpu = map.process.thread(cpu);
            run.spawn("load", move || {
                own.read(&by, index).expect("hole or data");
                own.read(&by, 6).expect("hole or data");
            });
        }
        move || {
            assert_eq!((rig.read(&map, 5), rig.read(&map, 6)), (Ok(7), Ok(7)));
            rig.check(&[&map]);
        }
    });
}

#[test]
fn scenario_19_a_small_fault_against_a_write_leaves_no_stale_zero() {
    faults_against_a_write(small());
}

#[test]
fn scenario_19_a_2_mib_fault_against_a_write_leaves_no_stale_zero() {
    faults_against_a_write(Shape::shared(0, 1024));
}

#[test]
fn scenario_19_a_run_ahead_against_a_write_leaves_no_stale_zero() {
    faults_against_a_write(Shape::shared(0, 1024).small().ahead(8));
}

#[test]
fn io_8_3_zeroing_skips_holes_zeroes_parts_and_whole_pages() {
    let rig = rig();
    rig.file.poke(2 * PAGE_BYTES, &vec![7; 3 * 4096]);
    rig.file.allocate(pages(6, 1)).expect("space");
    let map = rig.map(small());
    rig.read(&map, 3).expect("data");
    rig.clear();
    rig.mapping.zero_range(PAGE_BYTES, 2 * PAGE_BYTES + 100).expect("zeros");
    let zeros: Vec<_> =
        rig.points.journal().into_iter().filter(|call| call.starts_with("zero")).collect();
    assert_eq!(zeros, ["zero 0 4096", "zero 0 100"], "page 1 is a hole");
    assert_eq!((rig.read(&map, 2), rig.read(&map, 3)), (Ok(0), Ok(0)), "mappings see it at once");
    assert_eq!(rig.file.contents()[3 * 4096 + 100], 7);
    rig.clear();
    rig.mapping.zero_range(4 * PAGE_BYTES + 1, 5 * PAGE_BYTES).expect("zeros");
    assert_eq!(rig.file.contents()[4 * 4096], 7);
    assert_eq!(rig.file.contents()[4 * 4096 + 1], 0);
    assert_eq!(rig.fs.allocated_pages(), 4, "nothing was allocated");
    assert_eq!(rig.mapping.entries(), 2);
    rig.check(&[&map]);
}

#[test]
fn io_8_3_an_error_in_zeroing_is_told_and_the_extent_closed() {
    let rig = rig();
    rig.file.poke(0, &[7; 10]);
    rig.media.fail(MediaCall::Zero, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.zero_range(0, 10), Err(EIO));
    assert!(rig.points.journal().contains(&"iomap_end 0".to_owned()));
    rig.points.change_iomap(|mut iomap| {
        iomap.backing = Backing::Other;
        iomap
    });
    assert_eq!(kind(rig.mapping.zero_range(0, 10)), Some(IoErrorKind::Io));
}

#[test]
fn io_8_3_punching_less_than_a_page_zeroes_it_in_place() {
    for (offset, length) in [(100, 50), (100, 3996), (0, 50), (4000, 200), (100, 8000), (0, 8192)] {
        let rig = rig();
        rig.file.poke(0, &vec![7; 4 * 4096]);
        let map = rig.map(small());
        rig.read(&map, 0).expect("data");
        rig.mapping.punch_hole(offset, length).expect("a hole");
        let contents = rig.file.contents();
        for (at, byte) in (0..4 * PAGE_BYTES).zip(contents) {
            let is_zero = (offset..offset + length).contains(&at);
            assert_eq!(byte == 0, is_zero, "byte {at} after {length} bytes at {offset}");
        }
        rig.check(&[&map]);
    }
    let rig = rig();
    assert_eq!(kind(rig.mapping.punch_hole(0, 0)), Some(IoErrorKind::OutOfRange));
}

#[test]
fn scenario_14_poison_is_an_error_for_reads_a_signal_of_its_own_for_faults_and_a_whole_write_repairs()
 {
    let rig = rig();
    rig.file.poke(5 * PAGE_BYTES, &vec![7; 4096]);
    let map = rig.map(small());
    rig.media.poison(rig.frame(5));
    assert_eq!(kind(rig.mapping.read(5 * PAGE_BYTES, &mut [0; 4])), Some(IoErrorKind::Poisoned));
    assert_eq!(rig.read(&map, 5), Err(AccessError::Poisoned), "pitfall 70");
    assert_eq!(rig.write(&map, 5, 1), Err(AccessError::Poisoned));
    assert_eq!(kind(rig.mapping.write(5 * PAGE_BYTES, &[1; 4095])), Some(IoErrorKind::Poisoned));
    assert!(rig.media.is_poisoned(rig.frame(5)), "pitfall 71: less than a page repairs nothing");
    assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[8; 4096]), Ok(4096));
    assert_eq!(rig.read(&map, 5), Ok(8));
    rig.check(&[&map]);
}

#[test]
fn scenario_14_zeroing_a_page_repairs_it_and_a_part_does_not() {
    let rig = rig();
    rig.file.poke(5 * PAGE_BYTES, &vec![7; 4096]);
    let map = rig.map(small());
    rig.media.poison(rig.frame(5));
    let _ = rig.mapping.zero_range(5 * PAGE_BYTES, 4095);
    assert!(rig.media.is_poisoned(rig.frame(5)));
    rig.mapping.zero_range(5 * PAGE_BYTES, PAGE_BYTES).expect("zeros");
    assert_eq!(rig.read(&map, 5), Ok(0));
    rig.media.poison(rig.frame(5));
    assert_eq!(rig.mapping.media_failed(page(5)), Some(pages(5, 1)));
    assert!(map.table().is_empty(), "taken out of every mapping");
    assert_eq!(
        rig.read(&map, 5),
        Err(AccessError::Poisoned),
        "unmapped, so that the next access is told"
    );
    rig.mapping.punch_hole(5 * PAGE_BYTES, PAGE_BYTES).expect("a hole");
    assert_eq!(rig.read(&map, 5), Ok(0), "dax-poison: punch, write, touch again");
    rig.check(&[&map]);
}

#[test]
fn io_8_5_a_device_that_is_gone_is_an_error_everywhere() {
    let rig = rig();
    rig.file.poke(5 * PAGE_BYTES, &[7]);
    let map = rig.map(small());
    rig.media.set_alive(false);
    assert_eq!(kind(rig.mapping.read(5 * PAGE_BYTES, &mut [0])), Some(IoErrorKind::Io));
    assert_eq!(kind(rig.mapping.write(5 * PAGE_BYTES, &[1])), Some(IoErrorKind::Io));
    assert_eq!(rig.read(&map, 5), Err(AccessError::BusError));
    assert_eq!(kind(rig.mapping.zero_range(5 * PAGE_BYTES, 1)), Some(IoErrorKind::Io));
    rig.media.set_alive(true);
    assert_eq!(rig.read(&map, 5), Ok(7));
    rig.check(&[&map]);
}

#[test]
fn io_8_5_recovery_grants_up_to_the_first_bad_frame_or_that_one_alone() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 8)).expect("space");
    let start = rig.frame(0);
    rig.media.poison(start.plus(3));
    let frames = FrameRange { start, count: 8 };
    assert_eq!(rig.media.direct_access(frames, MediaAccess::Recovery), Ok(3));
    let bad = FrameRange { start: start.plus(3), count: 5 };
    assert_eq!(rig.media.direct_access(bad, MediaAccess::Recovery), Ok(1));
    assert_eq!(
        kind(rig.media.direct_access(bad, MediaAccess::Ordinary)),
        Some(IoErrorKind::Poisoned)
    );
    assert!(rig.file.iomap_begin(pages(0, 8), Intent::Read).is_ok());
}
