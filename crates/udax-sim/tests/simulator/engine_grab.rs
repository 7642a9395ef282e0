//! SEMANTICS 3: which entry a fault works under, for both sizes. The moment to look is when the file system is asked: the entry
//! is locked then, and nothing has come of the fault yet.

use crate::rig::threads::await_sleepers;
use crate::rig::{Call, Mapped, Rig, page, pages};
use std::sync::{Arc, Mutex};
use udax_core::{Access, FaultResult, Intent, IoError, PrivateCopies, Served, TraceEvent};
use udax_sim::{FsCall, MediaCall, Plan, Target};

const PAGE: u64 = 3;

/// Brings page 3 into `state`; see the table.
fn set_up(rig: &Rig, state: &str) -> Arc<Mapped> {
    let whole = pages(0, 1024);
    let (small, large) = (rig.small(whole), rig.shared(whole));
    match state {
        "pE" => {
            rig.file.fail(FsCall::BeginRead, Plan::ONCE, IoError::from_errno(5));
            small.fault(PAGE, Access::Read);
        }
        "pZ" => assert_eq!(small.load(PAGE), Ok(0)),
        "pM" => small.store(PAGE, 5).expect("there is space"),
        "hZ" => assert_eq!(large.load(PAGE), Ok(0)),
        "hM" => large.store(PAGE, 5).expect("there is space"),
        "hE" => {
            let vma = rig.private(whole);
            let (other, mapping) = (Arc::clone(&vma), Arc::clone(&rig.mapping));
            rig.hooks.after(
                |call| matches!(call, Call::Level(_)),
                move || {
                    other.fault(7, Access::Write);
                    mapping.invalidate(pages(0, 512));
                },
            );
            assert_eq!(vma.fault(PAGE, Access::Read).served, Served::Retry);
        }
        _ => {}
    }
    assert_eq!(rig.state(PAGE).trim_end_matches("[D]"), state, "the scene is not set");
    rig.hooks.take_log();
    rig.trace.take();
    if state.starts_with('h') { large } else { small }
}

/// What covers page 3 when a load of `vma` has got its entry, and whether it is locked.
fn grabbed(rig: &Arc<Rig>, vma: &Mapped) -> Option<(String, bool)> {
    let seen = Arc::new(Mutex::new(None));
    let (sink, looker) = (Arc::clone(&seen), Arc::clone(rig));
    rig.hooks.before(
        // An entry that knows its storage is not asked about.
        |call| matches!(call, Call::Begin(..) | Call::InstallStorage(..) | Call::InstallZeros(..)),
        move || {
            let locked = looker.entry(PAGE).is_some_and(|report| report.entry.is_locked());
            *sink.lock().expect("one thread") = Some((looker.state(PAGE), locked));
        },
    );
    vma.fault(PAGE, Access::Read);
    seen.lock().expect("one thread").take()
}

#[track_caller]
fn check_pte(before: &str, wanted: &str) {
    let rig = Rig::new(1024);
    let scene = set_up(&rig, before);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(grabbed(&rig, &vma), Some((wanted.into(), true)), "PTE fault on {before}");
    let unmapped = rig.hooks.take_log().iter().any(|call| matches!(call, Call::Unmap(..)));
    assert_eq!(unmapped, before == "hZ", "only a zero entry is unmapped for a downgrade");
    if before == "hZ" {
        assert_eq!(scene.translation(PAGE), None);
    }
    if before.starts_with('h') && wanted.starts_with('p') {
        assert_eq!(
            (rig.state(0), rig.state(511), rig.mapping.entries()),
            ("none".into(), "none".into(), 1)
        );
    }
    rig.check_invariants();
}

#[test]
fn table_3_pte_nothing_inserts_a_locked_empty_entry() {
    check_pte("none", "pE");
}

#[test]
fn table_3_pte_small_entries_are_locked_and_returned() {
    check_pte("pE", "pE");
    check_pte("pZ", "pZ");
    check_pte("pM", "pM[D]");
}

