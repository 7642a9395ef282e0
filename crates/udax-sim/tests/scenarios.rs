//! Scenarios 5, 7 and 13 of SEMANTICS 10: several mappings of one file. The others are with the tables that they belong to.

mod common_b;

use common_b::{Rig, Shape, page};
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
        rig.mapping.detach(&map.vma);
    }
    rig.mapping.truncate(0).expect("nothing left");
    rig.mapping.evict();
    assert_eq!((rig.mapping.entries(), rig.media.owned_frames()), (0, 0));
    assert_eq!(rig.fs.allocated_pages(), 0);
}
