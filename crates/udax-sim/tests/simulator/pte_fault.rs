//! The 4 KiB fault, row by row of SEMANTICS 5.2. Each test names its row. With `pmd_fault.rs` this is scenario 2 of section 10.

use crate::journalled::{Rig, Shape, page, pages};
use std::sync::Arc;
use udax_core::{Access, Backing, IoError, IoErrorKind, PAGE_BYTES, PageRange, Pmd, Served};
use udax_sim::{AccessError, FsCall, MediaCall, Plan};

const EIO: IoError = IoError::from_errno(5);
const ENOMEM: IoError = IoError::from_errno(12);
const ENOSPC: IoError = IoError::from_errno(28);
const EHWPOISON: IoError = IoError::from_errno(133);

fn rig() -> Rig {
    Rig::new(1024 * PAGE_BYTES)
}

fn small() -> Shape {
    Shape::shared(0, 1024).small()
}

/// Of the journal, what was asked of the file system and the page tables, and the locks that can be seen.
fn asked(rig: &Rig) -> Vec<String> {
    let keep = ["iomap_begin ", "iomap_end", "install", "unmap", "pmd"];
    let all = rig.points.journal().into_iter();
    all.filter(|what| keep.iter().any(|start| what.starts_with(start))).collect()
}

#[test]
fn row_5_2_00_and_12_every_fault_begins_and_ends_in_an_event() {
    let rig = rig();
    let map = rig.map(small());
    rig.file.fail(FsCall::BeginRead, Plan::ONCE, EIO);
    assert_eq!(rig.read(&map, 5), Err(AccessError::BusError));
    assert_eq!(rig.events(), ["pte_fault", "pte_fault_done SIGBUS"]);
    assert_eq!(rig.read(&map, 5), Ok(0));
    assert_eq!(rig.events(), ["pte_fault", "load_hole NOPAGE", "pte_fault_done NOPAGE"]);
    rig.check(&[&map]);
}

#[test]
fn row_5_2_01_beyond_the_end_of_the_file_is_a_bus_error_and_makes_no_entry() {
    for (bytes, last) in [(1, 0), (PAGE_BYTES, 0), (PAGE_BYTES + 1, 1)] {
        let rig = Rig::new(bytes);
        let map = rig.map(Shape::shared(0, 8).small());
        assert_eq!(rig.read(&map, last), Ok(0), "{bytes}");
        let before = rig.entries();
        rig.clear();
        assert_eq!(rig.read(&map, last + 1), Err(AccessError::BusError), "{bytes}");
        assert_eq!(rig.write(&map, last + 1, 1), Err(AccessError::BusError), "{bytes}");
        assert_eq!(rig.entries(), before);
        assert!(asked(&rig).iter().all(|call| call == "pmd"), "the file system was not asked");
    }
}

#[test]
fn row_5_2_02_only_a_shared_store_asks_for_storage() {
    let rig = rig();
    let (shared, private) = (rig.map(small()), rig.map(Shape::private(0, 1024).small()));
    let intents = |rig: &Rig| -> Vec<String> {
        asked(rig).into_iter().filter(|call| call.starts_with("iomap_begin")).collect()
    };
    rig.read(&shared, 1).expect("a hole");
    assert_eq!(intents(&rig), ["iomap_begin Read 1"]);
    rig.write(&private, 2, 9).expect("a copy");
    assert_eq!(intents(&rig), ["iomap_begin Read 1"]);
    rig.write(&shared, 3, 9).expect("space");
    assert_eq!(intents(&rig), ["iomap_begin Write 1"]);
    assert_eq!(rig.file.modified(), 1, "a private store changes no time (pitfall 78)");
}

