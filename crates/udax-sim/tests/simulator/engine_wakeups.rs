//! The lost wake-ups of SEMANTICS 2.4, each with the threads that it takes: once on real threads in the one order that loses the
//! wake-up, and once under many schedules. A wake-up that is lost is a hang: the watchdog, or the scheduler, says who sleeps.

use crate::rig::threads::{Watched, await_sleepers, watch};
use crate::rig::{Call, Mapped, Rig, Spec, page, pages};
use std::sync::Arc;
use std::sync::mpsc::channel;
use udax_core::{Access, Intent, IoError, Served};
use udax_sim::{FsCall, Plan, Run, explore};

/// Starts `fault`, which holds its entries, once it has asked the file system, until `count` threads sleep for the entry at `start`.
fn holding(
    rig: &Arc<Rig>,
    start: u64,
    count: usize,
    fault: impl FnOnce() + Send + 'static,
) -> Watched {
    let (waiting, held) = (Arc::clone(rig), channel());
    rig.hooks.before(
        |call| matches!(call, Call::Begin(..)),
        move || {
            let _ = held.0.send(());
            await_sleepers(&waiting, start, count);
        },
    );
    let thread = watch("holder", fault);
    held.1.recv().expect("the holder gets its entries");
    thread
}

/// A load of page `index`: one fault, and no access behind it that might fault again.
fn holder(rig: &Arc<Rig>, vma: &Arc<Mapped>, index: u64, start: u64, count: usize) -> Watched {
    let vma = Arc::clone(vma);
    holding(rig, start, count, move || {
        assert_eq!(vma.fault(index, Access::Read).served, Served::Installed);
    })
}

/// A fault that fails with the entries of a run. In Linux a page took the place of the entry that others slept for (S1, S2); here the
/// holder takes the entry away.
fn failing_run(rig: &Arc<Rig>, count: usize) -> Watched {
    let vma = rig.map(Spec { ahead: 9, ..Spec::shared(pages(0, 1024)).small() });
    rig.file.fail(FsCall::BeginRead, Plan::ONCE, IoError::from_errno(5));
    holding(rig, 5, count, move || {
        assert_eq!(vma.fault(0, Access::Read).served, Served::BusError);
    })
}

/// A store to clean storage that is refused: the entry stays, and clean.
fn failing_store(rig: &Arc<Rig>, vma: &Arc<Mapped>, count: usize) -> Watched {
    let vma = Arc::clone(vma);
    rig.file.fail(FsCall::BeginWrite, Plan::ONCE, IoError::from_errno(5));
    holding(rig, 5, count, move || {
        assert_eq!(vma.fault(5, Access::Write).served, Served::BusError);
    })
}

fn invalidating(name: &'static str, rig: &Rig) -> Watched {
    let mapping = Arc::clone(&rig.mapping);
    watch(name, move || {
        mapping.invalidate(pages(5, 1));
    })
}

/// S1: what one sleeps for goes away without having been unlocked.
#[test]
fn pitfall_002_s1_an_entry_that_goes_away_wakes_who_sleeps_for_it() {
    let rig = Rig::new(1024);
    let first = failing_run(&rig, 1);
    let second = invalidating("second", &rig);
    first.ends();
    assert_eq!(rig.mapping.sleepers(page(5)), 0, "who takes an entry away wakes");
    second.ends();
    assert_eq!(rig.state(5), "none");
    rig.check_invariants();
}

/// S2: and all of them, as the first one woken finds nothing to unlock or to pass on.
#[test]
fn pitfall_006_s2_an_entry_that_goes_away_wakes_everybody_who_sleeps_for_it() {
    let rig = Rig::new(1024);
    let first = failing_run(&rig, 2);
    let others = ["second", "third"].map(|name| invalidating(name, &rig));
    first.ends();
    assert_eq!(rig.mapping.sleepers(page(5)), 0, "not one of them: both");
    others.into_iter().for_each(Watched::ends);
    rig.check_invariants();
}

