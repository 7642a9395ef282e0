//! The fault thread goes to the processor where faults are taken.
//!
//! A fault wakes the fault thread, and that wakes the thread that faulted. Where both are on one processor this is two switches, some 2 us;
//! where each wakes the other on an idle processor it is two interrupts and two ways out of idleness: 50 to 100 us in a virtual machine. The
//! scheduler by itself keeps them apart: when one wakes the other it has not gone to sleep yet, so another processor looks better. Once
//! together they stay so, as the scheduler then looks where a thread was before.

use crate::call::Mailbox;
use crate::sys::sched::{self, Processors};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Faults from one look to the next, at least and at most. A look costs some microseconds.
const SOONEST: u32 = 4;
const LATEST: u32 = 64;
/// A fault after so long a pause is looked at in any case: the scheduler may have moved things, and a burst may begin.
const PAUSE: Duration = Duration::from_micros(200);
/// After so many moves in a row it is left alone for [`GIVEN_UP`] faults: there are more idle processors than one, or more threads.
const MOVES: u32 = 16;
const GIVEN_UP: u32 = 256;
/// How long the processor that is left is kept busy at most, so that the thread that is woken does not go there.
const HELD: Duration = Duration::from_micros(200);

/// Where the fault thread is kept. It alone uses this.
pub(crate) struct Follower {
    wanted: bool,
    /// Faults until the next look.
    until_look: u32,
    /// What that was at the beginning.
    interval: u32,
    /// Moves without a look in between that found nothing to do.
    moves: u32,
    given_up: u32,
    last: Option<Instant>,
    kept_at: Option<usize>,
}

impl Follower {
    /// Off unless `UDAX_FOLLOW=1`: with it a test of random operations on several mappings of one file saw an old zero in one run of 300, and why is not known yet.
    pub(crate) fn new() -> Self {
        Self {
            wanted: std::env::var_os("UDAX_FOLLOW").is_some_and(|value| value == "1"),
            until_look: 0,
            interval: 0,
            moves: 0,
            given_up: 0,
            last: None,
            kept_at: None,
        }
    }

    /// Runs `wake`, which wakes `thread`, so that it goes on where this thread is. `others` are kept here as well; the first of them takes jobs
    /// from `first`.
    pub(crate) fn beside(
        &mut self,
        thread: i32,
        others: &[AtomicI32],
        first: &Mailbox,
        wake: impl FnOnce(),
    ) {
        if !self.wanted {
            return wake();
        }
        let now = Instant::now();
        let paused = self.last.replace(now).is_none_or(|last| now - last >= PAUSE);
        if self.given_up > 0 || (self.until_look > 0 && !paused) {
            self.given_up = self.given_up.saturating_sub(1);
            self.until_look = self.until_look.saturating_sub(1);
            return wake();
        }
        let place = sched::processor_of(thread);
        if place.is_none() || place == self.kept_at {
            self.interval = (self.interval * 2).clamp(SOONEST, LATEST);
            self.moves = 0;
            self.until_look = self.interval;
            return wake();
        }
        self.moves += 1;
        self.interval = SOONEST;
        self.until_look = SOONEST;
        if self.moves == MOVES {
            (self.moves, self.given_up) = (0, GIVEN_UP);
        }
        sched::short_slices();
        self.kept_at = place;
        let set = place.and_then(Processors::one);
        // A processor may have been taken from the process meanwhile: then a thread stays where it is.
        let keep = |thread| {
            let _ = set.map(|set| set.keep(thread));
        };
        keep(0);
        let held = Held::by(first);
        wake();
        drop(held);
        others.iter().for_each(|other| keep(other.load(Ordering::Relaxed)));
    }
}

/// A processor that is kept busy, by a thread that has been kept there, until this is dropped.
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
