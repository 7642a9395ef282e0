//! Shared storage, SEMANTICS 8.4, and pitfalls 39 to 42, 90, 91.

use crate::journalled::{Rig, Shape, explore_then, page, pages};
use std::sync::Arc;
use udax_core::{Backing, IoError, IoErrorKind, PAGE_BYTES, PMD_BYTES};
use udax_sim::{AccessError, FsCall, MediaCall, Placement, Plan};

const EIO: IoError = IoError::from_errno(5);

/// A file, and one that shares all its storage.
fn pair(bytes: u64) -> (Arc<Rig>, Arc<Rig>) {
    let rig = Arc::new(Rig::new(bytes));
    let other = Rig::of_file(rig.fs.create(bytes), Arc::clone(&rig.machine));
    (rig, Arc::new(other))
}

fn share(from: &Rig, to: &Rig) {
    // As a file system clones: nothing dirty, nothing writable, nothing mapped meanwhile.
    let everything = pages(0, 4096);
    from.mapping.change_layout(everything, |_| Ok(())).expect("flushed");
    to.mapping.change_layout(everything, |_| Ok(())).expect("flushed");
    from.fs.reflink(&from.file, &to.file);
}

fn byte(rig: &Rig, at: u64) -> u8 {
    let mut byte = [0xee];
    assert_eq!(rig.mapping.read(at, &mut byte), Ok(1));
    byte[0]
}