#[test]
fn s1_s2_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let vma = rig.map(Spec { ahead: 9, ..Spec::shared(pages(0, 1024)).small() });
        let other = rig.small(pages(0, 1024));
        rig.file.fail(FsCall::BeginRead, Plan::ONCE, IoError::from_errno(5));
        run.spawn("holder", move || {
            vma.fault(0, Access::Read);
        });
        for name in ["second", "third"] {
            let rig = Arc::clone(&rig);
            run.spawn(name, move || {
                rig.mapping.invalidate(pages(5, 1));
            });
        }
        run.spawn("reader", move || {
            other.fault(5, Access::Read);
        });
    });
}

/// S3: a fault that looks at an entry and does not lock it passes the wake on. Two 2 MiB faults and a small one meet a small entry.
#[test]
fn s3_a_refused_2_mib_fault_leaves_no_small_fault_asleep() {
    let rig = Rig::new(1024);
    let small = rig.small(pages(0, 1024));
    let first = holder(&rig, &small, 0, 0, 2);
    let large = rig.shared(pages(0, 1024));
    let refused = watch("2 MiB fault", move || assert_eq!(large.load(0), Ok(0)));
    let other = rig.small(pages(0, 1024));
    let second = watch("small fault", move || assert_eq!(other.load(0), Ok(0)));
    first.ends();
    refused.ends();
    second.ends();
    rig.check_invariants();
}

#[test]
fn pitfall_003_s3_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        for name in ["small 1", "small 2", "small 3"] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(0), Ok(0)));
        }
        let large = rig.shared(pages(0, 1024));
        // At another page, or the small fault that follows would pass on what the 2 MiB fault did not.
        run.spawn("2 MiB", move || assert_eq!(large.load(9), Ok(0)));
    });
}

/// Holds the PMD zero entry while a small fault on `index` downgrades it, until `count` sleep for it.
fn downgrader(rig: &Arc<Rig>, index: u64, count: usize) -> Watched {
    let large = rig.shared(pages(0, 1024));
    assert_eq!(large.load(0), Ok(0));
    assert_eq!(rig.state(index), "hZ");
    let (waiting, held) = (Arc::clone(rig), channel());
    rig.hooks.before(
        // The list of VMAs is locked here: those that the test needs must be there already.
        |call| matches!(call, Call::Unmap(..)),
        move || {
            let _ = held.0.send(());
            await_sleepers(&waiting, 0, count);
        },
    );
    let vma = rig.small(pages(0, 1024));
    let thread = watch("downgrader", move || assert_eq!(vma.load(index), Ok(0)));
    held.1.recv().expect("the downgrader holds the PMD entry");
    thread
}

/// S4: T1 downgrades, T2 and T3 sleep for the 2 MiB entry on behalf of other pages: both must be woken, as nobody wakes that
/// key again.
#[test]
fn pitfall_004_s4_a_downgrade_wakes_all_who_wait_for_the_2_mib_entry() {
    let rig = Rig::new(1024);
    let others = [("T2", 3), ("T3", 4)].map(|(name, i)| (name, i, rig.small(pages(0, 1024))));
    let first = downgrader(&rig, 2, 2);
    let others = others.map(|(name, i, vma)| watch(name, move || assert_eq!(vma.load(i), Ok(0))));
    first.ends();
    assert_eq!(rig.mapping.sleepers(page(0)), 0, "nobody wakes that key again");
    others.into_iter().for_each(Watched::ends);
    assert_eq!((rig.state(2), rig.state(3), rig.state(4)), ("pZ".into(), "pZ".into(), "pZ".into()));
    rig.check_invariants();
}

#[test]
fn s4_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let large = rig.shared(pages(0, 1024));
        assert_eq!(large.load(0), Ok(0));
        for (name, index) in [("T1", 2), ("T2", 3), ("T3", 4)] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(index), Ok(0)));
        }
    });
}

