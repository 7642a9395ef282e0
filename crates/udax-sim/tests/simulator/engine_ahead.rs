//! Runs mapped ahead of a fault: what holds for the page that faulted holds for every page of the run.

use crate::rig::{Call, Rig, Spec, page, pages};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use udax_core::{Access, Intent, IoError, Order, Served};
use udax_sim::{Congruence, FsCall, Plan, Target, explore};

/// A VMA whose faults ask for `ahead` pages behind them.
fn ahead(rig: &Rig, spec: Spec, ahead: u64) -> Arc<crate::rig::Mapped> {
    rig.map(Spec { ahead, ..spec })
}

#[test]
fn a_run_of_zeros_is_mapped_by_one_fault() {
    let rig = Rig::new(1024);
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
    assert_eq!(vma.load(3), Ok(0));
    assert_eq!(vma.sim.translations().len(), 10);
    assert!((3..13).all(|index| rig.state(index) == "pZ"));
    assert_eq!((rig.state(2), rig.state(13)), ("none".into(), "none".into()));
    assert_eq!(rig.machine.fault_count(), 1);
    rig.check_invariants();
}

#[test]
fn a_run_of_2_mib_zeros_is_mapped_by_one_fault() {
    let rig = Rig::new(2048);
    let vma = ahead(&rig, Spec::shared(pages(0, 2048)), 1024);
    assert_eq!(vma.load(5), Ok(0));
    assert_eq!(vma.sim.translations().len(), 3);
    assert!(vma.sim.translations().iter().all(|one| one.order == Order::Pmd));
    assert_eq!(rig.state(1536), "none");
    rig.check_invariants();
}

#[test]
fn a_run_goes_over_zeros_that_other_mappings_show() {
    let rig = Rig::new(1024);
    let other = rig.small(pages(0, 1024));
    assert_eq!((other.load(4), other.load(9)), (Ok(0), Ok(0)));
    let before = rig.machine.fault_count();
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
    assert_eq!(vma.load(3), Ok(0));
    assert_eq!(vma.sim.translations().len(), 10);
    assert_eq!(rig.machine.fault_count(), before + 1);
    rig.check_invariants();
    // Nobody has their locks any more.
    assert_eq!(rig.mapping.write(9 * 4096, &[7]), Ok(1));
    assert_eq!((other.load(9), vma.load(9)), (Ok(7), Ok(7)));
    rig.check_invariants();
}

#[test]
fn a_run_ends_where_storage_is_and_leaves_nothing_behind_it() {
    let rig = Rig::new(1024);
    rig.fill(pages(6, 1), 6);
    let other = rig.small(pages(0, 1024));
    assert_eq!((other.load(6), other.load(9)), (Ok(6), Ok(0)));
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 100);
    assert_eq!(vma.load(3), Ok(0));
    let states = [5, 6, 7, 9, 10].map(|index| rig.state(index));
    assert_eq!(states, ["pZ", "pM", "none", "pZ", "none"], "those behind are as they were");
    assert_eq!(vma.sim.translations().len(), 3);
    assert_eq!(rig.mapping.write(9 * 4096, &[7]), Ok(1), "its entry is not locked");
    assert_eq!(vma.load(6), Ok(6), "storage among holes is mapped as storage");
    rig.check_invariants();
}

/// I9: storage comes to be seen only when the zeros before it have gone from every mapping, and a run does not see to that.
#[test]
fn a_run_of_storage_ends_where_zeros_are_shown() {
    let rig = Rig::new(1024);
    let other = rig.small(pages(0, 1024));
    assert_eq!(other.load(7), Ok(0));
    // Filled by a writer that has not come to the entries yet.
    rig.fill(pages(0, 64), 1);
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
    assert_eq!(vma.load(3), Ok(1));
    assert_eq!((rig.state(6), rig.state(7)), ("pM".into(), "pZ".into()));
    assert_eq!(vma.sim.translations().len(), 4);
    assert_eq!((vma.load(7), other.load(7)), (Ok(1), Ok(1)), "its own fault does");
    rig.check_invariants();
}

/// Empty entries that nobody works with would keep 2 MiB entries out for ever.
#[test]
fn a_run_that_nothing_came_of_leaves_no_entries() {
    let rig = Rig::new(1024);
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
    rig.file.fail(FsCall::BeginRead, Plan::ONCE, IoError::from_errno(5));
    assert_eq!(vma.fault(0, Access::Read).served, Served::BusError);
    assert_eq!((rig.mapping.entries(), rig.state(0)), (1, "pE".into()));
    rig.check_invariants();
}

