//! W9: a wait for an entry can be ended from outside, and takes no wake along.

use crate::rig::threads::{await_sleepers, watch};
use crate::rig::{Call, Rig, Test, page, pages};
use std::sync::{Arc, Mutex};
use udax_core::{Access, Fault, Interrupt, Order, Served};
use udax_sim::{SimPlatform, explore};

type Handle = Arc<Interrupt<SimPlatform>>;

fn interruptible(vma: &crate::rig::Mapped, index: u64, access: Access, by: &Handle) -> Served {
    let fault = Fault::<Test>::new(&vma.vma, page(index), access);
    vma.mapping.fault(&Fault { interrupt: Some(by), ..fault }).served
}

#[test]
fn a_fault_that_waits_for_an_entry_is_interrupted_and_changes_nothing() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 7);
    for (index, spec) in [(3, rig.small(pages(0, 1024))), (512, rig.shared(pages(0, 1024)))] {
        let interrupt = Handle::default();
        let waiter = Arc::new(Mutex::new(None));
        let (started, own, vma) = (Arc::clone(&waiter), Arc::clone(&rig), Arc::clone(&spec));
        let by = Arc::clone(&interrupt);
        rig.hooks.before(
            |call| matches!(call, Call::Begin(..)),
            move || {
                // The entry is held here, by the thread that this runs on.
                let thread = watch("the waiter", move || {
                    assert_eq!(interruptible(&vma, index, Access::Read, &by), Served::Interrupted);
                });
                await_sleepers(&own, index, 1);
                interrupt.request();
                thread.ends();
                assert_eq!(own.mapping.sleepers(page(index)), 0, "it has left the table");
                *started.lock().expect("nobody panics") = Some(());
            },
        );
        spec.load(index).expect("all is well");
        assert!(waiter.lock().expect("nobody panics").is_some(), "somebody waited");
        rig.check_invariants();
    }
}

#[test]
fn a_request_ends_waits_to_come_until_it_is_cleared_and_no_others() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    let interrupt = Handle::default();
    interrupt.request();
    assert!(interrupt.is_requested());
    assert_eq!(
        interruptible(&vma, 3, Access::Read, &interrupt),
        Served::Installed,
        "where nobody waits nothing is interrupted"
    );
    let (own, other, by) = (Arc::clone(&rig), Arc::clone(&vma), Arc::clone(&interrupt));
    let waiter = Arc::new(Mutex::new(None));
    let started = Arc::clone(&waiter);
    rig.hooks.before(
        |call| matches!(call, Call::Begin(..)),
        move || {
            assert_eq!(interruptible(&other, 4, Access::Read, &by), Served::Interrupted);
            by.clear();
            let thread = watch("the waiter", move || {
                assert_eq!(interruptible(&other, 4, Access::Read, &by), Served::Installed);
            });
            await_sleepers(&own, 4, 1);
            *started.lock().expect("nobody panics") = Some(thread);
        },
    );
    assert_eq!(vma.load(4), Ok(0));
    waiter.lock().expect("nobody panics").take().expect("it was started").ends();
    assert!(!interrupt.is_requested());
}

/// The wake that was meant for a waiter which is interrupted at that very moment must reach the next one.
#[test]
fn w9_under_every_schedule_nobody_sleeps_for_ever() {
    let mut interrupted = 0;
    for chunk in 0..4 {
        let seen = Arc::new(Mutex::new(0));
        explore(chunk * 150..(chunk + 1) * 150, |run| {
            let rig = Rig::new(1024);
            let vma = rig.small(pages(0, 1024));
            let interrupt = Handle::default();
            let (own, by, seen) = (Arc::clone(&vma), Arc::clone(&interrupt), Arc::clone(&seen));
            run.spawn("interruptible", move || {
                let served = interruptible(&own, 3, Access::Write, &by);
                assert!(matches!(served, Served::Interrupted | Served::Installed), "{served:?}");
                *seen.lock().expect("nobody panics") += u32::from(served == Served::Interrupted);
            });
            run.spawn("interrupter", move || {
                interrupt.request();
                interrupt.clear();
            });
            for name in ["one", "two"] {
                let own = Arc::clone(&vma);
                run.spawn(name, move || {
                    assert_eq!(own.fault(3, Access::Write).order, Order::Pte);
                });
            }
            let own = Arc::clone(&rig);
            run.spawn("sync", move || own.mapping.sync(pages(0, 8)).expect("nothing fails"));
        });
        interrupted += *seen.lock().expect("nobody panics");
    }
    // Miri tries too few schedules for that.
    assert!(cfg!(miri) || interrupted > 0, "in some schedule a wait was ended");
}