/// S5: no memory in a downgrade: the fault fails, the old entry is unlocked, and the two who waited for it go on.
#[test]
fn pitfall_005_s5_a_downgrade_without_memory_unlocks_the_old_entry() {
    let rig = Rig::new(1024);
    let large = rig.shared(pages(0, 1024));
    assert_eq!(large.load(0), Ok(0));
    let small = rig.small(pages(0, 1024));
    rig.mapping.limit_index_nodes(Some(1));
    assert_eq!(small.fault(2, Access::Read).served, Served::OutOfMemory);
    assert_eq!(rig.state(2), "hZ", "the old entry is still there");
    rig.check_invariants();
    // With two more threads that sleep for it meanwhile.
    let others =
        [("second", 3), ("third", 4)].map(|(name, i)| (name, i, rig.small(pages(0, 1024))));
    let (waiting, held) = (Arc::clone(&rig), channel());
    rig.hooks.before(
        |call| matches!(call, Call::Unmap(..)),
        move || {
            let _ = held.0.send(());
            await_sleepers(&waiting, 0, 2);
        },
    );
    let first = watch("first", move || {
        assert_eq!(small.fault(2, Access::Read).served, Served::OutOfMemory);
    });
    held.1.recv().expect("it holds the PMD entry");
    let others = others.map(|(name, i, vma)| {
        watch(name, move || assert_eq!(vma.fault(i, Access::Read).served, Served::OutOfMemory))
    });
    first.ends();
    others.into_iter().for_each(Watched::ends);
    rig.mapping.limit_index_nodes(None);
    let vma = rig.small(pages(0, 1024));
    watch("later", move || assert_eq!(vma.load(2), Ok(0))).ends();
    rig.check_invariants();
}

#[test]
fn s5_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let large = rig.shared(pages(0, 1024));
        assert_eq!(large.load(0), Ok(0));
        rig.mapping.limit_index_nodes(Some(1));
        for (name, index) in [("T1", 2), ("T2", 3), ("T3", 4)] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || {
                assert_eq!(vma.fault(index, Access::Read).served, Served::OutOfMemory);
            });
        }
    });
}

/// S6: three who want to delete the same entry, while a fault holds it: the first deletes it, the others find nothing.
#[test]
fn pitfall_008_s6_three_deleters_of_one_entry_all_come_back() {
    let rig = Rig::new(1024);
    // Of storage: that of zeros is locked before it goes.
    rig.fill(pages(5, 1), 7);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(5), Ok(7));
    let first = failing_store(&rig, &vma, 3);
    let [a, b, c] = [("A", 1), ("B", 2), ("C", 3)].map(|(name, place)| {
        let thread = invalidating(name, &rig);
        // The last of them lets the fault go on.
        if place < 3 {
            await_sleepers(&rig, 5, place);
        }
        thread
    });
    first.ends();
    a.ends();
    assert_eq!(rig.mapping.sleepers(page(5)), 0, "A deletes it, and wakes B and C");
    [b, c].into_iter().for_each(Watched::ends);
    rig.check_invariants();
}

#[test]
fn s6_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let vma = rig.small(pages(0, 1024));
        run.spawn("fault", move || assert_eq!(vma.load(5), Ok(0)));
        for name in ["A", "B", "C"] {
            let rig = Arc::clone(&rig);
            run.spawn(name, move || {
                rig.mapping.invalidate(pages(5, 1));
            });
        }
    });
}

/// S7: a small fault holds page 3; a 2 MiB fault in the same 2 MiB does not wait for it under a key that nobody wakes, nor at all.
#[test]
fn pitfall_009_s7_a_2_mib_fault_does_not_wait_for_a_small_entry() {
    let rig = Rig::new(1024);
    let (small, large) = (rig.small(pages(0, 1024)), rig.shared(pages(0, 1024)));
    let (inner, done) = (Arc::clone(&large), channel());
    rig.hooks.before(
        |call| matches!(call, Call::Begin(..)),
        move || {
            let thread = watch("2 MiB fault", move || assert_eq!(inner.load(9), Ok(0)));
            thread.ends();
            let _ = done.0.send(());
        },
    );
    watch("small fault", move || assert_eq!(small.load(3), Ok(0))).ends();
    done.1.try_recv().expect("the 2 MiB fault came in between");
    assert_eq!((rig.state(3), rig.state(9)), ("pZ".into(), "pZ".into()));
    rig.check_invariants();
}

