//! Scenarios 5, 7, 13, 20 and 23 of SEMANTICS 10: several mappings of one file. The others are with the tables that they belong to.

use crate::journalled::{Rig, Shape, explore_then, page};
use std::sync::Arc;
use udax_core::{PAGE_BYTES, PMD_BYTES};
use udax_sim::AccessError;

fn rig() -> Arc<Rig> {
    Arc::new(Rig::new(2 * PMD_BYTES))
}

fn small() -> Shape {
    Shape::shared(0, 1024).small()
}

#[test]
fn scenario_07_a_store_in_one_process_takes_the_zero_page_from_the_others() {
    for shape in [small(), Shape::shared(0, 1024)] {
        let rig = rig();
        let maps = [rig.map(shape), rig.map(shape), rig.map(shape)];
        for map in &maps {
            assert_eq!(rig.read(map, 5), Ok(0));
        }
        rig.write(&maps[0], 5, 9).expect("space");
        assert!(maps[1].table().is_empty() && maps[2].table().is_empty());
        assert_eq!((rig.read(&maps[1], 5), rig.read(&maps[2], 5)), (Ok(9), Ok(9)));
        rig.check(&maps.each_ref());
    }
}

#[test]
fn scenario_05_a_small_fault_in_a_huge_zero_page_downgrades_it() {
    let rig = rig();
    let (huge, off) =
        (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
    assert_eq!(rig.read(&huge, 5), Ok(0));
    rig.clear();
    assert_eq!(rig.read(&off, 100), Ok(0));
    assert!(
        rig.points.journal().contains(&"unmap 0+512 Keep".to_owned()),
        "all 2 MiB are unmapped"
    );
    assert_eq!((rig.mapping.entries(), rig.entries()), (1, vec!["100 zero-pte".to_owned()]));
    assert!(huge.table().is_empty());
    rig.write(&off, 200, 1).expect("space");
    assert_eq!(rig.entries(), ["100 zero-pte", "200 data-pte D"]);
    assert_eq!((rig.read(&huge, 200), rig.read(&huge, 100)), (Ok(1), Ok(0)));
    rig.check(&[&huge, &off]);
}

#[test]
fn scenario_05_no_memory_in_a_downgrade_leaves_the_old_entry_unlocked() {
    let rig = rig();
    let (huge, off) =
        (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
    assert_eq!(rig.read(&huge, 5), Ok(0));
    rig.mapping.limit_index_nodes(Some(1));
    assert_eq!(rig.read(&off, 100), Err(AccessError::OutOfMemory), "pitfall 5");
    rig.check(&[&huge, &off]);
    rig.mapping.limit_index_nodes(None);
    assert_eq!(rig.read(&off, 100), Ok(0));
}

#[test]
fn scenario_13_everything_is_given_back_at_the_end() {
    let rig = rig();
    let (huge, off) =
        (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
    for index in [0, 600, 3] {
        rig.read(&huge, index).expect("a hole");
        rig.write(&off, index + 1, 1).expect("space");
    }
    rig.write(&huge, 700, 1).expect("space");
    rig.check(&[&huge, &off]);
    for map in [&huge, &off] {
        map.process.unmap(map.sim.address(page(0)) / PAGE_BYTES, 1024);
        let holders = Arc::strong_count(&map.vma);
        rig.mapping.detach(&map.vma);
        assert_eq!(Arc::strong_count(&map.vma), holders - 1, "the file forgets the VMA");
    }
    rig.mapping.truncate(0).expect("nothing left");
    rig.mapping.evict();
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
    assert_eq!(rig.fs.allocated_pages(), 0);
}

#[test]
fn scenario_20_faults_against_a_punch_leave_zeros_and_nothing_of_the_old_storage() {
    for shape in [small(), Shape::shared(0, 1024), Shape::shared(0, 1024).small().ahead(8)] {
        explore_then(0..80, |run| {
            let rig = rig();
            let map = rig.map(shape);
            rig.write(&map, 5, 7).expect("space");
            rig.write(&map, 6, 7).expect("space");
            let own = Arc::clone(&rig);
            run.spawn("punch", move || {
                own.mapping.punch_hole(5 * PAGE_BYTES, PAGE_BYTES).expect("a hole");
            });
            for cpu in [0, 1] {
                let (own, mut by) = (Arc::clone(&rig), map.clone());
                by.cpu = map.process.thread(cpu);
                run.spawn("load", move || {
                    for _ in 0..2 {
                        assert!(matches!(own.read(&by, 5), Ok(0 | 7)));
                        assert_eq!(
                            own.read(&by, 6),
                            Ok(7),
                            "the rest of a 2 MiB entry is not lost"
                        );
                    }
                });
            }
            move || {
                assert_eq!((rig.read(&map, 5), rig.read(&map, 6)), (Ok(0), Ok(7)));
                rig.check(&[&map]);
            }
        });
    }
}

#[test]
fn scenario_20_stores_against_a_truncation_end_in_the_file_or_in_a_signal() {
    for shape in [small(), Shape::shared(0, 1024)] {
        explore_then(0..80, |run| {
            let rig = rig();
            let map = rig.map(shape);
            rig.write(&map, 600, 7).expect("space");
            let own = Arc::clone(&rig);
            run.spawn("truncate", move || own.mapping.truncate(PAGE_BYTES).expect("shorter"));
            for cpu in [0, 1] {
                let (own, mut by) = (Arc::clone(&rig), map.clone());
                by.cpu = map.process.thread(cpu);
                run.spawn("store", move || {
                    let stored = own.write(&by, 600 + cpu as u64, 8);
                    assert!(matches!(stored, Ok(()) | Err(AccessError::BusError)), "{stored:?}");
                });
            }
            move || {
                assert_eq!(rig.read(&map, 600), Err(AccessError::BusError));
                assert!(map.table().is_empty(), "a freed block is mapped: {:?}", map.table());
                rig.mapping.truncate(2 * PMD_BYTES).expect("longer");
                assert_eq!((rig.read(&map, 600), rig.read(&map, 601)), (Ok(0), Ok(0)));
                rig.check(&[&map]);
            }
        });
    }
}

#[test]
fn scenario_23_a_frozen_file_system_holds_shared_stores_and_nothing_else() {
    let rig = rig();
    let (shared, private) = (rig.map(small()), rig.map(Shape::private(0, 1024).small()));
    rig.fs.freeze();
    assert_eq!(rig.read(&shared, 5), Ok(0));
    assert_eq!(rig.write(&private, 5, 9), Ok(()), "pitfall 77: a private store writes no file");
    assert_eq!(rig.file.modified(), 0, "pitfall 78");
    rig.check(&[&shared, &private]);
    explore_then(0..20, |run| {
        let rig = self::rig();
        let map = rig.map(small());
        rig.fs.freeze();
        let (own, by) = (Arc::clone(&rig), map.clone());
        run.spawn("store", move || own.write(&by, 6, 1).expect("after the thaw"));
        let own = Arc::clone(&rig);
        run.spawn("thaw", move || {
            for _ in 0..50 {
                udax_sim::yield_point();
                assert_eq!(own.mapping.entries(), 0, "the store went on in a frozen file system");
            }
            own.fs.thaw();
        });
        move || {
            assert_eq!((rig.read(&map, 6), rig.file.modified()), (Ok(1), 1));
            rig.check(&[&map]);
        }
    });
}
