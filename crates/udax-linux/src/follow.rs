//! The fault thread goes to the processor where faults are taken, while one thread takes many in a row.
//!
//! A fault wakes the fault thread, and that wakes the thread that faulted. Where both are on one processor this is two switches, some 3 us;
//! where each wakes the other on an idle processor it is two interrupts and two ways out of idleness: 60 us in a virtual machine. The
//! scheduler by itself keeps them apart: when one wakes the other it has not gone to sleep yet, so another processor looks better.
//!
//! Whoever is kept to one processor waits there if somebody computes. So it is for a burst of one thread's only, which sleeps whenever the fault thread
//! works: after a fault of another thread, or a pause, the threads may run anywhere again.

use crate::call::Mailbox;
use crate::events::{Access, FaultEvent};
use crate::sys::sched::{self, Processors};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// A burst ends after such a pause.
const PAUSE: Duration = Duration::from_millis(5);
/// From one look at where the faulting thread is to the next, at least and at most. A look costs some microseconds.
const SOONEST: Duration = Duration::from_micros(500);
const LATEST: Duration = Duration::from_millis(8);
/// After so many moves without a look in between that found nothing to do it is left alone for [`GIVEN_UP`] faults, and twice as many each time: there are
/// more idle processors than one.
const MOVES: u32 = 8;
const GIVEN_UP: u64 = 256;
/// How long the processor that is left is kept busy at most, so that the thread that is woken does not go there.
const HELD: Duration = Duration::from_micros(200);

/// Where the fault thread is kept. It alone uses this.
pub(crate) struct Follower<'s> {
    /// The thread that moves memory for the fault thread, by its number, and where it takes jobs from.
    mover: &'s AtomicI32,
    jobs: &'s Mailbox,
    kept: Option<Kept>,
    burst: Burst,
}

/// Who is kept to one processor.
struct Kept {
    at: usize,
    /// The set of that processor alone, and those of before.
    set: Processors,
    before: Processors,
    mover_before: Option<Processors>,
}

/// What is to be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Stay,
    /// Going to that processor.
    Follow(usize),
    /// Being kept nowhere.
    LetGo,
}

/// The faults that come one after another from one thread.
#[derive(Default)]
struct Burst {
    thread: i32,
    last: Option<Instant>,
    /// When to look at where it is.
    next_look: Option<Instant>,
    interval: Duration,
    moves: u32,
    /// Faults that are left alone, and how many it will be the next time.
    given_up: u64,
    next_given_up: u64,
}

impl Burst {
    /// What is to be done about a fault of `thread`; `place` tells on which processor that is. It is kept at `kept_at`.
    fn step(
        &mut self,
        now: Instant,
        thread: i32,
        kept_at: Option<usize>,
        place: impl FnOnce() -> Option<usize>,
    ) -> Step {
        let last = self.last.replace(now);
        let goes_on = last.is_some_and(|last| now - last < PAUSE) && self.thread == thread;
        if !goes_on {
            (self.thread, self.interval, self.moves, self.next_look) = (thread, SOONEST, 0, None);
            return Step::LetGo;
        }
        if self.given_up > 0 {
            self.given_up -= 1;
            return Step::Stay;
        }
        if self.next_look.is_some_and(|next| now < next) {
            return Step::Stay;
        }
        let Some(place) = place() else { return Step::LetGo };
        if kept_at == Some(place) {
            self.moves = 0;
            self.next_look = Some(now + self.interval);
            self.interval = (self.interval * 2).min(LATEST);
            return Step::Stay;
        }
        self.moves += 1;
        // Whether it stays there is seen at the next fault.
        (self.interval, self.next_look) = (SOONEST, None);
        if self.moves < MOVES {
            return Step::Follow(place);
        }
        self.moves = 0;
        self.given_up = self.next_given_up.max(GIVEN_UP);
        self.next_given_up = self.given_up.saturating_mul(2);
        Step::LetGo
    }
}

impl<'s> Follower<'s> {
    /// On the fault thread, for which `mover` moves memory, taking `jobs`.
    pub(crate) fn new(mover: &'s AtomicI32, jobs: &'s Mailbox) -> Self {
        Self { mover, jobs, kept: None, burst: Burst::default() }
    }

    /// Runs `wake`, which wakes the thread of `fault`, so that it goes on where this thread is.
    pub(crate) fn beside(&mut self, fault: FaultEvent, wake: impl FnOnce()) {
        let place = || sched::shared_processor_of(fault.thread);
        match self.burst.step(
            Instant::now(),
            fault.thread,
            self.kept.as_ref().map(|kept| kept.at),
            place,
        ) {
            Step::Stay => wake(),
            Step::Follow(place) => self.follow(place, fault.access, wake),
            Step::LetGo => {
                self.let_go();
                wake();
            }
        }
    }

