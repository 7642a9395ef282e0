//! Pitfalls 33 to 43b that no test of reading, writing and sharing (`io_path.rs`, `reflink.rs`) is: what mappings go on showing after
//! the file has changed. docs/pitfalls.md lists all of them.

use crate::rig::threads::{await_sleeper_or_end, watch};
use crate::rig::{Call, Mapped, Rig, page, pages};
use std::sync::Arc;
use std::sync::mpsc::channel;
use udax_core::{Intent, Order, PAGE_BYTES};
use udax_sim::explore_then;

fn map(rig: &Rig, order: Order) -> Arc<Mapped> {
    match order {
        Order::Pte => rig.small(pages(0, 1024)),
        Order::Pmd => rig.shared(pages(0, 1024)),
    }
}

/// generic/428: a sparse file of 4 MiB, its second half mapped and read, which shows the 2 MiB zero page; then written by a call.
#[test]
fn pitfall_033_a_write_is_seen_where_the_2_mib_zero_page_was_mapped() {
    let rig = Rig::new(1024);
    let vma = rig.shared(pages(512, 512));
    assert_eq!((vma.load(512), rig.state(512)), (Ok(0), "hZ".into()));
    assert_eq!(rig.mapping.write(512 * PAGE_BYTES, &[7; 4096]), Ok(4096));
    assert_eq!((vma.load(512), vma.load(513)), (Ok(7), Ok(0)));
    rig.check_invariants();
}

/// Clean entries are dropped while they are mapped. The translations must go with them: a store in another process would find no
/// entry, take nothing out of any mapping, and the zeros would stay.
#[test]
fn pitfall_034_an_entry_that_is_dropped_takes_its_translations_along() {
    for order in [Order::Pte, Order::Pmd] {
        let rig = Rig::new(1024);
        let (vma, other) = (map(&rig, order), map(&rig, order));
        assert_eq!(vma.load(5), Ok(0));
        assert_eq!(rig.mapping.invalidate(pages(0, 1024)), 0);
        assert_eq!((rig.state(5), vma.translation(5)), ("none".into(), None));
        other.store(5, 1).expect("there is space");
        assert_eq!(vma.load(5), Ok(1));
        // And clean storage: what is stored after it was dropped is flushed by the next sync.
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
        assert_eq!(rig.mapping.invalidate(pages(0, 1024)), 0);
        assert_eq!((rig.state(5), vma.translation(5)), ("none".into(), None));
        other.store(5, 2).expect("there is storage");
        assert!(rig.entry(5).is_some_and(|report| report.dirty));
        rig.check_invariants();
    }
}

/// The file system has told a load of a hole; now somebody writes there, as far as he gets; then the load shows what it was told.
fn a_write_behind_the_answer(order: Order) {
    let rig = Rig::new(1024);
    let vma = map(&rig, order);
    let start = page(5).align_down(order).0;
    let (writer, writing) = (Arc::clone(&rig), channel());
    rig.hooks.after(
        |call| matches!(call, Call::Begin(_, Intent::Read)),
        move || {
            let mapping = Arc::clone(&writer.mapping);
            let thread = watch("write", move || {
                assert_eq!(mapping.write(5 * PAGE_BYTES, &[7; 4096]), Ok(4096));
            });
            await_sleeper_or_end(&writer, start, &thread);
            let _ = writing.0.send(thread);
        },
    );
    assert!(matches!(vma.load(5), Ok(0 | 7)));
    writing.1.recv().expect("there was a write").ends();
    assert_eq!(vma.load(5), Ok(7), "the zeros were true when they were asked for, and came after");
    rig.check_invariants();
}

#[test]
fn pitfall_035_a_write_behind_the_answer_is_not_hidden_by_a_zero_page() {
    a_write_behind_the_answer(Order::Pte);
}

#[test]
fn pitfall_036_a_write_behind_the_answer_is_not_hidden_by_2_mib_of_zeros() {
    a_write_behind_the_answer(Order::Pmd);
}

/// Two stores into one hole, each to a byte of its own: the second to be served must not zero what the first has stored already.
#[test]
fn pitfall_043_two_stores_into_one_hole_page_both_survive() {
    for order in [Order::Pte, Order::Pmd] {
        explore_then(0..150, |run| {
            let rig = Rig::new(1024);
            let vma = map(&rig, order);
            for (name, cpu) in [("T1", 0_u8), ("T2", 1)] {
                let vma = Arc::clone(&vma);
                run.spawn(name, move || {
                    let address = vma.sim.address(page(5)) + u64::from(cpu) * 8;
                    let thread = vma.thread(usize::from(cpu));
                    thread.store(address, &[cpu + 1]).expect("there is space");
                });
            }
            move || {
                let mut bytes = [0; 9];
                assert_eq!(rig.mapping.read(5 * PAGE_BYTES, &mut bytes), Ok(9));
                assert_eq!((bytes[0], bytes[8]), (1, 2), "a store was zeroed away");
                rig.check_invariants();
            }
        });
    }
}

/// A 4 KiB zero page is mapped; then storage comes, of which the file system says that it is not new. A 2 MiB store falls back for the
/// small entry, and a store to the very page takes its zeros away: what the index says counts, not the flag.
#[test]
fn pitfall_043b_zeros_go_though_the_storage_is_not_new() {
    let rig = Rig::new(1024);
    let (small, large) = (map(&rig, Order::Pte), map(&rig, Order::Pmd));
    assert_eq!(small.load(5), Ok(0));
    rig.file.write_zeros(pages(0, 512)).expect("there is space");
    large.store(9, 1).expect("there is storage");
    assert_eq!((rig.state(9), rig.state(5)), ("pM[D]".into(), "pZ".into()));
    large.store(5, 2).expect("there is storage");
    assert_eq!((small.load(5), rig.state(5)), (Ok(2), "pM[D]".into()));
    rig.check_invariants();
}
