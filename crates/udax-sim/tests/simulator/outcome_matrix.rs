//! The outcome matrix of SEMANTICS 5.4, every row: outcome, index, marks, page table, events.

use crate::journalled::{Rig, Shape, pages};
use udax_core::{PAGE_BYTES, PageIndex, Served};
use udax_sim::AccessError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Hole,
    Unwritten,
    Mapped,
}

const BLOCKS: [Block; 3] = [Block::Hole, Block::Unwritten, Block::Mapped];

/// A file whose page 5 is so backed; durable as it is.
fn rig(block: Block) -> Rig {
    let rig = Rig::new(1024 * PAGE_BYTES);
    match block {
        Block::Hole => {}
        Block::Unwritten => rig.file.allocate(pages(5, 1)).expect("space"),
        Block::Mapped => rig.file.poke(5 * PAGE_BYTES, &[7]),
    }
    rig.mapping.sync(pages(0, 1024)).expect("nothing to flush");
    rig.clear();
    rig
}

#[track_caller]
fn expect(
    rig: &Rig,
    maps: &[&crate::journalled::Map],
    events: &[&str],
    entries: &[&str],
    tables: &[&[&str]],
) {
    assert_eq!(rig.events(), events);
    assert_eq!(rig.entries(), entries);
    for (map, table) in maps.iter().zip(tables) {
        assert_eq!(map.table(), *table);
    }
    rig.check(maps);
}

#[test]
fn scenario_01_matrix_5_4_read_of_a_hole() {
    for block in [Block::Hole, Block::Unwritten] {
        for shape in [Shape::shared(0, 64), Shape::private(0, 64), Shape::shared(0, 64).sync()] {
            let rig = rig(block);
            let map = rig.map(shape.small());
            assert_eq!(rig.read(&map, 5), Ok(0));
            let events = ["pte_fault", "load_hole NOPAGE", "pte_fault_done NOPAGE"];
            expect(&rig, &[&map], &events, &["5 zero-pte"], &[&["5 zero"]]);
        }
    }
}

#[test]
fn scenario_01_matrix_5_4_read_of_mapped_storage() {
    for shape in [Shape::shared(0, 64), Shape::private(0, 64), Shape::shared(0, 64).sync()] {
        let rig = rig(Block::Mapped);
        let map = rig.map(shape.small());
        assert_eq!(rig.read(&map, 5), Ok(7));
        let events = ["pte_fault", "insert_mapping read", "pte_fault_done NOPAGE"];
        expect(&rig, &[&map], &events, &["5 data-pte"], &[&["5 storage"]]);
    }
}

#[test]
fn scenario_01_matrix_5_4_shared_store() {
    for block in BLOCKS {
        let rig = rig(block);
        let map = rig.map(Shape::shared(0, 64).small());
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        let done = if block == Block::Mapped { "NOPAGE" } else { "MAJOR|NOPAGE" };
        let events =
            ["pte_fault WRITE", "insert_mapping write", &format!("pte_fault_done WRITE {done}")];
        assert_eq!(rig.outcomes()[0].major, block != Block::Mapped);
        expect(&rig, &[&map], &events, &["5 data-pte D"], &[&["5 storage W D"]]);
    }
}

#[test]
fn scenario_01_matrix_5_4_shared_store_over_a_zero_entry_drops_it_everywhere_first() {
    for block in [Block::Hole, Block::Unwritten] {
        let rig = rig(block);
        let shape = Shape::shared(0, 64).small();
        let (here, there, third) =
            (rig.map(shape), rig.map(shape), rig.map(Shape::private(0, 64).small()));
        for map in [&here, &there, &third] {
            assert_eq!(rig.read(map, 5), Ok(0));
        }
        rig.clear();
        assert_eq!(rig.write(&here, 5, 1), Ok(()));
        let journal = rig.points.journal();
        let places = |start: &str| -> Vec<usize> {
            let hit = |(place, what): (usize, &String)| what.starts_with(start).then_some(place);
            journal.iter().enumerate().filter_map(hit).collect()
        };
        assert_eq!(places("unmap 5+1 Keep").len(), 3, "in all three mappings");
        assert!(
            places("unmap").iter().max() < places("insert_mapping").first(),
            "before the entry changes"
        );
        assert!(places("unmap").iter().min() > places("iomap_begin").first());
        let events = [
            "pte_fault WRITE|MKWRITE",
            "insert_mapping write",
            "pte_fault_done WRITE|MKWRITE MAJOR|NOPAGE",
        ];
        let tables: [&[&str]; 3] = [&["5 storage W D"], &[], &[]];
        expect(&rig, &[&here, &there, &third], &events, &["5 data-pte D"], &tables);
        assert_eq!((rig.read(&there, 5), rig.read(&third, 5)), (Ok(1), Ok(1)));
    }
}