#[test]
fn s7_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        for (name, index) in [("small 3", 3), ("small 9", 9)] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(index), Ok(0)));
        }
        for (name, index) in [("2 MiB at 3", 3), ("2 MiB at 0", 0)] {
            let vma = rig.shared(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(index), Ok(0)));
        }
    });
}

/// S8: who waited and finds the entry there, but does not want it, passes the wake on: here an invalidation that finds it dirty,
/// with two more of them behind it.
#[test]
fn pitfall_010_s8_who_waits_and_does_not_lock_passes_the_wake_on() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    let (waiting, held) = (Arc::clone(&rig), channel());
    rig.hooks.before(
        |call| matches!(call, Call::Begin(_, Intent::Write)),
        move || {
            let _ = held.0.send(());
            await_sleepers(&waiting, 5, 3);
        },
    );
    // Without the store itself, which might fault again behind one of the three.
    let first = watch("store", move || {
        assert_eq!(vma.fault(5, Access::Write).served, Served::Installed);
    });
    held.1.recv().expect("the store holds its entry");
    let [a, b, c] = [("A", 1), ("B", 2), ("C", 3)].map(|(name, place)| {
        let mapping = Arc::clone(&rig.mapping);
        let thread =
            watch(name, move || assert_eq!(mapping.invalidate(pages(5, 1)), 1, "it is dirty"));
        if place < 3 {
            await_sleepers(&rig, 5, place);
        }
        thread
    });
    first.ends();
    a.ends();
    assert!(rig.mapping.sleepers(page(5)) < 2, "A passes it on to B");
    b.ends();
    assert_eq!(rig.mapping.sleepers(page(5)), 0, "and B to C");
    c.ends();
    assert_eq!(rig.state(5), "pM[D]");
    rig.check_invariants();
}

#[test]
fn s8_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        let vma = rig.small(pages(0, 1024));
        vma.store(5, 1).expect("there is space");
        run.spawn("sync", {
            let rig = Arc::clone(&rig);
            move || rig.mapping.sync(pages(0, 1024)).expect("nothing fails")
        });
        for name in ["A", "B", "C"] {
            let rig = Arc::clone(&rig);
            run.spawn(name, move || {
                rig.mapping.invalidate(pages(5, 1));
            });
        }
        run.spawn("store", move || vma.store(5, 2).expect("there is space"));
    });
}

/// S9: whoever waits has given the tree lock up: others change the index meanwhile.
#[test]
fn pitfall_012_s9_the_index_can_be_changed_while_somebody_waits_for_an_entry() {
    let rig = Rig::new(1024);
    let (vma, other, third) =
        (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    let (waiting, waiter) = (Arc::clone(&rig), channel());
    rig.hooks.before(
        |call| matches!(call, Call::Begin(..)),
        move || {
            let _ = waiter.0.send(watch("waiter", move || assert_eq!(other.load(5), Ok(0))));
            await_sleepers(&waiting, 5, 1);
            watch("third", move || assert_eq!(third.load(6), Ok(0))).ends();
        },
    );
    watch("holder", move || assert_eq!(vma.load(5), Ok(0))).ends();
    waiter.1.recv().expect("there is a waiter").ends();
    rig.check_invariants();
}

#[test]
fn s9_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        for (name, index) in [("one", 5), ("two", 5), ("three", 6)] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(index), Ok(0)));
        }
    });
}

/// S10: a waiter that comes from the storage (a media failure) does not use up the wake of one that the two faults behind it need,
/// whatever it finds.
#[test]
fn s10_a_waiter_that_may_vanish_takes_no_wake_from_the_others() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    let first = holder(&rig, &vma, 5, 5, 4);
    let failed = ["failure 1", "failure 2"].map(|name| {
        let mapping = Arc::clone(&rig.mapping);
        watch(name, move || assert_eq!(mapping.media_failed(page(5)), None, "it is a hole"))
    });
    let others = ["second", "third"].map(|name| {
        let vma = rig.small(pages(0, 1024));
        watch(name, move || assert_eq!(vma.load(5), Ok(0)))
    });
    first.ends();
    failed.into_iter().for_each(Watched::ends);
    others.into_iter().for_each(Watched::ends);
    rig.check_invariants();
}

