//! The 2 MiB fault, row by row of SEMANTICS 5.3. Each test names its row. With `pte_fault.rs` this is scenario 2 of section 10.

use crate::journalled::{Map, Rig, Shape, pages};
use std::sync::Arc;
use udax_core::{Access, Backing, Frame, IoError, NotHuge, PAGE_BYTES, PMD_BYTES, Pmd, Served};
use udax_sim::{
    AccessError, Congruence, FsCall, HugeZero, MediaCall, MediaConfig, Placement, Plan, SimMedia,
};

const EIO: IoError = IoError::from_errno(5);
const EHWPOISON: IoError = IoError::from_errno(133);

fn rig() -> Rig {
    Rig::new(2 * PMD_BYTES)
}

fn load(rig: &Rig, map: &Map, index: u64) -> Vec<String> {
    rig.clear();
    assert_eq!(rig.read(map, index), Ok(0));
    rig.events()
}

fn store(rig: &Rig, map: &Map, index: u64) -> Vec<String> {
    rig.clear();
    assert_eq!(rig.write(map, index, 1), Ok(()));
    rig.events()
}

const FELL_BACK_LOAD: [&str; 5] = [
    "pmd_fault",
    "pmd_fault_done FALLBACK",
    "pte_fault",
    "load_hole NOPAGE",
    "pte_fault_done NOPAGE",
];
const FELL_BACK_STORE: [&str; 5] = [
    "pmd_fault WRITE",
    "pmd_fault_done WRITE FALLBACK",
    "pte_fault WRITE",
    "insert_mapping write",
    "pte_fault_done WRITE MAJOR|NOPAGE",
];

#[test]
fn row_5_3_00_and_15_every_fault_begins_and_ends_in_an_event() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!(load(&rig, &map, 3), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(
        store(&rig, &map, 600),
        ["pmd_fault WRITE", "pmd_insert_mapping write", "pmd_fault_done WRITE NOPAGE"],
        "no MAJOR at this size"
    );
    assert_eq!(rig.entries(), ["0 zero-pmd", "512 data-pmd D"]);
    rig.check(&[&map]);
}

#[test]
fn pitfall_021_row_5_3_01_a_unit_beyond_the_end_of_the_file_is_a_bus_error_at_once() {
    for bytes in [0, 1, PMD_BYTES - 1, PMD_BYTES] {
        let rig = Rig::new(bytes);
        let map = rig.map(Shape::shared(0, 1024));
        let beyond = if bytes == 0 { 0 } else { 512 };
        assert_eq!(rig.read(&map, beyond), Err(AccessError::BusError), "{bytes} (pitfall 21)");
        assert_eq!(rig.events(), ["pmd_fault", "pmd_fault_done SIGBUS"]);
        assert!(rig.entries().is_empty());
    }
}

#[test]
fn row_5_3_02_colours_that_differ_fall_back() {
    let rig = rig();
    for off in [1, 511] {
        let shape = Shape { congruence: Congruence::OffBy(off), ..Shape::shared(0, 1024) };
        let map = rig.map(shape);
        assert_eq!(load(&rig, &map, 3), FELL_BACK_LOAD, "off by {off}");
        assert_eq!(
            rig.mapping.why_not_huge(&map.vma, crate::journalled::page(3)),
            Some(NotHuge::Colour)
        );
    }
    assert_eq!(rig.entries(), ["3 zero-pte"], "no PMD entry was made");
}

#[test]
fn row_5_3_03_a_private_store_falls_back_and_splits() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::private(0, 1024));
    assert_eq!(
        load(&rig, &map, 3),
        ["pmd_fault", "pmd_insert_mapping read", "pmd_fault_done NOPAGE"]
    );
    assert_eq!(map.pmd(3), Pmd::HugeReadOnly);
    assert_eq!(
        store(&rig, &map, 3),
        [
            "pmd_fault WRITE",
            "pmd_fault_done WRITE FALLBACK",
            "pte_fault WRITE",
            "pte_fault_done WRITE DONE_COW"
        ]
    );
    assert_eq!(map.table(), ["3 copy W D"], "row 15: the old 2 MiB translation is gone");
    assert_eq!(rig.entries(), ["0 data-pmd"]);
    rig.check(&[&map]);
}

#[test]
fn row_5_3_04_a_unit_that_sticks_out_of_the_vma_falls_back() {
    for (start, count, index) in [(1, 1023, 5), (0, 700, 600), (100, 300, 200)] {
        let rig = rig();
        let map = rig.map(Shape::shared(start, count));
        assert_eq!(load(&rig, &map, index), FELL_BACK_LOAD);
        let why = rig.mapping.why_not_huge(&map.vma, crate::journalled::page(index));
        assert_eq!(why, Some(NotHuge::VmaBounds));
        rig.check(&[&map]);
    }
}

