//! The search for every schedule finds what every schedule comes to, and no more often than it must.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use udax_check::{Bound, Checker, Reach, SearchPlatform, search_model};
use udax_core::{Counter, Guarded, Parker, Platform, ShortLock};

type P = SearchPlatform;

/// What is under a lock here; what is in it can be told, or not.
#[derive(Default)]
struct Notes {
    of: Vec<u32>,
    is_secret: bool,
}

impl Guarded for Notes {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        self.of.hash(&mut state);
        !self.is_secret
    }
}

type Lock = <P as Platform>::Lock<Notes>;
type Number = <P as Platform>::Counter;

const EVERYTHING: Bound = Bound { preemptions: None, time: Duration::MAX };

fn lock(is_secret: bool) -> Arc<Lock> {
    Arc::new(ShortLock::new(Notes { is_secret, ..Notes::default() }))
}

fn note(lock: &Lock, number: u32) {
    lock.lock().of.push(number);
}

/// What the executions of a model came to, each result once.
fn results<T: Ord + Send + 'static>(
    bound: Bound,
    model: impl Fn() -> T + Send + Sync + 'static,
) -> (BTreeSet<T>, usize) {
    let results = Arc::new(Mutex::new(BTreeSet::new()));
    let model = Arc::new(model);
    let explored = search_model(bound, {
        let results = Arc::clone(&results);
        move || {
            let result = model();
            results.lock().expect("no model fails").insert(result);
        }
    });
    let results = std::mem::take(&mut *results.lock().expect("no model fails"));
    (results, explored.executions)
}

/// Threads that each note their number so often, and what is noted in the end.
fn notes(threads: u32, times: u32, is_secret: bool) -> Vec<u32> {
    let lock = lock(is_secret);
    let spawn = |number| {
        let lock = Arc::clone(&lock);
        P::spawn(move || (0..times).for_each(|_| note(&lock, number)))
    };
    let started: Vec<_> = (0..threads).map(spawn).collect();
    started.into_iter().for_each(P::join);
    let notes = lock.lock();
    notes.of.clone()
}

#[test]
fn every_order_of_two_and_of_three_threads() {
    for is_secret in [false, true] {
        // 6 over 3, and 6 by 2 by 2 by 2.
        assert_eq!(results(EVERYTHING, move || notes(2, 3, is_secret)).0.len(), 20);
        assert_eq!(results(EVERYTHING, move || notes(3, 2, is_secret)).0.len(), 90);
    }
}

#[test]
fn so_many_preemptions_and_no_more() {
    let orders = |preemptions| {
        let bound = Bound { preemptions: Some(preemptions), time: Duration::MAX };
        results(bound, || notes(2, 2, false)).0
    };
    // Whoever begins goes on to its end.
    assert_eq!(orders(0), BTreeSet::from([vec![0, 0, 1, 1], vec![1, 1, 0, 0]]));
    let all = results(EVERYTHING, || notes(2, 2, false)).0;
    assert_eq!(orders(1).len(), 4, "0110 and 1001 besides");
    assert_eq!(orders(2), all);
    assert_eq!(all.len(), 6);
}

#[test]
fn threads_that_only_look_are_not_tried_in_every_order() {
    let (lengths, executions) = results(EVERYTHING, || {
        let lock = lock(true);
        let look = || {
            let lock = Arc::clone(&lock);
            P::spawn(move || (0..5).for_each(|_| assert!(lock.lock().of.is_empty())))
        };
        let (one, other) = (look(), look());
        P::join(one);
        P::join(other);
        let notes = lock.lock();
        notes.of.len()
    });
    assert_eq!(lengths, BTreeSet::from([0]));
    // One for each point of the one beside each of the other, where it is found that it makes no difference.
    assert!(executions < 50, "{executions} executions of 252 orders");
}

#[test]
fn a_step_tells_nothing_but_what_it_says() {
    let look = |tells: bool| {
        results(EVERYTHING, move || {
            let lock = lock(false);
            let writer = {
                let lock = Arc::clone(&lock);
                P::spawn(move || {
                    for number in 0..8 {
                        note(&lock, number);
                    }
                    lock.lock().of.clear();
                })
            };
            for _ in 0..8 {
                let look = || assert!(lock.lock().of.len() <= 8);
                if tells { look() } else { P::step(look, |&()| ()) }
            }
            P::join(writer);
        })
        .1
    };
    let (all, few) = (look(true), look(false));
    assert!(few * 10 < all, "{few} executions if the looker forgets, {all} if it does not");
}

