//! Synchronous faults, SEMANTICS 5.5: metadata durable first, then the store. Scenario 11.

use crate::journalled::{Rig, Shape, explore_then, pages};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use udax_core::{Access, IoError, PAGE_BYTES, PMD_BYTES, Served};
use udax_sim::{AccessError, Evicted, FsCall, MediaCall, Plan};

const EIO: IoError = IoError::from_errno(5);

fn rig() -> Arc<Rig> {
    Arc::new(Rig::new(2 * PMD_BYTES))
}

fn small() -> Shape {
    Shape::shared(0, 1024).small().sync()
}

#[test]
fn scenario_11_nothing_is_mapped_or_dirty_before_the_commit_and_both_after() {
    for (shape, unit, entry) in [(small(), "5", "pte"), (Shape::shared(0, 1024).sync(), "0", "pmd")]
    {
        let rig = rig();
        let map = rig.map(shape);
        let (weak, seen) = (Arc::downgrade(&rig), map.clone());
        let clean = format!("{unit} data-{entry}");
        let dirty = format!("{clean} D");
        rig.points.once("commit", move || {
            let rig = weak.upgrade().expect("the rig lives");
            assert_eq!(rig.entries(), [clean], "the entry is there, unlocked and clean");
            assert!(seen.table().is_empty(), "and no translation");
        });
        let weak = Arc::downgrade(&rig);
        rig.points.once("install_storage", move || {
            let rig = weak.upgrade().expect("the rig lives");
            assert_eq!(rig.entries(), [format!("{dirty}L")], "dirty before it is writable (I7)");
        });
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        assert!(!rig.points.is_waiting("install_storage"));
        let journal = rig.points.journal();
        let place = |what: &str| {
            let hit = journal.iter().position(|call| call.starts_with(what));
            hit.unwrap_or_else(|| panic!("no {what} in {journal:?}"))
        };
        let flushed = journal.iter().any(|call| call.starts_with("flush"));
        assert!(!flushed, "a mark before the commit would be cleared by it for nothing");
        assert!(place("iomap_end") < place("commit"), "the transaction is closed first");
        assert!(place("commit") < place("install_storage"));
        assert!(place("install_storage") < place("insert_pfn_mkwrite"));
        rig.check(&[&map]);
    }
}

#[test]
fn map_sync_5_5_events_at_both_sizes_and_none_of_insert_mapping() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024).sync());
    rig.write(&map, 5, 1).expect("space");
    assert_eq!(
        rig.events(),
        ["pmd_fault WRITE", "pmd_fault_done WRITE NEEDDSYNC", "insert_pfn_mkwrite WRITE NOPAGE"]
    );
    let off = rig.map(Shape::shared(0, 1024).misaligned().sync());
    rig.write(&off, 600, 1).expect("space");
    assert_eq!(
        rig.events()[2..],
        [
            "pte_fault WRITE",
            "pte_fault_done WRITE MAJOR|NEEDDSYNC",
            "writeback_range 600-600",
            "writeback_range_done 600-600",
            "insert_pfn_mkwrite WRITE NOPAGE"
        ],
        "with something dirty elsewhere, the sync inside shows"
    );
    // Durable now: an ordinary fault.
    rig.write(&off, 601, 1).expect("space");
    rig.mapping.sync(pages(0, 1024)).expect("all is well");
    rig.clear();
    rig.write(&off, 600, 2).expect("storage");
    assert_eq!(
        rig.events(),
        ["pte_fault WRITE|MKWRITE", "insert_mapping write", "pte_fault_done WRITE|MKWRITE NOPAGE"]
    );
    rig.check(&[&map, &off]);
}

#[test]
fn map_sync_5_5_the_metadata_of_a_store_is_durable_when_the_store_is_done() {
    let rig = rig();
    let plain = rig.map(Shape::shared(0, 1024).small());
    rig.write(&plain, 1, 7).expect("space");
    assert_eq!(rig.file.contents_after_crash(Evicted::Everything)[4096], 0, "not without MAP_SYNC");
    let map = rig.map(small());
    rig.write(&map, 5, 9).expect("space");
    // The program flushes its own cache lines; the extent is there to be found.
    assert_eq!(rig.file.contents_after_crash(Evicted::Everything)[5 * 4096], 9);
    rig.check(&[&plain, &map]);
}

/// The row of 5.4 for loads through a synchronous mapping.
#[test]
fn map_sync_5_5_loads_are_plain_loads() {
    let rig = rig();
    rig.file.write_zeros(pages(6, 1)).expect("space");
    let map = rig.map(small());
    assert_eq!((rig.read(&map, 5), rig.read(&map, 6)), (Ok(0), Ok(0)));
    assert_eq!(rig.file.calls(FsCall::Commit), 0);
    assert_eq!(map.table(), ["5 zero", "6 storage"]);
    assert_eq!(rig.entries(), ["5 zero-pte", "6 data-pte"]);
}