#[test]
fn row_5_3_05_a_unit_that_the_end_of_the_file_cuts_falls_back() {
    for (bytes, fits) in [(PMD_BYTES - PAGE_BYTES, false), (PMD_BYTES - 1, true), (PMD_BYTES, true)]
    {
        let rig = Rig::new(bytes);
        let map = rig.map(Shape::shared(0, 512));
        let events = load(&rig, &map, 0);
        assert_eq!(events.contains(&"pmd_load_hole".to_owned()), fits, "{bytes}: {events:?}");
        assert_eq!(rig.entries(), [if fits { "0 zero-pmd" } else { "0 zero-pte" }]);
    }
}

#[test]
fn row_5_3_06_a_small_entry_anywhere_in_the_unit_falls_back() {
    for small in [0, 5, 511] {
        let rig = rig();
        let off = rig.map(Shape::shared(0, 1024).misaligned());
        rig.read(&off, small).expect("a hole");
        let map = rig.map(Shape::shared(0, 1024));
        assert_eq!(load(&rig, &map, 9), FELL_BACK_LOAD, "pitfall 18: entry at {small}");
        assert_eq!(
            rig.mapping.why_not_huge(&map.vma, crate::journalled::page(9)),
            Some(NotHuge::SmallEntry)
        );
        assert_eq!(rig.entries().len(), 2);
        rig.check(&[&map, &off]);
    }
}

#[test]
fn row_5_3_06_no_memory_for_the_entry_is_out_of_memory() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.mapping.limit_index_nodes(Some(0));
    assert_eq!(rig.read(&map, 3), Err(AccessError::OutOfMemory));
    assert_eq!(rig.events(), ["pmd_fault", "pmd_fault_done OOM"]);
    rig.mapping.limit_index_nodes(None);
    assert_eq!(rig.read(&map, 3), Ok(0));
}

#[test]
fn row_5_3_07_a_page_table_found_after_the_entry_lock_means_try_again() {
    let rig = Arc::new(rig());
    let map = rig.map(Shape::private(0, 1024));
    // Between the look at the level and the entry lock another thread's private store brings a table.
    let (weak, rival) = (Arc::downgrade(&rig), map.clone());
    rig.points.once("pmd_fault", move || {
        let rig = weak.upgrade().expect("the rig lives");
        assert_eq!(rig.fault(&rival, 600, Access::Write).served, Served::Copied);
        rig.mapping.invalidate(pages(0, 1024));
    });
    let outcome = rig.fault(&map, 601, Access::Read);
    assert_eq!(outcome.served, Served::Retry, "neither an error nor a fallback (pitfall 19)");
    assert_eq!(rig.events().last().map(String::as_str), Some("pmd_fault_done"));
    let journal = rig.points.journal();
    let after = journal.iter().skip_while(|what| !what.ends_with("DONE_COW")).skip(1);
    assert_eq!(
        after.collect::<Vec<_>>(),
        ["unmap 0+1024 Keep", "pmd", "pmd_fault_done"],
        "no split"
    );
    assert_eq!(map.table(), ["600 copy W D"]);
    assert_eq!(rig.entries(), ["512 empty-pmd"]);
    assert_eq!(rig.read(&map, 601), Ok(0), "the next try is a small one");
    rig.check(&[&map]);
}

#[test]
fn row_5_3_08_an_error_of_the_file_system_falls_back() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.file.fail(FsCall::BeginRead, Plan::ONCE, EIO);
    assert_eq!(load(&rig, &map, 3), FELL_BACK_LOAD);
    rig.file.fail(FsCall::BeginWrite, Plan::ONCE, EHWPOISON);
    assert_eq!(store(&rig, &map, 600), FELL_BACK_STORE);
    assert_eq!(
        rig.entries(),
        ["3 zero-pte", "600 data-pte D"],
        "the empty PMD entry was downgraded"
    );
    rig.check(&[&map]);
}

#[test]
fn row_5_3_09_an_extent_that_ends_inside_falls_back_and_is_closed_unused() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 511)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    let events = load(&rig, &map, 3);
    assert_eq!(
        events,
        [
            "pmd_fault",
            "pmd_fault_done FALLBACK",
            "pte_fault",
            "insert_mapping read",
            "pte_fault_done NOPAGE"
        ]
    );
    let ends: Vec<_> =
        rig.points.journal().into_iter().filter(|call| call.starts_with("iomap_end")).collect();
    assert_eq!(ends, ["iomap_end 0", "iomap_end 1"]);
    let why = rig.mapping.why_not_huge(&map.vma, crate::journalled::page(600));
    assert_eq!(why, None, "the hole behind is whole");
    rig.fs.set_placement(Placement::Fragmented { longest_run: 100 });
    assert_eq!(store(&rig, &map, 900), FELL_BACK_STORE);
    rig.check(&[&map]);
}