#[test]
fn table_3_pte_pmd_mapped_is_locked_and_returned() {
    check_pte("hM", "hM[D]");
}

#[test]
fn table_3_pte_pmd_zero_is_unmapped_and_downgraded() {
    check_pte("hZ", "pE");
}

#[test]
fn table_3_pte_pmd_empty_is_downgraded_without_unmapping() {
    check_pte("hE", "pE");
}

#[test]
fn table_3_pmd_nothing_inserts_a_locked_empty_pmd_entry() {
    let rig = Rig::new(1024);
    assert_eq!(grabbed(&rig, &rig.shared(pages(0, 1024))), Some(("hE".into(), true)));
    assert_eq!(rig.entry(PAGE).map(|report| report.start), Some(page(0)));
}

#[test]
fn table_3_pmd_entries_are_locked_and_returned() {
    for (before, wanted) in [("hE", "hE"), ("hZ", "hZ"), ("hM", "hM[D]")] {
        let rig = Rig::new(1024);
        set_up(&rig, before);
        let vma = rig.shared(pages(0, 1024));
        assert_eq!(grabbed(&rig, &vma), Some((wanted.into(), true)), "PMD fault on {before}");
        assert_eq!(rig.mapping.entries(), 1);
        rig.check_invariants();
    }
}

/// With the small entry at our own index (0x0), and at another one of the range, beyond the index's first node (pitfall 18).
#[test]
fn table_3_pmd_small_entries_anywhere_in_the_range_refuse() {
    for index in [0, PAGE, 63, 64, 128, 511] {
        for kind in ["pZ", "pM"] {
            let rig = Rig::new(1024);
            let small = rig.small(pages(0, 1024));
            match kind {
                "pZ" => assert_eq!(small.load(index), Ok(0)),
                _ => small.store(index, 5).expect("there is space"),
            }
            rig.trace.take();
            rig.hooks.take_log();
            let vma = rig.shared(pages(0, 1024));
            vma.fault(300, Access::Read);
            let fell_back = rig.trace.take().iter().any(|event| {
                matches!(event, TraceEvent::PmdFaultDone(_, result) if *result == FaultResult::FALLBACK)
            });
            assert!(fell_back, "{kind} at {index}");
            let asked: Vec<_> = rig
                .hooks
                .take_log()
                .into_iter()
                .filter(|call| matches!(call, Call::Begin(..)))
                .collect();
            assert_eq!(
                asked,
                [Call::Begin(pages(300, 1), Intent::Read)],
                "it stops before it asks"
            );
            assert_eq!(rig.state(index).trim_end_matches("[D]"), kind);
            rig.check_invariants();
        }
    }
}

#[test]
fn table_3_allocation_failure_is_out_of_memory_and_changes_nothing() {
    let rig = Rig::new(1024);
    rig.mapping.limit_index_nodes(Some(0));
    assert_eq!(rig.small(pages(0, 1024)).fault(3, Access::Read).served, Served::OutOfMemory);
    assert_eq!(rig.shared(pages(0, 1024)).fault(3, Access::Read).served, Served::OutOfMemory);
    assert_eq!(rig.mapping.entries(), 0);
    rig.mapping.limit_index_nodes(None);
    assert_eq!(rig.shared(pages(0, 1024)).load(3), Ok(0));
    rig.check_invariants();
}