#[test]
fn s10_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::new(1024);
        for name in ["second", "third", "fourth"] {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || assert_eq!(vma.load(5), Ok(0)));
        }
        run.spawn("failure", move || {
            rig.mapping.media_failed(page(5));
        });
    });
}

/// S11: one bucket, two keys: a wake for one key goes past the sleepers of the other.
#[test]
fn s11_a_wake_is_not_used_up_by_a_sleeper_of_another_key() {
    let rig = Rig::with(crate::rig::Setup { wait_bits: 1, ..crate::rig::Setup::default() });
    // Enough keys that several share each of the two buckets, and the one that is held longest sleeps in front.
    let (stranger, vma) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    let hold = channel::<()>();
    let (held, go_on) = (channel(), hold.1);
    rig.hooks.before(
        |call| matches!(call, Call::Begin(range, _) if range.start == page(100)),
        move || {
            let _ = held.0.send(());
            let _ = go_on.recv();
        },
    );
    let strange_holder = watch("holder of 100", move || assert_eq!(stranger.load(100), Ok(0)));
    held.1.recv().expect("it holds 100");
    let strangers = ["stranger 1", "stranger 2"].map(|name| {
        let vma = rig.small(pages(0, 1024));
        watch(name, move || assert_eq!(vma.load(100), Ok(0)))
    });
    await_sleepers(&rig, 100, 2);
    for index in 0..8 {
        let first = holder(&rig, &vma, index, index, 2);
        let others = ["second", "third"].map(|name| {
            let vma = rig.small(pages(0, 1024));
            watch(name, move || assert_eq!(vma.load(index), Ok(0)))
        });
        first.ends();
        others.into_iter().for_each(Watched::ends);
        assert_eq!(rig.mapping.sleepers(page(100)), 2, "the strangers sleep on");
    }
    drop(hold.0);
    strange_holder.ends();
    strangers.into_iter().for_each(Watched::ends);
    rig.check_invariants();
}

#[test]
fn s11_under_every_schedule() {
    explore(0..300, |run| {
        let rig = Rig::with(crate::rig::Setup { wait_bits: 1, ..crate::rig::Setup::default() });
        for index in [1, 2, 3] {
            for name in ["one", "two"] {
                let vma = rig.small(pages(0, 1024));
                run.spawn(name, move || assert_eq!(vma.load(index), Ok(0)));
            }
        }
    });
}

/// 2.3, row by row, with one more of everything than the row needs: faults, syncs, removals and failures on one 2 MiB.
#[test]
fn table_2_3_everything_at_once_under_every_schedule() {
    explore(0..200, |run: &mut Run| {
        let rig = Rig::new(1024);
        for (number, name) in ["store 1", "store 2"].into_iter().enumerate() {
            let vma = rig.small(pages(0, 1024));
            run.spawn(name, move || vma.store(number as u64, 1).expect("there is space"));
        }
        for name in ["2 MiB 1", "2 MiB 2"] {
            let vma = rig.shared(pages(0, 1024));
            run.spawn(name, move || assert!(vma.load(1).is_ok()));
        }
        let (a, b, c) = (Arc::clone(&rig), Arc::clone(&rig), Arc::clone(&rig));
        run.spawn("sync", move || a.mapping.sync(pages(0, 1024)).expect("nothing fails"));
        run.spawn("punch", move || b.mapping.punch_hole(0, 4096).expect("nothing fails"));
        run.spawn("failure", move || {
            c.mapping.media_failed(page(1));
        });
        run.spawn("invalidate", move || {
            rig.mapping.invalidate(pages(0, 512));
        });
    });
}