#[test]
fn scenario_11_an_entry_deleted_before_the_second_half_lets_the_access_fault_again() {
    for shape in [small(), Shape::shared(0, 1024).sync()] {
        let rig = rig();
        let map = rig.map(shape);
        let weak = Arc::downgrade(&rig);
        rig.points.once("commit done", move || {
            let rig = weak.upgrade().expect("the rig lives");
            rig.mapping.invalidate(pages(0, 512));
        });
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        let events = rig.events();
        assert!(
            events.contains(&"insert_pfn_mkwrite_no_entry WRITE NOPAGE".to_owned()),
            "{events:?}"
        );
        assert_eq!(
            rig.outcomes().len(),
            2,
            "the access came again, and then the metadata was durable"
        );
        assert_eq!(rig.read(&map, 5), Ok(1));
        rig.check(&[&map]);
    }
}

#[test]
fn scenario_11_small_entries_in_place_of_the_pmd_entry_are_no_entry() {
    let rig = rig();
    let map = rig.map(Shape::shared(0, 1024).sync());
    let off = rig.map(Shape::shared(0, 1024).misaligned());
    let weak = Arc::downgrade(&rig);
    rig.points.once("commit done", move || {
        let rig = weak.upgrade().expect("the rig lives");
        rig.mapping.invalidate(pages(0, 512));
        assert_eq!(rig.fault(&off, 9, Access::Read).served, Served::Installed);
    });
    assert_eq!(rig.write(&map, 5, 1), Ok(()));
    let events = rig.events();
    assert!(events.contains(&"insert_pfn_mkwrite_no_entry WRITE NOPAGE".to_owned()), "{events:?}");
    assert_eq!(rig.entries(), ["5 data-pte D", "9 data-pte"]);
    rig.check(&[&map]);
}

#[test]
fn map_sync_5_5_a_commit_that_fails_is_a_bus_error_and_maps_nothing() {
    let rig = rig();
    let map = rig.map(small());
    rig.file.fail(FsCall::Commit, Plan::ONCE, EIO);
    assert_eq!(rig.write(&map, 5, 1), Err(AccessError::BusError));
    assert_eq!(rig.outcomes()[0].error, Some(EIO));
    assert_eq!((rig.entries(), map.table()), (vec!["5 data-pte".to_owned()], vec![]));
    assert_eq!(rig.write(&map, 5, 1), Ok(()));
    rig.check(&[&map]);
}

#[test]
fn map_sync_5_5_leaves_an_earlier_error_of_a_writeback_to_the_next_sync() {
    let rig = rig();
    let (plain, map) = (rig.map(Shape::shared(0, 1024).small()), rig.map(small()));
    rig.write(&plain, 1, 1).expect("space");
    rig.media.fail(MediaCall::Flush, Plan::ONCE, EIO);
    assert_eq!(rig.mapping.writeback(pages(0, 1024)), Err(EIO));
    assert_eq!(rig.write(&map, 5, 1), Ok(()), "it is not this store's error");
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Err(EIO), "told once");
    assert_eq!(rig.mapping.sync(pages(0, 1024)), Ok(()));
    rig.check(&[&plain, &map]);
}

/// Under many schedules: in no one of them is the file cut between the two halves.
#[test]
fn map_sync_5_5_a_truncation_waits_from_the_fault_until_its_second_half_is_done() {
    let finished = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&finished);
    explore_then(0..60, |run| {
        let rig = rig();
        let map = rig.map(small());
        let (faulting, cutting) = (Arc::clone(&rig), Arc::clone(&rig));
        let by = map.clone();
        run.spawn("fault", move || {
            let served = faulting.fault(&by, 5, Access::Write).served;
            assert!(matches!(served, Served::Installed | Served::BusError), "{served:?}");
        });
        run.spawn("truncation", move || cutting.mapping.truncate(PAGE_BYTES).expect("shorter"));
        let finished = Arc::clone(&counter);
        move || {
            let journal = rig.points.journal();
            let calls = journal.iter().filter(|call| {
                ["commit", "insert_pfn_mkwrite", "set_size"]
                    .iter()
                    .any(|name| call.starts_with(name))
            });
            let order: Vec<_> = calls.filter_map(|call| call.split([' ', '(']).next()).collect();
            match order[..] {
                ["set_size"] => {}
                ["commit", "insert_pfn_mkwrite", "set_size"] => {
                    finished.fetch_add(1, Ordering::Relaxed);
                }
                _ => panic!("{order:?}"),
            }
            assert_eq!(map.table(), [""; 0]);
            rig.check(&[&map]);
        }
    });
    assert!(finished.load(Ordering::Relaxed) > 5, "the fault is first often enough");
}