#[test]
fn pitfall_031_row_5_3_10_storage_that_no_huge_page_fits_falls_back() {
    let misaligned =
        SimMedia::new(MediaConfig { first_frame: Frame(1), frames: 4096, contiguous_limit: None });
    let limited = SimMedia::new(MediaConfig {
        first_frame: Frame(0),
        frames: 4096,
        contiguous_limit: Some(511),
    });
    for (media, is_short) in [(misaligned, false), (limited, true)] {
        let rig = Rig::on(media, 2 * PMD_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        let map = rig.map(Shape::shared(0, 1024));
        assert_eq!(load(&rig, &map, 3)[1], "pmd_fault_done FALLBACK");
        assert_eq!(rig.entries(), ["3 data-pte"]);
        if !is_short {
            let fresh = Rig::of_file(rig.file.clone(), Arc::clone(&rig.machine));
            let map = fresh.map(Shape::shared(0, 1024));
            let why = fresh.mapping.why_not_huge(&map.vma, crate::journalled::page(3));
            assert_eq!(why, Some(NotHuge::Storage));
        }
        rig.check(&[&map]);
    }
}

#[test]
fn row_5_3_10_no_direct_access_falls_back() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    rig.media.fail(MediaCall::DirectAccess, Plan::ONCE, EIO);
    assert_eq!(load(&rig, &map, 3)[1], "pmd_fault_done FALLBACK");
    // Poison elsewhere in the 2 MiB does not keep a whole page from being mapped.
    let rig = self::rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    rig.media.poison(rig.frame(100));
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!(load(&rig, &map, 3)[1], "pmd_fault_done FALLBACK");
    assert_eq!(rig.read(&map, 100), Err(AccessError::Poisoned));
    rig.check(&[&map]);
}

#[test]
fn row_5_3_11_mapped_storage_is_mapped_whole_and_dirty_only_for_a_store() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!(
        load(&rig, &map, 3),
        ["pmd_fault", "pmd_insert_mapping read", "pmd_fault_done NOPAGE"]
    );
    assert_eq!(
        (rig.entries(), map.table()),
        (vec!["0 data-pmd".into()], vec!["0 storage-pmd".into()])
    );
    assert_eq!(
        store(&rig, &map, 4),
        ["pmd_fault WRITE", "pmd_insert_mapping write", "pmd_fault_done WRITE NOPAGE"],
        "pitfall 25: the existing translation gains the right, with no MKWRITE at this size"
    );
    assert_eq!(rig.entries(), ["0 data-pmd D"]);
    assert_eq!(map.table(), ["0 storage-pmd W D"]);
    rig.check(&[&map]);
}

#[test]
fn row_5_3_11_no_page_table_for_storage_is_out_of_memory() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    rig.machine.fail_table_allocation(Plan::ONCE);
    assert_eq!(rig.read(&map, 3), Err(AccessError::OutOfMemory));
    assert_eq!(rig.read(&map, 3), Ok(0));
    rig.check(&[&map]);
}

#[test]
fn row_5_3_12_a_hole_without_a_huge_zero_page_falls_back_and_is_downgraded() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.machine.set_huge_zero(HugeZero::Unavailable);
    assert_eq!(
        load(&rig, &map, 3),
        [
            "pmd_fault",
            "pmd_load_hole_fallback",
            "pmd_fault_done FALLBACK",
            "pte_fault",
            "load_hole NOPAGE",
            "pte_fault_done NOPAGE"
        ]
    );
    assert_eq!(rig.entries(), ["3 zero-pte"]);
    rig.machine.set_huge_zero(HugeZero::Available);
    rig.machine.fail_table_allocation(Plan::ONCE);
    assert_eq!(rig.read(&map, 600), Err(AccessError::OutOfMemory));
    assert_eq!(rig.read(&map, 600), Ok(0));
    rig.check(&[&map]);
}