#[test]
fn a_lost_update_is_found() {
    let (counts, _) = results(EVERYTHING, || {
        let lock = lock(false);
        let add = {
            let lock = Arc::clone(&lock);
            move || {
                let seen = lock.lock().of.len();
                lock.lock().of.resize(seen + 1, 0);
            }
        };
        let other = P::spawn(add.clone());
        add();
        P::join(other);
        let notes = lock.lock();
        notes.of.len()
    });
    assert_eq!(counts, BTreeSet::from([1, 2]));
}

#[test]
fn locks_taken_in_two_orders_are_found() {
    let failed = catch_unwind(AssertUnwindSafe(|| {
        search_model(EVERYTHING, || {
            let (one, other) = (lock(false), lock(false));
            let thread = {
                let (one, other) = (Arc::clone(&one), Arc::clone(&other));
                P::spawn(move || {
                    let _held = one.lock();
                    note(&other, 1);
                })
            };
            {
                let _held = other.lock();
                note(&one, 2);
            }
            P::join(thread);
        })
    }));
    let what = failed.expect_err("it is stuck in some schedule");
    let what = what.downcast_ref::<String>().expect("a message");
    assert!(what.contains("nobody can go on"), "{what}");
}

#[test]
fn a_wake_is_not_lost_and_hands_over_what_was_known() {
    let (seen, _) = results(EVERYTHING, || {
        let number = Arc::new(Number::new(0));
        let parker = <P as Platform>::Parker::new();
        let waker = {
            let (number, parker) = (Arc::clone(&number), Arc::clone(&parker));
            P::spawn(move || {
                number.store(1);
                parker.unpark();
            })
        };
        parker.park();
        let seen = number.load();
        P::join(waker);
        seen
    });
    assert_eq!(seen, BTreeSet::from([1]));
}

/// A number and a note, written by one thread in this order, looked at by another in the other.
fn published(is_ordered: bool) -> (bool, usize) {
    let number = Arc::new(Number::new(0));
    let lock = lock(false);
    let writer = {
        let (number, lock) = (Arc::clone(&number), Arc::clone(&lock));
        P::spawn(move || {
            if is_ordered {
                number.store(1);
                note(&lock, 1);
            } else {
                note(&lock, 1);
                number.store(1);
            }
        })
    };
    let is_noted = !lock.lock().of.is_empty();
    let seen = number.load();
    P::join(writer);
    (is_noted, seen)
}

#[test]
fn a_number_is_old_unless_a_lock_has_ordered_its_reader_behind_the_writer() {
    let (ordered, _) = results(EVERYTHING, || published(true));
    assert_eq!(ordered, BTreeSet::from([(false, 0), (false, 1), (true, 1)]));
    let (unordered, _) = results(EVERYTHING, || published(false));
    assert_eq!(unordered, BTreeSet::from([(false, 0), (false, 1), (true, 0), (true, 1)]));
}

#[test]
fn a_number_does_not_go_back() {
    let (seen, _) = results(EVERYTHING, || {
        let number = Arc::new(Number::new(0));
        let writer = {
            let number = Arc::clone(&number);
            P::spawn(move || (1..=2).for_each(|value| number.store(value)))
        };
        let seen = (number.load(), number.load());
        P::join(writer);
        (seen, number.load())
    });
    let all = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)].map(|seen| (seen, 2));
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn whoever_yields_goes_on_when_something_was_written() {
    let (tries, _) = results(EVERYTHING, || {
        let lock = lock(false);
        let writer = {
            let lock = Arc::clone(&lock);
            P::spawn(move || note(&lock, 1))
        };
        let mut tries = 0;
        while lock.lock().of.is_empty() {
            tries += 1;
            P::yield_now();
        }
        P::join(writer);
        tries
    });
    assert_eq!(tries, BTreeSet::from([0, 1]));
}

#[test]
fn a_search_ends_in_its_time() {
    let bound = Bound { preemptions: None, time: Duration::ZERO };
    let explored = search_model(bound, || {
        notes(3, 3, true);
    });
    assert_eq!((explored.executions, explored.reach), (1, None));
    let explored = search_model(EVERYTHING, || {
        notes(1, 1, true);
    });
    assert_eq!(explored.reach, Some(Reach::All));
}