    fn follow(&mut self, place: usize, access: Access, wake: impl FnOnce()) {
        self.let_go();
        // Where that cannot be told, nothing is changed.
        let (Some(set), Ok(before)) = (Processors::one(place), Processors::of(0)) else {
            return wake();
        };
        // A processor may have been taken from the process meanwhile: then a thread stays where it is.
        let _ = set.keep(0);
        let held = Held::by(self.jobs);
        wake();
        drop(held);
        let mut kept = Kept { at: place, set, before, mover_before: None };
        // For stores it moves nothing, and others may want it.
        if access == Access::Read {
            let mover = self.mover.load(Ordering::Relaxed);
            kept.mover_before = Processors::of(mover).ok();
            let _ = kept.mover_before.map(|_| set.keep(mover));
        }
        self.kept = Some(kept);
    }

    /// How long to wait for a fault before [`let_go`](Self::let_go).
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.kept.as_ref().map(|_| PAUSE)
    }

    /// The threads may run where they might before, unless somebody else has said meanwhile where they are to run.
    pub(crate) fn let_go(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let release = |thread: i32, before: Processors| {
            if Processors::of(thread) == Ok(kept.set) {
                let _ = before.keep(thread);
            }
        };
        release(0, kept.before);
        if let Some(before) = kept.mover_before {
            release(self.mover.load(Ordering::Relaxed), before);
        }
    }
}

/// A processor that is kept busy, by a thread that was there last, until this is dropped.
struct Held(Arc<AtomicBool>);

impl Held {
    fn by(mailbox: &Mailbox) -> Self {
        let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (begin, end) = (Arc::clone(&begun), Arc::clone(&ended));
        mailbox.post(Box::new(move || {
            begin.store(true, Ordering::Release);
            spin_until(&end);
        }));
        spin_until(&begun);
        Self(ended)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn spin_until(flag: &AtomicBool) {
    let since = Instant::now();
    while !flag.load(Ordering::Acquire) && since.elapsed() < HELD {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Faults, each so long after the one before.
    struct Faults {
        burst: Burst,
        now: Instant,
        kept_at: Option<usize>,
        looks: u32,
    }

    impl Faults {
        fn new() -> Self {
            Self { burst: Burst::default(), now: Instant::now(), kept_at: None, looks: 0 }
        }

        fn fault(&mut self, after: Duration, thread: i32, place: Option<usize>) -> Step {
            self.now += after;
            let (looks, kept_at) = (&mut self.looks, self.kept_at);
            let step = self.burst.step(self.now, thread, kept_at, || {
                *looks += 1;
                place
            });
            match step {
                Step::Stay => {}
                Step::Follow(place) => self.kept_at = Some(place),
                Step::LetGo => self.kept_at = None,
            }
            step
        }
    }

    const SOON: Duration = Duration::from_micros(50);

    #[test]
    fn the_second_fault_of_a_thread_in_a_row_is_followed() {
        let mut faults = Faults::new();
        assert_eq!(faults.fault(SOON, 7, Some(3)), Step::LetGo);
        assert_eq!(faults.fault(SOON, 7, Some(3)), Step::Follow(3));
        assert_eq!(faults.fault(SOON, 7, Some(3)), Step::Stay);
        assert_eq!(faults.fault(2 * PAUSE, 7, Some(3)), Step::LetGo, "the burst is over");
        assert_eq!(faults.fault(SOON, 8, Some(3)), Step::LetGo, "another thread");
        assert_eq!(faults.fault(SOON, 7, Some(3)), Step::LetGo, "threads that take turns");
        assert_eq!(faults.looks, 2);
    }

    #[test]
    fn looks_become_rare_while_nothing_moves() {
        let mut faults = Faults::new();
        for _ in 0..2000 {
            faults.fault(SOON, 7, Some(1));
        }
        assert!(faults.looks < 25, "{} looks in 100 ms", faults.looks);
        assert_eq!(faults.kept_at, Some(1));
    }

    #[test]
    fn a_thread_that_does_not_stay_is_left_alone_for_longer_each_time() {
        let mut faults = Faults::new();
        for place in 0..10_000 {
            faults.fault(SOON, 7, Some(place));
        }
        assert!(faults.looks < 60, "{} looks in 10,000 faults", faults.looks);
        assert_eq!(faults.kept_at, None);
    }

    #[test]
    fn nobody_is_followed_to_a_place_that_is_not_to_be_had() {
        let mut faults = Faults::new();
        faults.fault(SOON, 7, Some(1));
        assert_eq!(faults.fault(SOON, 7, None), Step::LetGo);
    }
}