#[test]
fn row_5_2_03_no_memory_for_the_entry_is_out_of_memory() {
    let rig = rig();
    let map = rig.map(small());
    rig.mapping.limit_index_nodes(Some(0));
    assert_eq!(rig.read(&map, 5), Err(AccessError::OutOfMemory));
    assert_eq!(rig.events(), ["pte_fault", "pte_fault_done OOM"]);
    rig.mapping.limit_index_nodes(None);
    assert_eq!(rig.read(&map, 5), Ok(0));
    rig.check(&[&map]);
}

#[test]
fn row_5_2_04_after_the_entry_lock_a_huge_translation_ends_the_fault() {
    let rig = Arc::new(rig());
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    // The 2 MiB attempt falls back; before the 4 KiB one has the entry, somebody else's 2 MiB fault is served.
    rig.file.fail(FsCall::BeginRead, Plan::ONCE, EIO);
    let (weak, rival) = (Arc::downgrade(&rig), map.clone());
    rig.points.once("pte_fault", move || {
        let rig = weak.upgrade().expect("the rig lives");
        assert_eq!(rig.fault(&rival, 7, Access::Read).served, Served::Installed);
        rig.points.note("served".to_owned());
    });
    assert_eq!(rig.fault(&map, 5, Access::Read).served, Served::Installed);
    let journal = rig.points.journal();
    let after = journal.iter().skip_while(|what| *what != "served").collect::<Vec<_>>();
    assert_eq!(after, ["served", "pmd", "pte_fault_done NOPAGE"], "nobody asked any further");
    assert_eq!(map.table(), ["0 storage-pmd"]);
    rig.check(&[&map]);
}

#[test]
fn row_5_2_05_an_error_of_the_file_system_becomes_a_signal_and_leaves_an_empty_entry() {
    let rows = [
        (ENOMEM, AccessError::OutOfMemory, "OOM"),
        (EHWPOISON, AccessError::Poisoned, "HWPOISON"),
        (EIO, AccessError::BusError, "SIGBUS"),
    ];
    for (error, signal, result) in rows {
        let rig = rig();
        let map = rig.map(small());
        rig.file.fail(FsCall::BeginWrite, Plan::ONCE, error);
        assert_eq!(rig.write(&map, 5, 1), Err(signal));
        assert_eq!(rig.events(), ["pte_fault WRITE", &format!("pte_fault_done WRITE {result}")]);
        assert_eq!(rig.outcomes()[0].error, Some(error), "the cause travels along");
        assert_eq!(rig.entries(), ["5 empty-pte"]);
        assert_eq!(asked(&rig), ["pmd", "pmd", "iomap_begin Write 1"], "nothing to close");
        rig.check(&[&map]);
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        assert_eq!(rig.entries(), ["5 data-pte D"]);
    }
}

/// 5.2, row 5.
#[test]
fn pitfall_079_no_space_is_tried_again_after_a_commit_and_then_a_bus_error() {
    let rig = rig();
    let map = rig.map(small());
    rig.file.fail(FsCall::BeginWrite, Plan { after: 0, times: 2 }, ENOSPC);
    assert_eq!(rig.write(&map, 5, 1), Ok(()), "pitfall 79");
    assert_eq!(rig.file.calls(FsCall::Commit), 2);
    rig.clear();
    rig.fs.set_capacity(Some(1));
    assert_eq!(rig.write(&map, 6, 1), Err(AccessError::BusError));
    assert_eq!(rig.outcomes()[0].error.map(|error| error.kind), Some(IoErrorKind::NoSpace));
    assert_eq!(rig.write(&map, 5, 2), Ok(()), "what has storage needs no space");
    rig.check(&[&map]);
}

#[test]
fn row_5_2_06_an_extent_that_misses_the_page_is_a_bus_error_and_is_closed_unused() {
    let rig = rig();
    let map = rig.map(small());
    rig.points.change_iomap(|mut iomap| {
        iomap.range = pages(iomap.range.start.0 + 1, 4);
        iomap
    });
    assert_eq!(rig.read(&map, 5), Err(AccessError::BusError));
    assert_eq!(rig.entries(), ["5 empty-pte"]);
    assert_eq!(asked(&rig)[2..], ["iomap_begin Read 1", "iomap_end 0"]);
}

