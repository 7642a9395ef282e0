//! Pitfalls 1 to 18 that no test of stories (`engine_wakeups.rs`) or tables (`engine_grab.rs`, `engine_remove.rs`) is: each the way in
//! which Linux's DAX once went wrong, with the threads that it took. docs/pitfalls.md lists all of them.

use crate::rig::{Mapped, Rig, page, pages};
use std::sync::Arc;
use udax_core::{Access, IoError, Order, Served};
use udax_sim::{FsCall, Plan, explore_then};

fn map(rig: &Rig, order: Order) -> Arc<Mapped> {
    match order {
        Order::Pte => rig.small(pages(0, 1024)),
        Order::Pmd => rig.shared(pages(0, 1024)),
    }
}

/// A store and a load look the same hole up. Without a lock over it, the load puts zeros where the store is about to put its storage.
#[test]
fn pitfall_001_a_store_and_a_load_of_one_hole_are_served_one_after_the_other() {
    for order in [Order::Pte, Order::Pmd] {
        explore_then(0..150, |run| {
            let rig = Rig::new(1024);
            let (storer, loader) = (map(&rig, order), map(&rig, order));
            let (store, load) = (Arc::clone(&storer), Arc::clone(&loader));
            run.spawn("store", move || store.store(5, 1).expect("no signal"));
            run.spawn("load", move || assert!(matches!(load.load(5), Ok(0 | 1))));
            move || {
                assert!(rig.entry(5).is_some_and(|report| report.dirty));
                assert_eq!((storer.load(5), loader.load(5), rig.byte(5)), (Ok(1), Ok(1), 1));
                rig.check_invariants();
            }
        });
    }
}

/// Two 2 MiB faults find nothing. The second to insert must not take the first one's entry for a small one, and fall back: a small
/// translation would come to where a huge one is.
#[test]
fn pitfall_007_two_2_mib_faults_into_nothing_are_both_served_at_2_mib() {
    for access in [Access::Read, Access::Write] {
        explore_then(0..150, |run| {
            let rig = Rig::new(1024);
            for (name, index) in [("T1", 3), ("T2", 300)] {
                let vma = map(&rig, Order::Pmd);
                run.spawn(name, move || {
                    let outcome = vma.fault(index, access);
                    assert_eq!((outcome.served, outcome.order), (Served::Installed, Order::Pmd));
                });
            }
            move || {
                let state = if access == Access::Read { "hZ" } else { "hM[D]" };
                assert_eq!((rig.state(3), rig.mapping.entries()), (state.to_owned(), 1));
                rig.check_invariants();
            }
        });
    }
}

/// A media failure sleeps for an entry that a punch then takes away: what it had seen before it slept counts no more.
#[test]
fn pitfall_013_what_a_media_failure_saw_before_it_slept_is_looked_at_again() {
    explore_then(0..200, |run| {
        let rig = Rig::new(1024);
        let vma = map(&rig, Order::Pte);
        vma.store(5, 1).expect("there is space");
        let frame = rig.file.frame_of(page(5)).expect("it was stored to");
        let (a, b, c) = (Arc::clone(&rig), Arc::clone(&rig), Arc::clone(&rig));
        run.spawn("sync", move || a.mapping.sync(pages(0, 1024)).expect("nothing fails"));
        run.spawn("punch", move || b.mapping.punch_hole(5 << 12, 4096).expect("nothing fails"));
        run.spawn("failure", move || {
            if let Some(owner) = c.media.owner(frame) {
                c.mapping.media_failed(owner.index);
            }
        });
        move || {
            assert_eq!((rig.state(5), vma.load(5)), ("none".into(), Ok(0)));
            rig.check_invariants();
        }
    });
}

/// Whoever locks an entry by a page in its middle unlocks that entry, not one made up from the page's frame.
#[test]
fn pitfall_014b_a_media_failure_in_the_middle_of_2_mib_leaves_the_entry_as_it_was() {
    let rig = Rig::new(1024);
    let (large, small) = (map(&rig, Order::Pmd), map(&rig, Order::Pte));
    large.store(77, 1).expect("there is space");
    let before = rig.entry(77);
    assert_eq!(rig.mapping.media_failed(page(77)), Some(pages(0, 512)));
    assert_eq!((rig.entry(77), rig.mapping.entries()), (before, 1));
    assert_eq!((small.load(77), large.load(77)), (Ok(1), Ok(1)));
    assert_eq!(rig.entry(77), before);
    rig.check_invariants();
}

/// An insertion that fails is an error, and an error of the file system is one, at both sizes: never a fault that was served.
#[test]
fn pitfall_017_an_error_is_never_taken_for_success() {
    for order in [Order::Pte, Order::Pmd] {
        for access in [Access::Read, Access::Write] {
            let rig = Rig::new(1024);
            let vma = map(&rig, order);
            rig.mapping.limit_index_nodes(Some(0));
            assert_eq!(vma.fault(5, access).served, Served::OutOfMemory);
            assert_eq!((rig.state(5), vma.translation(5)), ("none".into(), None));
            rig.mapping.limit_index_nodes(None);
            for (errno, served) in [
                (5, Served::BusError),
                (-5, Served::BusError),
                (12, Served::OutOfMemory),
                (133, Served::Poisoned),
            ] {
                for call in [FsCall::BeginRead, FsCall::BeginWrite] {
                    rig.file.fail(call, Plan { after: 0, times: 2 }, IoError::from_errno(errno));
                }
                let outcome = vma.fault(5, access);
                assert_eq!((outcome.served, outcome.is_error()), (served, true), "errno {errno}");
                assert_eq!(vma.translation(5), None);
                for call in [FsCall::BeginRead, FsCall::BeginWrite] {
                    rig.file.fail(call, Plan { after: 0, times: 0 }, IoError::from_errno(errno));
                }
            }
            rig.check_invariants();
        }
    }
}

/// A small entry at 0x280, beyond the first node of the 2 MiB at 0x200: a 2 MiB fault sees it, and stores nothing over it.
#[test]
fn pitfall_018_a_small_entry_beyond_the_first_node_is_not_stored_over() {
    let rig = Rig::new(1024);
    let (large, small) = (map(&rig, Order::Pmd), map(&rig, Order::Pte));
    small.store(0x280, 1).expect("there is space");
    assert_eq!(large.load(0x200), Ok(0));
    assert_eq!((rig.state(0x280), rig.state(0x200)), ("pM[D]".into(), "pZ".into()));
    assert_eq!((large.load(0x280), rig.mapping.entries()), (Ok(1), 2));
    rig.check_invariants();
}
