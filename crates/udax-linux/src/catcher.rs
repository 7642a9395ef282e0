//! How faults come to the service, and how those who took them go on.

use crate::bounds::Bounds;
use crate::call::Done;
use crate::engine::Engine;
use crate::events::{FaultEvent, Verdict};
use crate::signals::Signals;
use crate::sys::mem;
use crate::userfaultfd::Userfaultfd;
use std::sync::Arc;
use std::time::Duration;

/// What catches the faults of a service.
pub(crate) enum Catcher {
    Userfaultfd(Userfaultfd),
    Signals(Signals),
}

/// A fault whose thread waits for it to be served.
pub(crate) struct Waiting {
    pub(crate) event: FaultEvent,
    how: How,
}

/// How it waits.
enum How {
    /// In the kernel, for a userfaultfd.
    InKernel,
    /// In a signal handler or not, for the answer to what it posted in that place.
    Posted(usize),
    /// For this to be said.
    Told(Arc<Done>),
}

impl Waiting {
    pub(crate) const fn in_kernel(event: FaultEvent) -> Self {
        Self { event, how: How::InKernel }
    }

    pub(crate) const fn posted(event: FaultEvent, place: usize) -> Self {
        Self { event, how: How::Posted(place) }
    }

    pub(crate) const fn told(event: FaultEvent, done: Arc<Done>) -> Self {
        Self { event, how: How::Told(done) }
    }

    /// Whether a thread has met the fault, and did not only tell of it.
    pub(crate) const fn was_met(&self) -> bool {
        match self.how {
            How::InKernel => true,
            How::Posted(_) => self.event.thread != 0,
            How::Told(_) => false,
        }
    }
}

impl Catcher {
    pub(crate) const fn engine(&self) -> Engine {
        match self {
            Self::Userfaultfd(uffd) => uffd.engine(),
            Self::Signals(_) => Engine::Signals,
        }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        match self {
            Self::Userfaultfd(uffd) => &uffd.bounds,
            Self::Signals(signals) => signals.bounds(),
        }
    }

    /// The next fault to serve. On `udax-fault`.
    pub(crate) fn next(&self) -> Option<Waiting> {
        match self {
            Self::Userfaultfd(uffd) => uffd.next(),
            Self::Signals(signals) => signals.next(),
        }
    }

    /// Waits for one, `at_most` so long; whether there may be one. On `udax-fault`.
    pub(crate) fn wait(&self, at_most: Option<Duration>) -> bool {
        match self {
            Self::Userfaultfd(uffd) => uffd.wait(at_most),
            Self::Signals(signals) => signals.wait(at_most),
        }
    }

    /// Lets whoever waits for a fault go on. On `udax-fault`.
    pub(crate) fn answer(&self, waiting: Waiting, verdict: Verdict) {
        match (waiting.how, self) {
            (How::Told(done), _) => done.say(),
            (How::InKernel, Self::Userfaultfd(uffd)) => {
                uffd.wake(waiting.event.address, mem::PAGE);
            }
            (How::Posted(place), Self::Signals(signals)) => signals.answer(place, verdict),
            // Each makes its own.
            (How::InKernel, Self::Signals(_)) | (How::Posted(_), Self::Userfaultfd(_)) => {}
        }
    }
}