#[test]
fn row_5_2_07_a_private_store_copies_and_leaves_the_entry_alone() {
    for (backing, byte) in [("hole", 0), ("unwritten", 0), ("mapped", 7)] {
        let rig = rig();
        match backing {
            "unwritten" => rig.file.allocate(pages(5, 1)).expect("space"),
            "mapped" => rig.file.poke(5 * PAGE_BYTES + 1, &[byte]),
            _ => {}
        }
        let allocated = rig.fs.allocated_pages();
        let map = rig.map(Shape::private(0, 1024).small());
        assert_eq!(rig.write(&map, 5, 9), Ok(()));
        assert_eq!(rig.events(), ["pte_fault WRITE", "pte_fault_done WRITE DONE_COW"]);
        assert_eq!(rig.served(), Served::Copied);
        assert_eq!(rig.entries(), ["5 empty-pte"], "{backing}: nothing there: empty, no mark");
        assert_eq!(map.table(), ["5 copy W D"]);
        assert_eq!((rig.file.modified(), rig.fs.allocated_pages()), (0, allocated));
        let mut bytes = [0; 2];
        map.cpu.load(map.sim.address(page(5)), &mut bytes).expect("a copy");
        assert_eq!(bytes, [9, byte], "{backing}: the rest of the page is the file's");
        let mut file = [1; 2];
        assert_eq!(rig.mapping.read(5 * PAGE_BYTES, &mut file), Ok(2));
        assert_eq!(file, [0, byte], "the file does not change");
        rig.check(&[&map]);
    }
}

#[test]
fn row_5_2_07_a_private_store_keeps_zero_and_data_entries_and_their_marks() {
    let rig = rig();
    let (shared, private) = (rig.map(small()), rig.map(Shape::private(0, 1024).small()));
    rig.read(&shared, 1).expect("a hole");
    rig.write(&shared, 2, 3).expect("space");
    let before = rig.entries();
    rig.write(&private, 1, 9).expect("a copy");
    rig.write(&private, 2, 9).expect("a copy");
    assert_eq!(rig.entries(), before);
    assert_eq!(shared.table(), ["1 zero", "2 storage W D"]);
    assert_eq!(rig.read(&shared, 2), Ok(3));
}

#[test]
fn row_5_2_07_poison_under_a_private_store_and_no_memory_for_the_copy() {
    let rig = rig();
    rig.file.poke(5 * PAGE_BYTES, &[1]);
    let map = rig.map(Shape::private(0, 1024).small());
    rig.media.poison(rig.frame(5));
    assert_eq!(rig.write(&map, 5, 9), Err(AccessError::Poisoned));
    assert_eq!(rig.events(), ["pte_fault WRITE", "pte_fault_done WRITE HWPOISON"]);
    rig.machine.fail_copy_allocation(Plan::ONCE);
    assert_eq!(rig.write(&map, 6, 9), Err(AccessError::OutOfMemory));
    assert_eq!(rig.events(), ["pte_fault WRITE", "pte_fault_done WRITE OOM"]);
    assert_eq!(rig.entries(), ["5 empty-pte", "6 empty-pte"]);
    assert!(map.table().is_empty());
}

#[test]
fn row_5_2_07_and_10_what_cannot_be_mapped_is_a_bus_error() {
    for shape in [small(), Shape::private(0, 1024).small()] {
        for write in [false, true] {
            let rig = rig();
            let map = rig.map(shape);
            rig.points.change_iomap(|mut iomap| {
                iomap.backing = Backing::Other;
                iomap
            });
            let access = if write { rig.write(&map, 5, 1) } else { rig.read(&map, 5).map(|_| ()) };
            assert_eq!(access, Err(AccessError::BusError));
            assert_eq!(rig.entries(), ["5 empty-pte"]);
            assert!(asked(&rig).contains(&"iomap_end 0".to_owned()));
        }
    }
}