#[test]
fn row_5_3_12_unwritten_storage_reads_as_a_hole() {
    let rig = rig();
    rig.file.allocate(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    assert_eq!(load(&rig, &map, 3), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(store(&rig, &map, 3)[1], "pmd_insert_mapping write", "a store converts it");
    assert_eq!(rig.entries(), ["0 data-pmd D"]);
    rig.check(&[&map]);
}

#[test]
fn row_5_3_13_a_store_that_is_answered_with_a_hole_falls_back() {
    for backing in [Backing::Hole, Backing::Unwritten, Backing::Other] {
        let rig = rig();
        let map = rig.map(Shape::shared(0, 1024));
        let mut first = true;
        rig.points.change_iomap(move |mut iomap| {
            if std::mem::take(&mut first) {
                iomap.backing = backing;
            }
            iomap
        });
        rig.write(&map, 3, 1).expect("the small fault is answered well");
        let events = rig.events();
        assert_eq!(events[1], "pmd_fault_done WRITE FALLBACK");
        assert_eq!(rig.entries(), ["3 data-pte D"]);
    }
}

#[test]
fn row_5_3_14_the_extent_is_closed_and_an_error_of_that_is_ignored() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.file.fail(FsCall::End, Plan::ALWAYS, EIO);
    assert_eq!(rig.write(&map, 3, 1), Ok(()));
    assert_eq!(rig.events()[2], "pmd_fault_done WRITE NOPAGE");
    assert!(rig.points.journal().contains(&"iomap_end 512".to_owned()));
    rig.check(&[&map]);
}

#[test]
fn row_5_3_15_a_fallback_splits_the_huge_page_before_the_small_fault() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024));
    rig.read(&map, 3).expect("a hole");
    assert_eq!(map.pmd(3), Pmd::HugeReadOnly);
    rig.file.fail(FsCall::BeginWrite, Plan::ONCE, EIO);
    rig.clear();
    assert_eq!(rig.write(&map, 3, 1), Ok(()));
    let order: Vec<_> = rig.points.journal();
    let place = |what: &str| order.iter().position(|call| call == what).expect("it happened");
    assert!(place("clear_pmd") < place("pmd_fault_done WRITE FALLBACK"));
    assert!(place("iomap_end 1") > place("pte_fault WRITE"));
    assert_eq!(map.table(), ["3 storage W D"]);
    rig.check(&[&map]);
}

#[test]
fn pitfall_011_scenario_12_where_everything_is_aligned_ten_faults_are_huge() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), 12 * PMD_BYTES);
    let map = rig.map(Shape::shared(0, 12 * 512));
    for unit in 0..10 {
        let index = unit * 512 + 7 * unit;
        let access = if unit % 2 == 0 { Access::Read } else { Access::Write };
        let outcome = rig.fault(&map, index, access);
        assert_eq!(outcome.served, Served::Installed, "pitfall 11: unit {unit}");
        assert_eq!(outcome.order, udax_core::Order::Pmd, "unit {unit}");
    }
    let done: Vec<_> =
        rig.events().into_iter().filter(|event| event.starts_with("pmd_fault_done")).collect();
    assert_eq!(done.len(), 10);
    assert!(done.iter().all(|event| event.ends_with("NOPAGE")), "{done:?}");
}

#[test]
fn scenario_03_file_sizes_at_the_first_the_last_and_the_page_behind() {
    for bytes in [0, 1, 4095, 4096, 4097, PMD_BYTES - 1, PMD_BYTES, PMD_BYTES + 1] {
        for shape in [Shape::shared(0, 1024), Shape::shared(0, 1024).misaligned()] {
            for write in [false, true] {
                let rig = Rig::new(bytes);
                let map = rig.map(shape);
                let count = bytes.div_ceil(PAGE_BYTES);
                let access = |index| {
                    if write {
                        rig.write(&map, index, 1)
                    } else {
                        rig.read(&map, index).map(|_| ())
                    }
                };
                assert_eq!(access(count), Err(AccessError::BusError), "{bytes}: behind the last");
                if count > 0 {
                    assert_eq!(access(0), Ok(()), "{bytes}: the first");
                    assert_eq!(access(count - 1), Ok(()), "{bytes}: the last");
                    assert_eq!(access(count), Err(AccessError::BusError), "{bytes}: again");
                }
                rig.check(&[&map]);
            }
        }
    }
}

#[test]
fn pitfall_020_scenario_04_every_colour_mismatch_is_served_without_a_pmd_and_without_end() {
    for off in (1..512).step_by(73).chain([511]) {
        let rig = rig();
        let shape = Shape { congruence: Congruence::OffBy(off), ..Shape::shared(0, 1024) };
        let map = rig.map(shape);
        // The page-table level of these addresses spans two units of the file.
        for index in [0, 511 - off.min(511), 512 - off.min(512), 511, 512, 1023] {
            assert!(rig.read(&map, index).is_ok(), "off by {off}, page {index}");
            assert_eq!(rig.write(&map, index, 1), Ok(()), "pitfall 20");
        }
        assert!(rig.entries().iter().all(|entry| entry.contains("-pte")));
        rig.check(&[&map]);
    }
    let rig = rig();
    for (start, count) in [(511, 2), (1, 512), (0, 513), (0, 1)] {
        let map = rig.map(Shape::shared(start, count));
        for index in [start, start + count - 1] {
            assert_eq!(rig.read(&map, index), Ok(0), "VMA edges");
        }
        rig.check(&[&map]);
    }
}