#[test]
fn scenario_01_matrix_5_4_private_store() {
    for block in BLOCKS {
        for (before, after) in
            [("", "5 empty-pte"), ("zero", "5 zero-pte"), ("data", "5 data-pte D")]
        {
            let possible = match before {
                "zero" => block != Block::Mapped,
                _ => true,
            };
            if !possible {
                continue;
            }
            let rig = rig(block);
            let shared = rig.map(Shape::shared(0, 64).small());
            match before {
                "zero" => assert_eq!(rig.read(&shared, 5), Ok(0)),
                "data" => assert_eq!(rig.write(&shared, 5, 7), Ok(())),
                _ => {}
            }
            let map = rig.map(Shape::private(0, 64).small());
            rig.clear();
            assert_eq!(rig.write(&map, 5, 1), Ok(()));
            assert_eq!(rig.served(), Served::Copied);
            let events = ["pte_fault WRITE", "pte_fault_done WRITE DONE_COW"];
            expect(&rig, &[&map], &events, &[after], &[&["5 copy W D"]]);
        }
    }
}

#[test]
fn scenario_01_matrix_5_4_any_access_beyond_the_end() {
    let shapes = [Shape::shared(0, 64), Shape::private(0, 64), Shape::shared(0, 64).sync()];
    for shape in shapes {
        for write in [false, true] {
            let rig = Rig::new(5 * PAGE_BYTES);
            let map = rig.map(shape.small());
            let access = if write { rig.write(&map, 5, 1) } else { rig.read(&map, 5).map(|_| ()) };
            assert_eq!(access, Err(AccessError::BusError));
            let flags = if write { " WRITE" } else { "" };
            let events = [format!("pte_fault{flags}"), format!("pte_fault_done{flags} SIGBUS")];
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            expect(&rig, &[&map], &events, &[], &[&[]]);
        }
    }
}

#[test]
fn scenario_01_matrix_5_4_map_sync_store_with_metadata_that_is_not_durable() {
    for block in [Block::Hole, Block::Unwritten] {
        let rig = rig(block);
        let map = rig.map(Shape::shared(0, 64).small().sync());
        assert_eq!(rig.write(&map, 5, 1), Ok(()));
        let events = [
            "pte_fault WRITE",
            "pte_fault_done WRITE MAJOR|NEEDDSYNC",
            "insert_pfn_mkwrite WRITE NOPAGE",
        ];
        assert!(rig.outcomes()[0].major);
        expect(&rig, &[&map], &events, &["5 data-pte D"], &[&["5 storage W D"]]);
    }
}

#[test]
fn scenario_01_matrix_5_4_map_sync_store_with_durable_metadata() {
    let rig = rig(Block::Mapped);
    let map = rig.map(Shape::shared(0, 64).small().sync());
    assert_eq!(rig.write(&map, 5, 1), Ok(()));
    let events = ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE NOPAGE"];
    expect(&rig, &[&map], &events, &["5 data-pte D"], &[&["5 storage W D"]]);
}

#[test]
fn a_last_page_that_the_end_cuts_is_accessible_in_full_and_its_rest_reads_as_zeros_later() {
    let rig = Rig::new(PAGE_BYTES + 100);
    let map = rig.map(Shape::shared(0, 64));
    let base = map.sim.address(PageIndex(1));
    map.cpu.store(base + 50, &[1]).expect("inside");
    map.cpu.store(base + 4000, &[2]).expect("past the end, in the last page");
    rig.mapping.truncate(8 * PAGE_BYTES).expect("a longer file");
    let mut bytes = [9; 2];
    map.cpu.load(base + 50, &mut bytes[..1]).expect("data");
    map.cpu.load(base + 4000, &mut bytes[1..]).expect("zeros");
    assert_eq!(bytes, [1, 0]);
    rig.check(&[&map]);
}

#[test]
fn scenario_08_a_store_after_a_load_of_storage_upgrades_the_translation_in_place() {
    for shape in [Shape::shared(0, 1024).small(), Shape::shared(0, 1024)] {
        let rig = Rig::new(1024 * PAGE_BYTES);
        rig.file.write_zeros(pages(0, 512)).expect("space");
        let map = rig.map(shape);
        rig.read(&map, 5).expect("storage");
        let before = map.sim.translation(PageIndex(5)).expect("mapped");
        assert!(!before.writable && !before.dirty);
        rig.write(&map, 5, 1).expect("storage");
        let after = map.sim.translation(PageIndex(5)).expect("mapped");
        assert_eq!((after.target, after.order), (before.target, before.order), "the same frame");
        assert!(after.writable && after.dirty);
        assert!(!rig.points.journal().iter().any(|call| call.starts_with("unmap")));
        rig.check(&[&map]);
    }
}

#[test]
fn scenario_08_a_private_vma_never_gets_to_store_to_storage() {
    let rig = rig(Block::Mapped);
    let map = rig.map(Shape::private(0, 64).small());
    rig.read(&map, 5).expect("storage");
    rig.write(&map, 5, 9).expect("a copy");
    let calls = rig.points.journal();
    assert!(!calls.iter().any(|call| call.contains("WritableDirty")), "{calls:?}");
    assert_eq!(rig.file.contents()[5 * 4096], 7);
    rig.check(&[&map]);
}
