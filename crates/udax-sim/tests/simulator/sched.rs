//! The scheduler: the same seed is the same schedule, and runs that cannot end are found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use udax_core::{Parker as _, ShortLock as _};
use udax_sim::{
    FailureKind, Run, SharedLock, SimLock, SimParker, WaitQueue, explore, note, yield_point,
};

fn trace_of(seed: u64) -> Vec<u32> {
    let trace = Arc::new(Mutex::new(Vec::new()));
    let mut run = Run::new(seed);
    for number in 0..3 {
        let trace = Arc::clone(&trace);
        run.spawn("worker", move || {
            for _ in 0..5 {
                yield_point();
                trace.lock().expect("no panic").push(number);
            }
        });
    }
    run.go();
    let trace = trace.lock().expect("no panic");
    trace.clone()
}

#[test]
fn a_seed_is_a_schedule() {
    assert_eq!(trace_of(7), trace_of(7));
    let different = (0..20).filter(|seed| trace_of(*seed) != trace_of(7)).count();
    assert!(different > 10, "only {different} of 20 seeds differ");
}

#[test]
fn a_lock_excludes_under_every_schedule() {
    explore(0..100, |run| {
        let counter = Arc::new(SimLock::new(0));
        let sum = Arc::new(AtomicU64::new(0));
        for _ in 0..3 {
            let (counter, sum) = (Arc::clone(&counter), Arc::clone(&sum));
            run.spawn("adder", move || {
                let mut counter = counter.lock();
                let seen = *counter;
                yield_point();
                *counter = seen + 1;
                sum.fetch_max(*counter, Ordering::Relaxed);
            });
        }
        run.spawn("checker", move || {
            while sum.load(Ordering::Relaxed) < 3 {
                yield_point();
            }
        });
    });
}

#[test]
fn a_lost_update_is_found_by_some_seed() {
    let lost = (0..50).any(|seed| {
        let value = Arc::new(AtomicU64::new(0));
        let mut run = Run::new(seed);
        for _ in 0..2 {
            let value = Arc::clone(&value);
            run.spawn("adder", move || {
                yield_point();
                let seen = value.load(Ordering::Relaxed);
                yield_point();
                value.store(seen + 1, Ordering::Relaxed);
            });
        }
        run.go();
        value.load(Ordering::Relaxed) == 1
    });
    assert!(lost);
}

#[test]
fn a_deadlock_is_reported_with_the_seed_and_who_waits_where() {
    let found = (0..200).find_map(|seed| {
        let locks = Arc::new((SimLock::new(()), SimLock::new(())));
        let mut run = Run::new(seed);
        let other = Arc::clone(&locks);
        run.spawn("forth", move || {
            let _first = locks.0.lock();
            note("wants the second");
            let _second = locks.1.lock();
        });
        run.spawn("back", move || {
            let _first = other.1.lock();
            let _second = other.0.lock();
        });
        run.try_go().err()
    });
    let failure = found.expect("some seed takes the locks crosswise");
    assert_eq!(failure.kind, FailureKind::Deadlock);
    assert!(failure.report.contains(&format!("UDAX_SEED={}", failure.seed)), "{failure}");
    assert!(failure.report.contains("wants the second"), "{failure}");
    assert!(failure.report.contains("sched.rs:"), "{failure}");
}

#[test]
fn a_sleep_that_nobody_ends_is_a_deadlock() {
    let mut run = Run::new(1);
    run.spawn("sleeper", || SimParker::new().park());
    assert_eq!(run.try_go().expect_err("it sleeps").kind, FailureKind::Deadlock);
}

#[test]
fn an_endless_run_is_a_livelock() {
    let mut run = Run::new(1);
    run.step_limit(1000).spawn("spinner", || {
        loop {
            yield_point();
        }
    });
    assert_eq!(run.try_go().expect_err("it spins").kind, FailureKind::Livelock);
}

#[test]
fn a_panic_fails_the_run_and_guards_are_dropped_on_the_way() {
    let lock = Arc::new(SimLock::new(()));
    let mut run = Run::new(3);
    run.spawn("unlucky", move || {
        let _guard = lock.lock();
        panic!("bad luck");
    });
    let failure = run.try_go().expect_err("it panics");
    assert_eq!(failure.kind, FailureKind::Panic);
    assert!(failure.report.contains("bad luck"), "{failure}");
}

#[test]
fn an_unpark_before_the_park_is_not_lost() {
    explore(0..50, |run| {
        let parker = SimParker::new();
        let waker = Arc::clone(&parker);
        run.spawn("sleeper", move || parker.park());
        run.spawn("waker", move || waker.unpark());
    });
}

#[test]
fn whoever_waits_for_a_condition_sees_it() {
    explore(0..50, |run| {
        let shared = Arc::new((AtomicU64::new(0), WaitQueue::new()));
        for _ in 0..3 {
            let shared = Arc::clone(&shared);
            run.spawn("waiter", move || {
                shared.1.wait_until(|| shared.0.load(Ordering::Relaxed) == 2);
            });
        }
        for _ in 0..2 {
            let shared = Arc::clone(&shared);
            run.spawn("maker", move || {
                shared.0.fetch_add(1, Ordering::Relaxed);
                shared.1.notify_all();
            });
        }
    });
}

#[test]
fn a_writer_is_alone() {
    explore(0..50, |run| {
        let shared = Arc::new((SharedLock::new(), AtomicU64::new(0)));
        for number in 0..4 {
            let shared = Arc::clone(&shared);
            run.spawn("thread", move || {
                if number % 2 == 0 {
                    let _alone = shared.0.exclusive();
                    assert_eq!(shared.1.fetch_add(1, Ordering::Relaxed) % 2, 0);
                    yield_point();
                    shared.1.fetch_add(1, Ordering::Relaxed);
                } else {
                    let _with_others = shared.0.shared();
                    yield_point();
                    assert_eq!(shared.1.load(Ordering::Relaxed) % 2, 0);
                }
            });
        }
    });
}

#[test]
fn outside_of_a_run_locks_and_sleeps_are_those_of_the_host() {
    let parker = SimParker::new();
    let waker = Arc::clone(&parker);
    let counter = Arc::new(SimLock::new(0));
    let others = Arc::clone(&counter);
    let thread = std::thread::spawn(move || {
        *others.lock() += 1;
        waker.unpark();
    });
    parker.park();
    assert_eq!(*counter.lock(), 1);
    thread.join().expect("no panic");
}
