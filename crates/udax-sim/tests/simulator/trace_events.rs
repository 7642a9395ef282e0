//! Trace events, SEMANTICS 9: names, fields, order, rendering.

use crate::journalled::{INODE, Rig, Shape, brief, page, pages};
use udax_core::{
    Entry, FaultFlags, FaultPlace, FaultResult, Frame, Inode, Kind, Order, PAGE_BYTES, PMD_BYTES,
    TraceEvent,
};

fn place() -> FaultPlace {
    FaultPlace {
        inode: INODE,
        vm_start: 0x7f00_0000_0000,
        vm_end: 0x7f00_0040_0000,
        shared: true,
        address: 0x7f00_0000_5000,
        pgoff: page(5),
        max_pgoff: page(0x400),
        flags: FaultFlags::WRITE | FaultFlags::MKWRITE,
    }
}

#[test]
fn trace_9_the_names_are_those_of_linux() {
    let (place, entry) = (place(), Entry::new(Order::Pte, Kind::Zero));
    let result = FaultResult::NOPAGE;
    let (inode, start, end) = (INODE, page(0), page(1));
    let all = [
        (TraceEvent::PmdFault(place), "dax_pmd_fault"),
        (TraceEvent::PmdFaultDone(place, result), "dax_pmd_fault_done"),
        (TraceEvent::PmdLoadHole { place, entry }, "dax_pmd_load_hole"),
        (TraceEvent::PmdLoadHoleFallback { place, entry: None }, "dax_pmd_load_hole_fallback"),
        (
            TraceEvent::PmdInsertMapping { place, length: 1, frame: 2, entry, write: true },
            "dax_pmd_insert_mapping",
        ),
        (TraceEvent::PteFault(place), "dax_pte_fault"),
        (TraceEvent::PteFaultDone(place, result), "dax_pte_fault_done"),
        (TraceEvent::LoadHole(place, result), "dax_load_hole"),
        (TraceEvent::InsertMapping { place, entry, write: false }, "dax_insert_mapping"),
        (TraceEvent::InsertPfnMkwrite(place, result), "dax_insert_pfn_mkwrite"),
        (TraceEvent::InsertPfnMkwriteNoEntry(place, result), "dax_insert_pfn_mkwrite_no_entry"),
        (TraceEvent::WritebackRange { inode, start, end }, "dax_writeback_range"),
        (TraceEvent::WritebackRangeDone { inode, start, end }, "dax_writeback_range_done"),
        (TraceEvent::WritebackOne { inode, pgoff: start, pglen: 1 }, "dax_writeback_one"),
    ];
    for (event, name) in all {
        assert_eq!(event.name(), name);
        assert!(event.to_string().starts_with(&format!("{name}: dev 259:3 ino 0xc ")), "{event}");
    }
}

#[test]
fn trace_9_the_flags_have_the_values_of_linux() {
    let values = [
        (FaultResult::OOM, 0x1),
        (FaultResult::SIGBUS, 0x2),
        (FaultResult::MAJOR, 0x4),
        (FaultResult::HWPOISON, 0x10),
        (FaultResult::NOPAGE, 0x100),
        (FaultResult::FALLBACK, 0x800),
        (FaultResult::DONE_COW, 0x1000),
        (FaultResult::NEEDDSYNC, 0x2000),
    ];
    for (flag, value) in values {
        assert_eq!(flag.bits(), value, "{flag:?}");
    }
    assert_eq!((FaultFlags::WRITE.bits(), FaultFlags::MKWRITE.bits()), (1, 2));
}

#[test]
fn trace_9_rendering_is_in_hexadecimal_with_flags_joined_by_bars() {
    let place = place();
    let done = FaultResult::NOPAGE | FaultResult::MAJOR;
    assert_eq!(
        TraceEvent::PmdFaultDone(place, done).to_string(),
        "dax_pmd_fault_done: dev 259:3 ino 0xc shared WRITE|MKWRITE address 0x7f0000005000 vm_start 0x7f0000000000 \
         vm_end 0x7f0000400000 pgoff 0x5 max_pgoff 0x400 MAJOR|NOPAGE"
    );
    let private = FaultPlace { shared: false, flags: FaultFlags::empty(), ..place };
    assert_eq!(
        TraceEvent::PteFault(private).to_string(),
        "dax_pte_fault: dev 259:3 ino 0xc private 0 address 0x7f0000005000 pgoff 0x5 0",
        "no flag is a word too"
    );
    let entry = Entry::new(Order::Pmd, Kind::Mapped(Frame(0x200)));
    let word = entry.word();
    let insert =
        TraceEvent::PmdInsertMapping { place, length: PMD_BYTES, frame: 0x200, entry, write: true };
    assert_eq!(
        insert.to_string(),
        format!(
            "dax_pmd_insert_mapping: dev 259:3 ino 0xc shared write address 0x7f0000005000 length 0x200000 \
             pfn 0x200 radix_entry {word:#x}"
        )
    );
    let insert = TraceEvent::InsertMapping { place, entry, write: false };
    assert_eq!(
        insert.to_string(),
        format!(
            "dax_insert_mapping: dev 259:3 ino 0xc shared read address 0x7f0000005000 radix_entry {word:#x}"
        )
    );
    let (inode, start, end) = (INODE, page(0x10), page(0x1f));
    assert_eq!(
        TraceEvent::WritebackRange { inode, start, end }.to_string(),
        "dax_writeback_range: dev 259:3 ino 0xc pgoff 0x10-0x1f"
    );
    assert_eq!(
        TraceEvent::WritebackOne { inode, pgoff: start, pglen: 512 }.to_string(),
        "dax_writeback_one: dev 259:3 ino 0xc pgoff 0x10 pglen 0x200"
    );
    // Major and minor number as the C library packs them.
    let wide = Inode { dev: 0x7_0000_0a12_3bcd, ino: 0 };
    assert_eq!(wide.to_string(), format!("dev {}:{} ino 0x0", 0x7_023b, 0xa1cd));
}