#[test]
fn row_5_2_08_new_storage_is_major_and_old_is_not() {
    let rig = rig();
    let map = rig.map(small());
    rig.write(&map, 5, 1).expect("space");
    assert_eq!(
        rig.events(),
        ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE MAJOR|NOPAGE"]
    );
    assert_eq!(rig.entries(), ["5 data-pte D"]);
    rig.file.poke(6 * PAGE_BYTES, &[4]);
    assert_eq!(rig.read(&map, 6), Ok(4));
    assert_eq!(rig.events(), ["pte_fault", "insert_mapping read", "pte_fault_done NOPAGE"]);
    assert_eq!(rig.entries(), ["5 data-pte D", "6 data-pte"], "dirty only for a store");
    rig.check(&[&map]);
}

#[test]
fn row_5_2_08_no_direct_access_is_an_error_and_inserts_nothing() {
    let rows = [
        (EIO, AccessError::BusError),
        (ENOMEM, AccessError::OutOfMemory),
        (EHWPOISON, AccessError::Poisoned),
    ];
    for (error, signal) in rows {
        let rig = rig();
        rig.file.poke(5 * PAGE_BYTES, &[1]);
        let map = rig.map(small());
        rig.media.fail(MediaCall::DirectAccess, Plan::ONCE, error);
        assert_eq!(rig.read(&map, 5), Err(signal));
        assert_eq!((rig.entries(), map.table()), (vec!["5 empty-pte".to_owned()], vec![]));
        assert_eq!(asked(&rig)[2..], ["iomap_begin Read 1", "iomap_end 0"]);
        assert_eq!(rig.read(&map, 5), Ok(1));
    }
}

#[test]
fn row_5_2_08b_no_page_table_is_out_of_memory_with_the_entry_in_place() {
    let rig = rig();
    let map = rig.map(small());
    rig.machine.fail_table_allocation(Plan::ONCE);
    assert_eq!(rig.write(&map, 5, 1), Err(AccessError::OutOfMemory));
    assert_eq!(
        rig.events(),
        ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE OOM|MAJOR"]
    );
    assert_eq!(rig.entries(), ["5 data-pte D"], "the storage is there; marked for nothing");
    assert_eq!(rig.write(&map, 5, 1), Ok(()));
    rig.check(&[&map]);
}

#[test]
fn row_5_2_09_a_load_from_a_hole_or_unwritten_storage_maps_the_zero_page() {
    let rig = rig();
    rig.file.allocate(pages(6, 1)).expect("space");
    let map = rig.map(small());
    for index in [5, 6] {
        assert_eq!(rig.read(&map, index), Ok(0));
        assert_eq!(rig.events(), ["pte_fault", "load_hole NOPAGE", "pte_fault_done NOPAGE"]);
    }
    assert_eq!(rig.entries(), ["5 zero-pte", "6 zero-pte"]);
    assert_eq!(map.table(), ["5 zero", "6 zero"]);
    assert_eq!(rig.fs.allocated_pages(), 1, "a load allocates nothing");
    rig.machine.fail_table_allocation(Plan::ONCE);
    let other = rig.map(small());
    assert_eq!(rig.read(&other, 5), Err(AccessError::OutOfMemory));
    assert_eq!(rig.events(), ["pte_fault", "load_hole OOM", "pte_fault_done OOM"]);
    rig.check(&[&map, &other]);
}

#[test]
fn row_5_2_10_a_store_that_is_answered_with_a_hole_is_a_bus_error() {
    for backing in [Backing::Hole, Backing::Unwritten] {
        let rig = rig();
        let map = rig.map(small());
        rig.points.change_iomap(move |mut iomap| {
            iomap.backing = backing;
            iomap
        });
        assert_eq!(rig.write(&map, 5, 1), Err(AccessError::BusError));
        assert_eq!(rig.entries(), ["5 empty-pte"]);
        assert_eq!(asked(&rig)[2..], ["iomap_begin Write 1", "iomap_end 0"]);
    }
}

