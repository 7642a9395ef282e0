//! Faults by SIGSEGV, where no userfaultfd is to be had: traps are memory without rights, zeros are memory that can only be read, and the thread that meets
//! either posts the fault from its signal handler and waits there. What is served is served by the same threads as ever.
//!
//! The kernel's own accesses, for system calls, fail with `EFAULT`: what they touch has to be prepared, as with a userfaultfd for user mode.

mod action;
mod context;
mod handler;
mod posts;
mod stand_in;

pub use action::{SegvAction, Writing};
pub use handler::{
    blocked_by_stand_in, exchange, exchange_of, handles_segv, install, is_our_handler,
};
pub use stand_in::{STAND_IN, kernel_set, program_set, sent_with};

use crate::bounds::Bounds;
use crate::catcher::Waiting;
use crate::events::{FaultEvent, Verdict};
use crate::sys::errno::Errno;
use posts::Posts;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the service has of it.
pub(crate) struct Signals {
    posts: &'static Posts,
    /// Where to look first for the next, so that all have their turn.
    from: AtomicUsize,
}

impl Signals {
    /// Installs the handler of the process, if that is not done yet.
    pub(crate) fn new() -> Result<Self, Errno> {
        let posts = Posts::new()?;
        if !handler::install() {
            return Err(Errno::INVAL);
        }
        Ok(Self { posts, from: AtomicUsize::new(0) })
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.posts.bounds
    }

    /// Has a fault served that nobody has met. Not on `udax-fault`, and with no lock held that a fault needs.
    pub(crate) fn ask(&self, event: FaultEvent) {
        self.posts.ask(FaultEvent { thread: 0, ..event });
    }

    pub(crate) fn next(&self) -> Option<Waiting> {
        let (place, event) = self.posts.take(self.from.load(Ordering::Relaxed))?;
        self.from.store(place + 1, Ordering::Relaxed);
        Some(Waiting::posted(event, place))
    }

    pub(crate) fn wait(&self, at_most: Option<Duration>) -> bool {
        self.posts.wait(at_most)
    }

    pub(crate) fn answer(&self, place: usize, verdict: Verdict) {
        self.posts.answer(place, verdict);
    }
}
