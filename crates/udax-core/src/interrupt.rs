//! Ending a wait for an entry early (docs/concurrency.md, W9).

use crate::seams::{Guarded, Parker, Platform, ShortLock};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// By a wake, which has taken the waiter out of its bucket.
    Woken,
    /// By a request; a wake may have come as well.
    Interrupted,
}

struct State<P: Platform> {
    requested: bool,
    waiting: Vec<Arc<P::Parker>>,
}

impl<P: Platform> Guarded for State<P> {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        self.requested.hash(&mut state);
        self.waiting.is_empty()
    }
}

/// By which others end the waits of a thread: a signal that has come, a deadline.
///
/// One for each thread that is to be interrupted by itself; threads that share one are interrupted together. It stays requested, so that
/// waits that begin later end at once as well, until [`clear`](Self::clear).
#[doc(alias = "fatal_signal_pending")]
pub struct Interrupt<P: Platform> {
    state: P::Lock<State<P>>,
}

impl<P: Platform> Default for Interrupt<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Interrupt<P> {
    /// Nothing is requested.
    #[must_use]
    pub fn new() -> Self {
        Self { state: ShortLock::new(State { requested: false, waiting: Vec::new() }) }
    }

    /// Ends the waits under way, and those to come. Takes short locks only, never waits.
    pub fn request(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.requested = true;
            core::mem::take(&mut state.waiting)
        };
        for parker in waiting {
            parker.unpark();
        }
    }

    /// Lets waits be as long as they are again.
    pub fn clear(&self) {
        self.state.lock().requested = false;
    }

    /// Whether waits end at once.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.state.lock().requested
    }

    /// Sleeps until `parker` is unparked, by a wake or by a request.
    pub(crate) fn park(&self, parker: &Arc<P::Parker>) -> Slept {
        {
            let mut state = self.state.lock();
            if state.requested {
                return Slept::Interrupted;
            }
            state.waiting.push(Arc::clone(parker));
        }
        parker.park();
        let mut state = self.state.lock();
        // Who is not there any more was taken by a request, even if that has been cleared since: the waiter is in its bucket still, and
        // would swallow a wake there if it went on.
        let place = state.waiting.iter().position(|other| Arc::ptr_eq(other, parker));
        let Some(place) = place else { return Slept::Interrupted };
        state.waiting.swap_remove(place);
        Slept::Woken
    }
}