/// 5.2, row 11.
#[test]
fn pitfall_086_the_extent_is_closed_and_an_error_of_that_is_ignored() {
    let rig = rig();
    let map = rig.map(small());
    rig.file.fail(FsCall::End, Plan::ALWAYS, EIO);
    assert_eq!(rig.write(&map, 5, 1), Ok(()), "pitfall 86");
    assert_eq!(
        asked(&rig)[2..],
        ["iomap_begin Write 1", "install_storage 1 WritableDirty", "iomap_end 1"]
    );
    assert_eq!(rig.read(&map, 6), Ok(0));
    rig.check(&[&map]);
}

#[test]
fn row_5_2_12_the_entry_is_locked_from_before_the_question_until_after_the_close() {
    for write in [false, true] {
        let rig = Arc::new(rig());
        let map = rig.map(small());
        for point in
            ["iomap_begin", "iomap_begin done", "install_zeros", "install_storage", "iomap_end"]
        {
            let inner = Arc::downgrade(&rig);
            rig.points.once(point, move || {
                let rig = inner.upgrade().expect("the rig lives");
                let entry = rig.entry(5).expect("there is an entry");
                assert!(entry.is_locked(), "{point}: {entry:?}");
            });
        }
        let access = if write { rig.write(&map, 5, 1) } else { rig.read(&map, 5).map(|_| ()) };
        assert_eq!(access, Ok(()));
        assert!(!rig.points.is_waiting("iomap_end"), "the points were reached");
        rig.check(&[&map]);
    }
}

#[test]
fn row_5_2_a_pte_fault_works_under_a_pmd_entry_and_leaves_it_whole() {
    let rig = rig();
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let (aligned, off) =
        (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
    assert_eq!(rig.read(&aligned, 0), Ok(0));
    rig.clear();
    assert_eq!(rig.write(&off, 9, 4), Ok(()));
    assert_eq!(rig.entries(), ["0 data-pmd D"], "the whole entry is dirty");
    assert_eq!(off.table(), ["9 storage W D"]);
    assert_eq!(rig.read(&aligned, 9), Ok(4));
    assert_eq!(aligned.pmd(0), Pmd::HugeReadOnly);
    rig.check(&[&aligned, &off]);
}

#[test]
fn an_entry_that_knows_storage_is_never_hidden_by_zeros() {
    let rig = rig();
    let map = rig.map(small().ahead(8));
    rig.write(&map, 5, 9).expect("space");
    let other = rig.map(small().ahead(8));
    rig.points.change_iomap(|mut iomap| {
        // A file system that forgets what it gave, and says that the hole goes on.
        iomap.backing = Backing::Hole;
        iomap.range = PageRange::new(iomap.range.start, 64);
        iomap
    });
    assert_eq!(rig.read(&other, 5), Ok(9));
    assert_eq!(other.table()[0], "5 storage");
    assert!(
        other.table().iter().skip(1).all(|found| !found.contains("storage")),
        "storage was invented behind it: {:?}",
        other.table()
    );
}

#[test]
fn row_5_2_08_i7_a_store_is_marked_before_its_translation_can_be_used() {
    for shape in [small(), small().ahead(4), Shape::shared(0, 1024)] {
        let rig = Arc::new(rig());
        rig.file.write_zeros(pages(0, 512)).expect("space");
        let map = rig.map(shape);
        let weak = Arc::downgrade(&rig);
        rig.points.once("install_storage", move || {
            let rig = weak.upgrade().expect("the rig lives");
            for entry in rig.entries() {
                assert!(entry.ends_with("DL"), "about to be writable: {entry}");
            }
        });
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        rig.check(&[&map]);
    }
}
