//! What Linux did with small workloads, played on the simulator: events, page tables, entries, as recorded from ext4 and XFS.
//! Of the kernels' differences those are followed that the engine follows: the insert events of 5.10, MAJOR as in 6.12.

use crate::journalled::{Map, Rig, Shape, pages};
use udax_core::PAGE_BYTES;
use udax_sim::{Congruence, Machine, SimFs, SimMedia};

fn mis(count: u64) -> Shape {
    Shape { congruence: Congruence::OffBy(1), ..Shape::shared(0, count) }
}

/// Events in brief: what `touched` did, one access.
fn read(rig: &Rig, map: &Map, index: u64, value: u8) -> Vec<String> {
    rig.clear();
    assert_eq!(rig.read(map, index), Ok(value), "page {index}");
    rig.events()
}

fn write(rig: &Rig, map: &Map, index: u64, value: u8) -> Vec<String> {
    rig.clear();
    assert_eq!(rig.write(map, index, value), Ok(()), "page {index}");
    rig.events()
}

const NONE: [&str; 0] = [];
const SMALL_HOLE: [&str; 3] = ["pte_fault", "load_hole NOPAGE", "pte_fault_done NOPAGE"];
const SMALL_DATA: [&str; 3] = ["pte_fault", "insert_mapping read", "pte_fault_done NOPAGE"];
const FALLBACK: [&str; 2] = ["pmd_fault", "pmd_fault_done FALLBACK"];

fn then(first: &[&str], second: &[&str]) -> Vec<String> {
    first.iter().chain(second).map(|event| (*event).to_owned()).collect()
}

#[test]
fn recording_03_read_then_write_of_small_pages() {
    let rig = Rig::new(16 << 20);
    let map = rig.map(mis(4096));
    assert_eq!(read(&rig, &map, 5, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!((map.table(), rig.entries()), (vec!["5 zero".into()], vec!["5 zero-pte".into()]));
    assert_eq!(
        write(&rig, &map, 5, 0xaa),
        [
            "pte_fault WRITE|MKWRITE",
            "insert_mapping write",
            "pte_fault_done WRITE|MKWRITE MAJOR|NOPAGE"
        ]
    );
    assert_eq!(
        (map.table(), rig.entries()),
        (vec!["5 storage W D".into()], vec!["5 data-pte D".into()])
    );
    assert_eq!(read(&rig, &map, 5, 0xaa), NONE);
    assert_eq!(write(&rig, &map, 5, 0xab), NONE);
    let extents = rig.file.extents();
    assert_eq!((extents.len(), extents[0].range), (1, pages(5, 1)));
}

#[test]
fn recording_03_read_then_write_of_a_huge_page() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), 16 << 20);
    let map = rig.map(Shape::shared(0, 4096));
    assert_eq!(read(&rig, &map, 512, 0), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(
        (map.table(), rig.entries()),
        (vec!["512 zero-pmd".into()], vec!["512 zero-pmd".into()])
    );
    assert_eq!(
        write(&rig, &map, 515, 0xaa),
        ["pmd_fault WRITE", "pmd_insert_mapping write", "pmd_fault_done WRITE NOPAGE"]
    );
    assert_eq!(
        (map.table(), rig.entries()),
        (vec!["512 storage-pmd W D".into()], vec!["512 data-pmd D".into()])
    );
    assert_eq!(write(&rig, &map, 516, 0xbb), NONE);
    assert_eq!(read(&rig, &map, 600, 0), NONE);
    assert_eq!(rig.file.extents()[0].range, pages(512, 512));
}