#[test]
fn pitfall_039_a_write_to_a_shared_extent_is_seen_through_every_mapping() {
    for shape in [Shape::shared(0, 1024).small(), Shape::shared(0, 1024)] {
        let (rig, other) = pair(2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        let map = rig.map(shape);
        rig.write(&map, 5, 1).expect("storage");
        share(&rig, &other);
        assert_eq!(rig.read(&map, 5), Ok(1), "mapped to the shared storage");
        assert_eq!(rig.mapping.write(5 * PAGE_BYTES + 10, &[9; 100]), Ok(100));
        let mut bytes = [0; 11];
        map.cpu.load(map.sim.address(page(5)), &mut bytes).expect("data");
        assert_eq!((bytes[0], bytes[10]), (1, 9));
        assert_eq!((byte(&other, 5 * PAGE_BYTES), byte(&other, 5 * PAGE_BYTES + 10)), (1, 0));
        rig.check(&[&map]);
        other.check(&[]);
    }
}

#[test]
fn pitfall_039_a_dirty_entry_over_shared_storage_does_not_survive_a_write() {
    let (rig, other) = pair(2 * PMD_BYTES);
    let map = rig.map(Shape::shared(0, 1024).small());
    rig.write(&map, 5, 1).expect("space");
    // A file system that clones without telling the engine: the entry is dirty still.
    rig.fs.reflink(&rig.file, &other.file);
    assert_eq!(rig.entries(), ["5 data-pte D"]);
    assert_eq!(rig.mapping.write(5 * PAGE_BYTES + 10, &[9]), Ok(1));
    let mut bytes = [0; 11];
    map.cpu.load(map.sim.address(page(5)), &mut bytes).expect("data");
    assert_eq!((bytes[0], bytes[10], byte(&rig, 5 * PAGE_BYTES + 10)), (1, 9, 9));
    rig.check(&[&map]);
}

#[test]
fn pitfall_040_the_rest_of_the_pages_around_a_write_is_copied() {
    let (rig, other) = pair(16 * PAGE_BYTES);
    rig.file.poke(0, &vec![7; 4 * 4096]);
    share(&rig, &other);
    assert_eq!(rig.mapping.write(PAGE_BYTES + 100, &vec![9; 4096]), Ok(4096));
    let contents = rig.file.contents();
    for (at, found) in contents.iter().enumerate().take(4 * 4096) {
        let is_new = (4196..8292).contains(&at);
        assert_eq!(*found, if is_new { 9 } else { 7 }, "byte {at}");
    }
    assert!(other.file.contents()[..4 * 4096].iter().all(|found| *found == 7));
}

#[test]
fn pitfall_040_zeros_over_several_shared_pages_leave_the_rest_of_the_first_and_of_the_last() {
    let (rig, other) = pair(2 * PMD_BYTES);
    let map = rig.map(Shape::shared(0, 1024).small());
    let (first, last) = (4 * PAGE_BYTES, 8 * PAGE_BYTES - 1);
    assert_eq!(rig.mapping.write(first, &[5; 4 * 4096]), Ok(4 * 4096));
    share(&rig, &other);
    for index in 4..8 {
        assert_eq!(rig.read(&map, index), Ok(5), "mapped to the shared storage");
    }
    let (from, to) = (first + 100, 7 * PAGE_BYTES + 50);
    rig.mapping.zero_range(from, to - from).expect("space");
    for (at, left) in [(first, 5), (from - 1, 5), (from, 0), (to - 1, 0), (to, 5), (last, 5)] {
        assert_eq!((byte(&rig, at), byte(&other, at)), (left, 5), "at {at}");
    }
    for (index, left) in (4..8).zip([5, 0, 0, 0]) {
        assert_eq!(rig.read(&map, index), Ok(left), "page {index}");
    }
    rig.check(&[&map]);
    other.check(&[]);
}

#[test]
fn pitfall_040_a_source_that_is_a_hole_gives_zeros() {
    for source in [Backing::Hole, Backing::Unwritten] {
        let (rig, other) = pair(16 * PAGE_BYTES);
        rig.file.poke(PAGE_BYTES, &vec![7; 4096]);
        share(&rig, &other);
        rig.points.change_iomap(move |mut iomap| {
            iomap.copy_from = iomap.copy_from.map(|_| source);
            iomap
        });
        assert_eq!(rig.mapping.write(PAGE_BYTES + 100, &[9; 10]), Ok(10));
        let contents = rig.file.contents();
        let around = [&contents[4096..4196], &contents[4206..8192]].concat();
        assert!(around.iter().all(|found| *found == 0), "{source:?}: garbage around the new bytes");
    }
}

#[test]
fn pitfall_039_a_store_through_a_mapping_copies_the_page_and_leaves_the_other_file_alone() {
    for shape in [Shape::shared(0, 1024).small(), Shape::shared(0, 1024)] {
        let (rig, other) = pair(2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        rig.file.poke(5 * PAGE_BYTES, &vec![7; 4096]);
        share(&rig, &other);
        let (map, second) = (rig.map(shape), rig.map(shape));
        let theirs = other.map(shape);
        assert_eq!((rig.read(&second, 5), other.read(&theirs, 5)), (Ok(7), Ok(7)));
        rig.write(&map, 5, 9).expect("a copy");
        assert_eq!(rig.read(&second, 5), Ok(9), "the old storage is mapped nowhere in this file");
        assert_eq!(byte(&rig, 5 * PAGE_BYTES + 1), 7);
        assert_eq!((other.read(&theirs, 5), byte(&other, 5 * PAGE_BYTES)), (Ok(7), 7));
        rig.mapping.sync(pages(0, 1024)).expect("all is well");
        rig.check(&[&map, &second]);
        other.check(&[&theirs]);
    }
}

#[test]
fn a_small_copy_under_a_huge_shared_entry_takes_the_entry_apart() {
    for memory in [None, Some(0)] {
        let (rig, other) = pair(2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        share(&rig, &other);
        let (map, off) =
            (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
        assert_eq!((rig.read(&map, 5), rig.read(&off, 7)), (Ok(0), Ok(0)));
        assert_eq!(rig.entries(), ["0 data-pmd"]);
        // No 2 MiB to copy to, so the small fault works under the huge entry.
        rig.fs.set_placement(Placement::Fragmented { longest_run: 1 });
        rig.mapping.limit_index_nodes(memory);
        let stored = rig.write(&map, 5, 9);
        rig.mapping.limit_index_nodes(None);
        assert_eq!(stored.is_err(), memory.is_some());
        rig.check(&[&map, &off]);
        rig.write(&map, 5, 9).expect("space");
        assert_eq!(rig.entries(), ["5 data-pte D"]);
        assert_eq!(
            (rig.read(&off, 5), rig.read(&off, 7), byte(&other, 5 * PAGE_BYTES)),
            (Ok(9), Ok(0), 0)
        );
        rig.check(&[&map, &off]);
    }
}

#[test]
fn a_copy_never_reaches_ahead_of_what_was_copied() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    rig.file.poke(0, &vec![7; 16 * 4096]);
    share(&rig, &other);
    let map = rig.map(Shape::shared(0, 64).small().ahead(8));
    rig.points.change_iomap(|mut iomap| {
        if iomap.copy_from.is_some() {
            // A file system that reserves more than it was asked for.
            iomap.range = pages(iomap.range.start.0, 8);
        }
        iomap
    });
    rig.write(&map, 2, 9).expect("a copy");
    for index in 0..16 {
        assert_eq!(rig.read(&map, index), Ok(if index == 2 { 9 } else { 7 }), "page {index}");
    }
    rig.check(&[&map]);
}

#[test]
fn pitfall_039_stores_and_loads_against_a_write_to_the_same_shared_page_lose_nothing() {
    explore_then(0..150, |run| {
        let (rig, other) = pair(64 * PAGE_BYTES);
        rig.file.poke(5 * PAGE_BYTES, &vec![7; 4096]);
        share(&rig, &other);
        let map = rig.map(Shape::shared(0, 64).small());
        let own = Arc::clone(&rig);
        run.spawn("write", move || {
            assert_eq!(own.mapping.write(5 * PAGE_BYTES + 100, &[9; 10]), Ok(10));
        });
        let mut by = map.clone();
        by.cpu = map.process.thread(0);
        let own = Arc::clone(&rig);
        run.spawn("store", move || own.write(&by, 5, 8).expect("a copy"));
        let (own, mut by) = (Arc::clone(&rig), map.clone());
        by.cpu = map.process.thread(1);
        run.spawn("load", move || {
            assert!(matches!(own.read(&by, 5), Ok(7 | 8)));
        });
        move || {
            let mut bytes = [0; 101];
            map.cpu.load(map.sim.address(page(5)), &mut bytes).expect("data");
            assert_eq!((bytes[0], bytes[1], bytes[100]), (8, 7, 9), "both stores, once each");
            assert_eq!(&rig.file.contents()[5 * 4096..5 * 4096 + 101], bytes);
            assert_eq!((byte(&other, 5 * PAGE_BYTES), byte(&other, 5 * PAGE_BYTES + 100)), (7, 7));
            rig.check(&[&map]);
        }
    });
}

/// The copy is made, the entry stands for it, and only the page table is missing: the copy must not be taken back.
#[test]
fn a_copy_that_an_entry_stands_for_stays_though_it_could_not_be_mapped() {
    for shape in [Shape::shared(0, 1024).small(), Shape::shared(0, 1024)] {
        let (rig, other) = pair(2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        share(&rig, &other);
        let (map, second) = (rig.map(shape), rig.map(shape));
        rig.machine.fail_table_allocation(Plan::ONCE);
        assert_eq!(rig.write(&map, 5, 9), Err(AccessError::OutOfMemory));
        rig.check(&[&map, &second]);
        rig.write(&second, 5, 8).expect("the copy is there");
        let in_files = (byte(&rig, 5 * PAGE_BYTES), byte(&other, 5 * PAGE_BYTES));
        assert_eq!((rig.read(&map, 5), in_files), (Ok(8), (8, 0)));
        rig.mapping.sync(pages(0, 1024)).expect("all is well");
        rig.check(&[&map, &second]);
    }
}

#[test]
fn a_read_whose_storage_is_exchanged_under_it_reads_again() {
    for shape in [Shape::shared(0, 1024).small(), Shape::shared(0, 1024)] {
        let (rig, other) = pair(2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        rig.file.poke(5 * PAGE_BYTES, &vec![7; 8192]);
        share(&rig, &other);
        let map = rig.map(shape);
        let (weak, theirs) = (Arc::downgrade(&rig), Arc::clone(&other));
        rig.points.once("load", move || {
            let rig = weak.upgrade().expect("the rig lives");
            rig.write(&map, 5, 9).expect("a copy");
            // The old storage is theirs alone now.
            assert_eq!(theirs.mapping.write(5 * PAGE_BYTES, &vec![3; 8192]), Ok(8192));
        });
        let mut bytes = [0; 8192];
        assert_eq!(rig.mapping.read(5 * PAGE_BYTES, &mut bytes), Ok(8192));
        assert_eq!(bytes[0], 9);
        assert!(bytes[1..].iter().all(|byte| *byte == 7), "bytes of another file");
    }
}

#[test]
fn a_write_that_lengthens_meets_storage_that_is_shared_beyond_the_end() {
    let (rig, other) = pair(4 * PAGE_BYTES);
    rig.file.write_zeros(pages(0, 8)).expect("space");
    share(&rig, &other);
    assert_eq!(rig.mapping.write(5 * PAGE_BYTES, &[9; 100]), Ok(100));
    assert_eq!(other.mapping.truncate(8 * PAGE_BYTES), Ok(()));
    assert_eq!((byte(&rig, 5 * PAGE_BYTES), byte(&other, 5 * PAGE_BYTES)), (9, 0));
    assert_ne!(rig.file.frame_of(page(5)), other.file.frame_of(page(5)));
}

#[test]
fn pitfall_041_unsharing_copies_whole_pages_drops_mappings_and_fills_no_hole() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    rig.file.poke(2 * PAGE_BYTES, &vec![7; 4 * 4096]);
    share(&rig, &other);
    let map = rig.map(Shape::shared(0, 64));
    assert_eq!((rig.read(&map, 0), rig.read(&map, 3)), (Ok(0), Ok(7)));
    let (frame, allocated) = (rig.frame(3), rig.fs.allocated_pages());
    rig.mapping.unshare(pages(0, 64)).expect("space");
    assert!(rig.file.extents().iter().all(|extent| !extent.shared), "{:?}", rig.file.extents());
    assert_ne!(rig.frame(3), frame);
    assert_eq!(rig.fs.allocated_pages(), allocated + 4, "the four shared pages, and no hole");
    assert!(
        !map.table().iter().any(|found| found.contains("storage")),
        "mapped afresh by the next access"
    );
    assert_eq!((rig.read(&map, 3), other.frame(3)), (Ok(7), frame));
    assert_eq!(rig.file.contents()[2 * 4096..6 * 4096], vec![7; 4 * 4096]);
    rig.mapping.unshare(pages(0, 64)).expect("nothing to do");
    assert_eq!(rig.fs.allocated_pages(), allocated + 4);
    rig.check(&[&map]);
}

#[test]
fn pitfall_041_unsharing_a_part_leaves_the_rest_shared_and_stops_at_the_end_of_the_file() {
    let (rig, other) = pair(5 * PAGE_BYTES + 1);
    rig.file.poke(2 * PAGE_BYTES, &vec![7; 4 * 4096]);
    share(&rig, &other);
    rig.mapping.unshare(pages(3, 1)).expect("space");
    let shared: u64 = rig
        .file
        .extents()
        .iter()
        .filter(|extent| extent.shared)
        .map(|extent| extent.range.len())
        .sum();
    assert_eq!(shared, 3);
    rig.mapping.unshare(pages(5, 1 << 40)).expect("space");
    rig.mapping.unshare(pages(9, 9)).expect("nothing there");
    assert_eq!(rig.file.contents()[5 * 4096], 7);
}

#[test]
fn unsharing_without_space_or_with_an_error_is_told_and_changes_no_byte() {
    for broken in ["space", "load", "end"] {
        let (rig, other) = pair(16 * PAGE_BYTES);
        rig.file.poke(0, &vec![7; 4 * 4096]);
        share(&rig, &other);
        let map = rig.map(Shape::shared(0, 16));
        assert_eq!(rig.read(&map, 1), Ok(7));
        match broken {
            "space" => rig.fs.set_capacity(Some(rig.fs.allocated_pages())),
            "load" => rig.media.fail(MediaCall::Load, Plan::ONCE, EIO),
            _ => rig.file.fail(FsCall::End, Plan::ONCE, EIO),
        }
        let failed = rig.mapping.unshare(pages(0, 16)).expect_err("it is told");
        let expected = if broken == "space" { IoErrorKind::NoSpace } else { IoErrorKind::Io };
        assert_eq!(failed.kind, expected);
        rig.media.fail(MediaCall::Load, Plan { after: 0, times: 0 }, EIO);
        assert_eq!(rig.read(&map, 1), Ok(7), "{broken}");
        assert!(rig.file.contents()[..4 * 4096].iter().all(|found| *found == 7));
        rig.check(&[&map]);
    }
}

#[test]
fn pitfall_042_comparing_goes_in_lock_step_whatever_the_extents() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    rig.fs.set_placement(Placement::Fragmented { longest_run: 3 });
    rig.mapping.write(0, &vec![7; 10 * 4096]).expect("space");
    rig.fs.set_placement(Placement::Aligned);
    other.mapping.write(0, &vec![7; 10 * 4096]).expect("space");
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 10 * PAGE_BYTES), Ok(true));
    assert_eq!(rig.mapping.same_bytes(100, &other.mapping, 5000, 4 * PAGE_BYTES), Ok(true));
    other.mapping.write(9 * PAGE_BYTES, &[8]).expect("storage");
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 10 * PAGE_BYTES), Ok(false));
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 9 * PAGE_BYTES), Ok(true));
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 0), Ok(true));
}