#[test]
fn trace_9_scripts_find_the_result_in_the_same_word_whatever_the_flags() {
    for flags in [FaultFlags::empty(), FaultFlags::WRITE, FaultFlags::WRITE | FaultFlags::MKWRITE] {
        for result in
            [FaultResult::empty(), FaultResult::NOPAGE, FaultResult::MAJOR | FaultResult::NOPAGE]
        {
            let event = TraceEvent::PmdFaultDone(FaultPlace { flags, ..place() }, result);
            assert_eq!(event.to_string().split_whitespace().count(), 18, "{event}");
        }
    }
}

#[test]
fn trace_9_the_fields_of_a_fault() {
    let rig = Rig::new(PMD_BYTES + 1);
    let map = rig.map(Shape::shared(0, 1024));
    rig.read(&map, 5).expect("a hole");
    rig.read(&map, 512).expect("a hole");
    let start = map.sim.address(page(0));
    let seen: Vec<_> = rig.full_events();
    for (event, index) in seen.iter().zip([5, 5, 5, 512, 512, 512, 512, 512]) {
        let place = match event {
            TraceEvent::PmdFault(place)
            | TraceEvent::PteFault(place)
            | TraceEvent::PmdFaultDone(place, _)
            | TraceEvent::LoadHole(place, _)
            | TraceEvent::PteFaultDone(place, _)
            | TraceEvent::PmdLoadHole { place, .. } => place,
            TraceEvent::PmdLoadHoleFallback { .. }
            | TraceEvent::PmdInsertMapping { .. }
            | TraceEvent::InsertMapping { .. }
            | TraceEvent::InsertPfnMkwrite(..)
            | TraceEvent::InsertPfnMkwriteNoEntry(..)
            | TraceEvent::WritebackRange { .. }
            | TraceEvent::WritebackRangeDone { .. }
            | TraceEvent::WritebackOne { .. } => panic!("{event}"),
        };
        let expected = FaultPlace {
            inode: INODE,
            vm_start: start,
            vm_end: start + 1024 * PAGE_BYTES,
            shared: true,
            address: start + index * PAGE_BYTES,
            // The page of the access, not of its 2 MiB; and the number of pages, not the last one.
            pgoff: page(index),
            max_pgoff: page(513),
            flags: FaultFlags::empty(),
        };
        assert_eq!(*place, expected, "{event}");
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn pitfall_023_trace_9_the_entry_told_is_the_one_that_is_in_the_index_i12() {
    let rig = Rig::new(2 * PMD_BYTES);
    let (map, off) =
        (rig.map(Shape::shared(0, 1024)), rig.map(Shape::shared(0, 1024).misaligned()));
    rig.write(&map, 0, 1).expect("space");
    rig.clear();
    rig.write(&off, 7, 1).expect("storage");
    let mut told = None;
    for event in rig.full_events() {
        if let TraceEvent::InsertMapping { entry, .. } = event {
            told = Some(entry.unlocked());
        }
    }
    assert_eq!(
        told,
        rig.entry(7),
        "pitfall 23: the PMD entry that stayed, not a small one that never was"
    );
    assert_eq!(told.map(Entry::order), Some(Order::Pmd));
}

#[test]
fn trace_9_mkwrite_is_for_small_translations_that_are_there() {
    let rig = Rig::new(2 * PMD_BYTES);
    rig.file.write_zeros(pages(0, 512)).expect("space");
    let map = rig.map(Shape::shared(0, 1024));
    rig.read(&map, 3).expect("storage");
    rig.clear();
    rig.write(&map, 3, 1).expect("storage");
    assert_eq!(rig.events()[0], "pmd_fault WRITE", "never at 2 MiB");
    let off = rig.map(Shape::shared(0, 1024).misaligned());
    rig.read(&off, 600).expect("a hole");
    rig.write(&off, 600, 1).expect("space");
    let events = rig.full_events();
    assert_eq!(
        events.last().map(brief),
        Some("pte_fault_done WRITE|MKWRITE MAJOR|NOPAGE".to_owned())
    );
}