#[test]
fn recording_03_two_mappings_of_one_hole_page() {
    let rig = Rig::new(16 << 20);
    let (a, b) = (rig.map(mis(4096)), rig.map(mis(4096)));
    assert_eq!(read(&rig, &a, 7, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(read(&rig, &b, 7, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(write(&rig, &a, 7, 0xcc).len(), 3);
    assert_eq!((a.table(), b.table()), (vec!["7 storage W D".to_owned()], vec![]));
    assert_eq!(read(&rig, &b, 7, 0xcc), SMALL_DATA, "no attempt at 2 MiB: the table is there");
    assert_eq!((b.table(), rig.entries()), (vec!["7 storage".into()], vec!["7 data-pte D".into()]));
}

#[test]
fn recording_06_fallback_and_downgrade() {
    let rig = Rig::new(8 << 20);
    let p = rig.map(mis(2048));
    read(&rig, &p, 3, 0);
    assert_eq!(rig.entries(), ["3 zero-pte"]);
    let m = rig.map(Shape::shared(0, 2048));
    assert_eq!(read(&rig, &m, 4, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(rig.entries(), ["3 zero-pte", "4 zero-pte"]);
    assert_eq!(read(&rig, &m, 3, 0), SMALL_HOLE);
    assert_eq!(m.table(), ["3 zero", "4 zero"]);
    read(&rig, &m, 512, 0);
    assert_eq!(rig.entries()[2..], ["512 zero-pmd"]);
    assert_eq!(read(&rig, &p, 519, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(rig.entries()[2..], ["519 zero-pte"]);
    assert_eq!(
        write(&rig, &p, 520, 0xaa),
        ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE MAJOR|NOPAGE"]
    );
    assert_eq!(m.table(), ["3 zero", "4 zero"], "the huge zero page is gone");
    assert_eq!(p.table(), ["3 zero", "519 zero", "520 storage W D"]);
    assert_eq!(rig.entries()[2..], ["519 zero-pte", "520 data-pte D"]);
    assert_eq!(read(&rig, &m, 513, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(read(&rig, &m, 520, 0xaa), SMALL_DATA);
    assert_eq!(m.table(), ["3 zero", "4 zero", "513 zero", "520 storage"]);
    rig.check(&[&m, &p]);
}

#[test]
fn recording_06_small_and_huge_data_beside_each_other() {
    let rig = Rig::new(8 << 20);
    let (p, m) = (rig.map(mis(2048)), rig.map(Shape::shared(0, 2048)));
    write(&rig, &m, 1024, 0xbb);
    assert_eq!(rig.entries(), ["1024 data-pmd D"]);
    assert_eq!(read(&rig, &p, 1025, 0), then(&FALLBACK, &SMALL_DATA));
    assert_eq!(
        write(&rig, &p, 1026, 0xcc),
        ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE NOPAGE"]
    );
    assert_eq!(
        (p.table(), m.table()),
        (
            vec!["1025 storage".to_owned(), "1026 storage W D".to_owned()],
            vec!["1024 storage-pmd W D".to_owned()]
        )
    );
    assert_eq!(rig.entries(), ["1024 data-pmd D"]);
    write(&rig, &p, 1536, 0xdd);
    assert_eq!(
        write(&rig, &m, 1537, 0xee),
        [
            "pmd_fault WRITE",
            "pmd_fault_done WRITE FALLBACK",
            "pte_fault WRITE",
            "insert_mapping write",
            "pte_fault_done WRITE MAJOR|NOPAGE"
        ]
    );
    assert_eq!(rig.entries(), ["1024 data-pmd D", "1536 data-pte D", "1537 data-pte D"]);
    rig.check(&[&m, &p]);
}

#[test]
fn recording_06_a_write_into_a_huge_hole() {
    let rig = Rig::new(4 << 20);
    let g = rig.map(Shape::shared(0, 1024));
    read(&rig, &g, 0, 0);
    assert_eq!(rig.entries(), ["0 zero-pmd"]);
    rig.clear();
    assert_eq!(rig.mapping.write(8 << 10, &[0x77; 4096]), Ok(4096));
    assert!(rig.events().is_empty() && rig.entries().is_empty() && g.table().is_empty());
    assert_eq!(read(&rig, &g, 2, 0x77), then(&FALLBACK, &SMALL_DATA));
    assert_eq!(read(&rig, &g, 3, 0), SMALL_HOLE);
    assert_eq!(g.table(), ["2 storage", "3 zero"]);
    assert_eq!(rig.entries(), ["2 data-pte", "3 zero-pte"]);
}

#[test]
fn recording_07_a_punch_inside_a_huge_data_page() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), 8 << 20);
    rig.mapping.write(0, &vec![0x11; 8 << 20]).expect("space");
    let (m, p) = (rig.map(Shape::shared(0, 2048)), rig.map(mis(2048)));
    read(&rig, &m, 0, 0x11);
    read(&rig, &p, 0, 0x11);
    write(&rig, &m, 1, 0xaa);
    write(&rig, &p, 600, 0xbb);
    assert_eq!(rig.entries(), ["0 data-pmd D", "600 data-pte D"]);
    rig.clear();
    rig.mapping.punch_hole(8 << 10, 4 << 10).expect("a hole");
    assert_eq!(
        rig.events(),
        ["writeback_range 2-2", "writeback_one 0 512", "writeback_range_done 2-2"]
    );
    assert!(m.table().is_empty(), "the whole entry and its mappings go");
    assert_eq!(p.table(), ["600 storage W D"], "in the misaligned mapping too");
    assert_eq!(rig.entries(), ["600 data-pte D"]);
    assert_eq!(read(&rig, &m, 2, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(read(&rig, &m, 1, 0xaa), SMALL_DATA);
    rig.clear();
    rig.mapping.punch_hole(12388, 100).expect("zeros");
    assert_eq!(rig.events(), ["writeback_range 3-3", "writeback_range_done 3-3"]);
    rig.check(&[&m, &p]);
}

#[test]
fn recording_08_msync_of_small_pages() {
    let rig = Rig::new(8 << 20);
    rig.mapping.write(0, &vec![0; 8 << 20]).expect("space");
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let m = rig.map(mis(2048));
    let touch = |events: &[&str]| {
        for index in 10..26 {
            let done = write(&rig, &m, index, 1);
            let skip = usize::from(done[0].starts_with("pmd")) * 2;
            assert_eq!(done[skip..], *events, "page {index}");
        }
    };
    touch(&["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE NOPAGE"]);
    rig.clear();
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let events = rig.events();
    assert_eq!(
        (events.len(), events[0].as_str(), events[1].as_str()),
        (18, "writeback_range 0-2047", "writeback_one 10 1")
    );
    assert!(m.table().iter().all(|found| !found.contains('W') && !found.contains('D')));
    touch(&[
        "pte_fault WRITE|MKWRITE",
        "insert_mapping write",
        "pte_fault_done WRITE|MKWRITE NOPAGE",
    ]);
    rig.clear();
    rig.mapping.sync(pages(10, 4)).expect("all is well");
    assert_eq!(rig.events().len(), 6);
    assert_eq!(rig.entries()[3..5], ["13 data-pte", "14 data-pte D"]);
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    rig.clear();
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    assert_eq!(rig.events(), NONE, "nothing dirty, no events");
}

#[test]
fn recording_08_msync_of_huge_pages_and_of_two_mappings() {
    let fs = SimFs::new(SimMedia::aligned(16 * 512));
    let machine = Machine::new(fs.media().clone(), 4);
    let rig = Rig::of_file(fs.create(8 << 20), machine);
    rig.mapping.write(0, &vec![0; 8 << 20]).expect("space");
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let n = rig.map(Shape::shared(0, 2048));
    write(&rig, &n, 0, 0xaa);
    write(&rig, &n, 1000, 0xbb);
    assert_eq!(n.table(), ["0 storage-pmd W D", "512 storage-pmd W D"]);
    rig.clear();
    rig.mapping.sync(pages(0, 1)).expect("all is well");
    assert_eq!(
        rig.events(),
        ["writeback_range 0-0", "writeback_one 0 512", "writeback_range_done 0-0"]
    );
    assert_eq!(rig.entries(), ["0 data-pmd", "512 data-pmd D"]);
    assert_eq!(n.table(), ["0 storage-pmd", "512 storage-pmd W D"]);
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let huge_store = ["pmd_fault WRITE", "pmd_insert_mapping write", "pmd_fault_done WRITE NOPAGE"];
    assert_eq!(write(&rig, &n, 1, 0xcc), huge_store);
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let o = rig.map(mis(2048));
    write(&rig, &n, 600, 0x11);
    write(&rig, &o, 600, 0x22);
    assert_eq!(o.table(), ["600 storage W D"]);
    rig.clear();
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    assert_eq!(
        rig.events(),
        ["writeback_range 0-2047", "writeback_one 512 512", "writeback_range_done 0-2047"]
    );
    assert_eq!(
        (n.table(), o.table()),
        (vec!["0 storage-pmd".into(), "512 storage-pmd".into()], vec!["600 storage".into()])
    );
    assert_eq!(write(&rig, &n, 600, 0x33), huge_store);
    assert_eq!(
        write(&rig, &o, 600, 0x44),
        ["pte_fault WRITE|MKWRITE", "insert_mapping write", "pte_fault_done WRITE|MKWRITE NOPAGE"]
    );
    rig.clear();
    assert_eq!(rig.mapping.write(0, &[0x55; 100]), Ok(100));
    assert_eq!(rig.events(), NONE, "a write marks and traces nothing");
    rig.check(&[&n, &o]);
}

#[test]
fn recording_09_private_mappings() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), 8 << 20);
    rig.mapping.write(0, &vec![0x11; 4 << 20]).expect("space");
    let p = rig.map(Shape::private(0, 2048));
    assert_eq!(
        read(&rig, &p, 0, 0x11),
        ["pmd_fault", "pmd_insert_mapping read", "pmd_fault_done NOPAGE"]
    );
    let copied = [
        "pmd_fault WRITE",
        "pmd_fault_done WRITE FALLBACK",
        "pte_fault WRITE",
        "pte_fault_done WRITE DONE_COW",
    ];
    assert_eq!(write(&rig, &p, 0, 0xaa), copied);
    assert_eq!((p.table(), rig.entries()), (vec!["0 copy W D".into()], vec!["0 data-pmd".into()]));
    assert_eq!(write(&rig, &p, 700, 0xbb), copied);
    assert_eq!(read(&rig, &p, 1100, 0), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(write(&rig, &p, 1100, 0xcc), copied);
    assert_eq!(write(&rig, &p, 1600, 0xdd), copied);
    assert_eq!(rig.entries(), ["0 data-pmd", "700 empty-pte", "1100 empty-pte", "1600 empty-pte"]);
    let s = rig.map(Shape::shared(0, 2048));
    write(&rig, &s, 1, 0x77);
    assert_eq!(read(&rig, &p, 1, 0x77), SMALL_DATA, "a page not yet copied shows the file");
    write(&rig, &s, 0, 0x78);
    assert_eq!(read(&rig, &p, 0, 0xaa), NONE);
    rig.mapping.truncate(PAGE_BYTES).expect("shorter");
    assert_eq!(
        p.table(),
        ["0 copy W D"],
        "private copies beyond the end vanish, those before it stay"
    );
    rig.clear();
    assert!(rig.read(&p, 700).is_err());
    assert_eq!(rig.events(), ["pte_fault", "pte_fault_done SIGBUS"]);
    rig.check(&[&p, &s]);
}

const HUGE_STORE: [&str; 3] =
    ["pmd_fault WRITE", "pmd_insert_mapping write", "pmd_fault_done WRITE NOPAGE"];

#[test]
fn recording_02_an_end_of_file_inside_a_unit() {
    let rig = Rig::new((2 << 20) + PAGE_BYTES);
    let q = rig.map(Shape::shared(0, 1024));
    assert_eq!(read(&rig, &q, 0, 0), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(read(&rig, &q, 512, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(q.table(), ["0 zero-pmd", "512 zero"]);
    rig.clear();
    assert!(rig.read(&q, 513).is_err());
    assert_eq!(rig.events(), ["pte_fault", "pte_fault_done SIGBUS"]);
}

#[test]
fn recording_05_unwritten_and_written_extents() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), 8 << 20);
    rig.file.allocate(pages(0, 2048)).expect("space");
    let m = rig.map(Shape::shared(0, 2048));
    assert_eq!(write(&rig, &m, 0, 0xaa), HUGE_STORE);
    assert_eq!(read(&rig, &m, 512, 0), ["pmd_fault", "pmd_load_hole", "pmd_fault_done NOPAGE"]);
    assert_eq!(rig.entries(), ["0 data-pmd D", "512 zero-pmd"]);
    assert_eq!(write(&rig, &m, 513, 0xbb), HUGE_STORE);
    assert_eq!(rig.mapping.write(4 << 20, &vec![0x11; 2 << 20]), Ok(2 << 20));
    assert_eq!(read(&rig, &m, 1024, 0x11)[1], "pmd_insert_mapping read");
    assert_eq!(rig.entries()[2], "1024 data-pmd");
    assert_eq!(write(&rig, &m, 1025, 0x22), HUGE_STORE);
    assert_eq!(rig.mapping.write(6 << 20, &vec![0x33; 2 << 20]), Ok(2 << 20));
    assert_eq!(write(&rig, &m, 1536, 0x44), HUGE_STORE);
    assert_eq!(m.table().len(), 4);
    assert!(m.table().iter().all(|found| found.ends_with("storage-pmd W D")));
    rig.check(&[&m]);
}

#[test]
fn recording_05_storage_that_does_not_agree_with_the_file_modulo_2_mib() {
    let rig = Rig::on(SimMedia::aligned(16 * 512), (4 << 20) + PAGE_BYTES);
    rig.mapping.write(0, &vec![9; (4 << 20) + 4096]).expect("space");
    rig.mapping
        .change_layout(pages(0, 1025), |file| {
            file.file.collapse(pages(0, 1));
            Ok(())
        })
        .expect("collapsed");
    let w = rig.map(Shape::shared(0, 1024));
    assert_eq!(read(&rig, &w, 0, 9), then(&FALLBACK, &SMALL_DATA));
    let small = ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE NOPAGE"];
    assert_eq!(write(&rig, &w, 1, 0x0a), small);
    assert_eq!(
        write(&rig, &w, 512, 0x0a)[..2],
        ["pmd_fault WRITE", "pmd_fault_done WRITE FALLBACK"]
    );
    assert_eq!(w.table(), ["0 storage", "1 storage W D", "512 storage W D"]);
    rig.check(&[&w]);
}

#[test]
fn recording_05_a_unit_of_which_half_was_written() {
    let rig = Rig::new(2 << 20);
    rig.mapping.write(1 << 20, &vec![7; 1 << 20]).expect("space");
    let e = rig.map(Shape::shared(0, 512));
    assert_eq!(read(&rig, &e, 0, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(read(&rig, &e, 256, 7), SMALL_DATA);
    assert_eq!(
        write(&rig, &e, 0, 8),
        [
            "pte_fault WRITE|MKWRITE",
            "insert_mapping write",
            "pte_fault_done WRITE|MKWRITE MAJOR|NOPAGE"
        ]
    );
    assert_eq!(e.table(), ["0 storage W D", "256 storage"]);
    assert_eq!(rig.fs.allocated_pages(), 257);
}

#[test]
fn recording_10_reads_and_writes_beside_a_mapping() {
    let rig = Rig::new(8 << 20);
    let m = rig.map(mis(2048));
    assert_eq!(read(&rig, &m, 4, 0), then(&FALLBACK, &SMALL_HOLE));
    assert_eq!(rig.mapping.write(16 << 10, &[0x11; 4096]), Ok(4096));
    assert!(m.table().is_empty() && rig.entries().is_empty());
    assert_eq!(read(&rig, &m, 4, 0x11), SMALL_DATA);
    assert_eq!(rig.mapping.write(16 << 10, &[0x22; 4096]), Ok(4096));
    assert_eq!(m.table(), ["4 storage"], "over data nothing is invalidated");
    assert_eq!(read(&rig, &m, 4, 0x22), NONE);
    assert_eq!(write(&rig, &m, 4, 0x33)[0], "pte_fault WRITE|MKWRITE");
    assert_eq!(read(&rig, &m, 9, 0), SMALL_HOLE);
    assert_eq!(rig.mapping.write(36_964, &[0x44; 100]), Ok(100));
    assert_eq!(read(&rig, &m, 9, 0), SMALL_DATA);
    assert_eq!(rig.entries(), ["4 data-pte D", "9 data-pte"]);
    let mut bytes = vec![1; 64 << 10];
    assert_eq!(rig.mapping.read(4 << 20, &mut bytes), Ok(64 << 10));
    assert_eq!(rig.entries().len(), 2, "reading a hole makes no entry");
    rig.check(&[&m]);
    let rig = Rig::new(0);
    let g = rig.map(mis(256));
    assert!(rig.read(&g, 0).is_err());
    rig.mapping.write(0, &[0x55; 100]).expect("space");
    assert_eq!(rig.read(&g, 0), Ok(0x55));
    assert!(rig.read(&g, 1).is_err());
    rig.mapping.write(100, &[0x66; 8 << 10]).expect("space");
    assert_eq!(rig.read(&g, 1), Ok(0x66));
    rig.check(&[&g]);
}

#[test]
fn recording_11_map_sync() {
    let rig = Rig::new(8 << 20);
    let m = rig.map(mis(2048).sync());
    let synchronous = |flags: &str| {
        vec![
            format!("pte_fault {flags}"),
            format!("pte_fault_done {flags} MAJOR|NEEDDSYNC"),
            format!("insert_pfn_mkwrite {flags} NOPAGE"),
        ]
    };
    assert_eq!(write(&rig, &m, 3, 0xaa)[2..], synchronous("WRITE"));
    assert_eq!(
        (m.table(), rig.entries()),
        (vec!["3 storage W D".into()], vec!["3 data-pte D".into()])
    );
    assert_eq!(write(&rig, &m, 3, 0xab), NONE);
    rig.mapping.write(64 << 10, &vec![0x11; 64 << 10]).expect("space");
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    let ordinary = ["pte_fault WRITE", "insert_mapping write", "pte_fault_done WRITE NOPAGE"];
    assert_eq!(write(&rig, &m, 16, 0xbb), ordinary);
    assert_eq!(write(&rig, &m, 17, 0xbb), ordinary);
    rig.clear();
    rig.mapping.sync(pages(0, 2048)).expect("all is well");
    assert_eq!(rig.events()[1..3], ["writeback_one 16 1", "writeback_one 17 1"]);
    assert_eq!(write(&rig, &m, 17, 0xcc)[0], "pte_fault WRITE|MKWRITE");
    assert_eq!(read(&rig, &m, 40, 0), SMALL_HOLE);
    let mut expected = synchronous("WRITE|MKWRITE");
    // Page 17 is dirty, so the sync inside the fault shows, though it has nothing to flush.
    expected.insert(2, "writeback_range 40-40".to_owned());
    expected.insert(3, "writeback_range_done 40-40".to_owned());
    assert_eq!(write(&rig, &m, 40, 0xdd), expected);
    rig.check(&[&m]);
}