#[test]
fn a_run_of_storage_is_mapped_clean_by_a_load_and_dirty_by_a_store() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 64), 1);
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 7);
    assert_eq!(vma.load(0), Ok(1));
    assert!((0..8).all(|index| rig.state(index) == "pM"));
    rig.check_invariants();
    vma.store(16, 9).expect("there is storage");
    rig.check_invariants();
    assert_eq!(rig.state(16), "pM[D]");
    let dirty = rig.entries().iter().filter(|one| one.dirty).count();
    let writable = vma.sim.translations().iter().filter(|one| one.writable).count();
    assert_eq!(dirty, writable, "I7, for each page of the run");
}

/// Pitfall 35, for the pages ahead: what the file system says of a page counts only if the page's entry was locked before it was
/// asked. Here a write comes between the question and the run.
#[test]
fn pitfall_035_a_write_into_the_run_is_never_hidden_by_zeros() {
    let rig = Rig::new(1024);
    let vma = ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
    let (mapping, done) = (Arc::clone(&rig.mapping), Arc::new(AtomicBool::new(false)));
    let (watch, ended) = (Arc::clone(&mapping), Arc::clone(&done));
    rig.hooks.after(
        |call| matches!(call, Call::Begin(_, Intent::Read)),
        move || {
            std::thread::spawn(move || {
                assert_eq!(mapping.write(5 * 4096, &[7]), Ok(1));
                done.store(true, Ordering::SeqCst);
            });
            // Either the write is through, or it waits for the entry of its page.
            while !ended.load(Ordering::SeqCst) && watch.sleepers(page(5)) == 0 {
                std::thread::yield_now();
            }
        },
    );
    assert_eq!(vma.load(0), Ok(0));
    while vma.load(5) != Ok(7) && rig.byte(5) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(vma.load(5), Ok(7), "the store of a write that has returned");
    assert!(rig.hooks.all_done());
}

#[test]
fn pitfall_035_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let map = || ahead(&rig, Spec::shared(pages(0, 1024)).small(), 9);
        let (one, two) = (map(), map());
        for (vma, first) in [(Arc::clone(&one), 0), (Arc::clone(&two), 3)] {
            run.spawn("load", move || assert_eq!(vma.load(first), Ok(0)));
        }
        let writer = Arc::clone(&rig);
        run.spawn("write", move || {
            assert_eq!(writer.mapping.write(5 * 4096, &[7]), Ok(1));
            assert_eq!((one.load(5), two.load(5)), (Ok(7), Ok(7)), "after the write has returned");
        });
    });
}

#[test]
fn a_run_that_page_tables_have_no_memory_for_still_serves_its_own_page() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 1024), 3);
    // The level ends behind page 510, so the run needs a second table.
    let congruence = Congruence::OffBy(1);
    let spec = Spec { congruence, ..Spec::shared(pages(0, 1024)).small() };
    let vma = ahead(&rig, spec, 9);
    rig.machine.fail_table_allocation(Plan::nth(2));
    assert_eq!(vma.load(508), Ok(3));
    rig.check_invariants();
    assert_eq!(vma.load(513), Ok(3));
    assert!(matches!(vma.translation(513).map(|one| one.target), Some(Target::Storage(_))));
}

/// I7: each page that a broken-off run has made writable is marked.
#[test]
fn i7_a_run_that_breaks_off_leaves_no_writable_page_unmarked() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 1024), 3);
    let congruence = Congruence::OffBy(1);
    let spec = Spec { congruence, ..Spec::shared(pages(0, 1024)).small() };
    let vma = ahead(&rig, spec, 9);
    rig.machine.fail_table_allocation(Plan::nth(2));
    let looker = Arc::clone(&rig);
    rig.hooks.after(
        |call| matches!(call, Call::InstallStorage(..)),
        // Half of it is writable now; nothing was said yet of what was granted.
        move || assert_eq!(looker.state(509), "pM[D]"),
    );
    vma.store(508, 4).expect("its own page has a table");
    rig.check_invariants();
    rig.machine.fail_table_allocation(Plan::nth(2));
    assert_eq!(rig.byte(508), 4);
}