/// The downgrade's order: the entry is locked and still a zero entry while the 2 MiB is unmapped, in every VMA, and private copies
/// stay; only then does the small entry take its place.
#[test]
fn downgrade_locks_then_unmaps_then_swaps() {
    let rig = Rig::new(1024);
    let larges = [(); 3].map(|()| rig.shared(pages(0, 1024)));
    let private = rig.private(pages(0, 1024));
    assert!(larges.iter().all(|vma| vma.load(PAGE) == Ok(0)));
    private.store(9, 1).expect("there is memory");
    // The private store has downgraded it: make it one 2 MiB entry again.
    rig.mapping.invalidate(pages(0, 512));
    assert!(larges.iter().all(|vma| vma.load(PAGE) == Ok(0)));
    let small = rig.small(pages(0, 1024));
    let seen = Arc::new(Mutex::new(Vec::new()));
    for when in 0..2 {
        let (sink, looker) = (Arc::clone(&seen), Arc::clone(&rig));
        let look = move || {
            let report = looker.entry(PAGE).expect("it is there");
            sink.lock().expect("one thread").push((looker.state(PAGE), report.entry.is_locked()));
        };
        let unmap = |call: &Call| *call == Call::Unmap(pages(0, 512), PrivateCopies::Keep);
        if when == 0 { rig.hooks.before(unmap, look) } else { rig.hooks.after(unmap, look) }
    }
    assert_eq!(small.load(PAGE), Ok(0));
    assert_eq!(
        *seen.lock().expect("one thread"),
        [("hZ".to_owned(), true), ("hZ".to_owned(), true)]
    );
    assert!(larges.iter().all(|vma| vma.translation(PAGE).is_none()));
    assert_eq!(private.translation(9).map(|one| one.target), Some(Target::PrivateCopy));
    assert_eq!((rig.state(PAGE), rig.mapping.entries()), ("pZ".into(), 1));
    rig.check_invariants();
}

/// What a fault decided before it slept counts no more after it (pitfall 15): it meets a zero entry, sleeps, and finds storage.
#[test]
fn pitfall_015_the_decision_to_downgrade_is_made_anew_after_each_wait() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    assert_eq!(large.load(0), Ok(0));
    let small = rig.small(pages(0, 1024));
    let waiting = Arc::clone(&rig);
    let thread = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&thread);
    rig.hooks.before(
        |call| matches!(call, Call::Begin(_, Intent::Write)),
        move || {
            let loader = std::thread::spawn(move || small.load(PAGE));
            *slot.lock().expect("nobody panics") = Some(loader);
            await_sleepers(&waiting, 0, 1);
        },
    );
    large.store(0, 1).expect("there is space");
    let loader = thread.lock().expect("nobody panics").take().expect("it was started");
    assert_eq!(loader.join().expect("it ends"), Ok(0));
    assert_eq!((rig.state(PAGE), rig.state(0)), ("hM[D]".into(), "hM[D]".into()));
    rig.check_invariants();
}

/// No error path keeps a lock (W7): after each failure that can be planned, the next fault gets through.
#[test]
fn every_failed_fault_and_sync_leaves_its_entry_unlocked() {
    const EIO: IoError = IoError::from_errno(5);
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 1);
    let vma = rig.small(pages(0, 1024));
    for (index, call) in (1..).zip([FsCall::BeginRead, FsCall::BeginWrite, FsCall::End]) {
        rig.file.fail(call, Plan::ONCE, EIO);
        let _ = vma.fault(index, Access::Read);
        let _ = vma.fault(index, Access::Write);
        rig.check_invariants();
    }
    for call in [MediaCall::DirectAccess, MediaCall::Flush] {
        rig.media.fail(call, Plan::ONCE, EIO);
        assert!(rig.mapping.sync(pages(0, 1024)).is_err(), "{call:?}");
        assert_eq!(rig.state(1), "pM[D]", "what was not flushed is still dirty");
        rig.check_invariants();
        rig.mapping.sync(pages(0, 1024)).expect("nothing fails now");
        vma.store(1, 2).expect("there is storage");
    }
    rig.machine.fail_table_allocation(Plan::ONCE);
    let other = rig.small(pages(0, 1024));
    assert_eq!(other.fault(2, Access::Write).served, Served::OutOfMemory);
    rig.check_invariants();
    assert_eq!(other.load(2), Ok(1));
}