#[test]
fn pitfall_090_unwritten_storage_and_holes_compare_as_zeros() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    rig.file.allocate(pages(0, 2)).expect("space");
    other.file.write_zeros(pages(1, 1)).expect("space");
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES), Ok(true));
    other.mapping.write(3 * PAGE_BYTES + 4095, &[1]).expect("space");
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES - 1), Ok(true));
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES), Ok(false));
    assert_eq!(rig.fs.allocated_pages(), 4, "nothing was filled");
}

#[test]
fn pitfall_090_an_error_is_never_an_answer() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    for file in [&rig, &other] {
        file.mapping.write(0, &vec![7; 4 * 4096]).expect("space");
    }
    for n in 1..=8 {
        rig.media.fail(MediaCall::Load, Plan::nth(n), EIO);
        assert_eq!(
            rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES),
            Err(EIO),
            "load {n}"
        );
    }
    for file in [&rig, &other] {
        for call in [FsCall::BeginRead, FsCall::End] {
            file.file.fail(call, Plan::nth(3), EIO);
            assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES), Err(EIO));
        }
    }
    rig.media.poison(rig.frame(2));
    let compared = rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES);
    assert_eq!(compared.map_err(|error| error.kind), Err(IoErrorKind::Poisoned));
    let beyond = rig.mapping.same_bytes(0, &other.mapping, 63 * PAGE_BYTES, 2 * PAGE_BYTES);
    assert_eq!(beyond.map_err(|error| error.kind), Err(IoErrorKind::OutOfRange));
}

#[test]
fn pitfall_091_comparing_is_bounded_by_what_the_media_grants() {
    let (rig, other) = pair(64 * PAGE_BYTES);
    for file in [&rig, &other] {
        file.mapping.write(0, &vec![7; 4 * 4096]).expect("space");
    }
    other.mapping.write(3 * PAGE_BYTES + 7, &[8]).expect("storage");
    rig.points.limit_loads(1000);
    other.points.limit_loads(700);
    assert_eq!(rig.mapping.same_bytes(50, &other.mapping, 150, 2 * PAGE_BYTES), Ok(true));
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 3 * PAGE_BYTES + 7), Ok(true));
    assert_eq!(rig.mapping.same_bytes(0, &other.mapping, 0, 4 * PAGE_BYTES), Ok(false));
    rig.points.limit_loads(0);
    let stuck = rig.mapping.same_bytes(0, &other.mapping, 0, PAGE_BYTES);
    assert_eq!(stuck.map_err(|error| error.kind), Err(IoErrorKind::Io), "no progress is an error");
}
