//! When what could go wrong: an operation may fail only for a reason that was there while it ran.

use super::history::{OPEN, Tick};
use udax_core::{IoError, IoErrorKind};

/// A reason to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Memory,
    Calls,
    Space,
    Poison,
}

/// From when to when each reason was there.
#[derive(Debug, Default)]
pub struct Excuses {
    spans: Vec<(Reason, Tick, Tick)>,
}

impl Excuses {
    /// From now on.
    pub fn arm(&mut self, reason: Reason, now: Tick) {
        self.spans.push((reason, now, OPEN));
    }

    /// No more.
    pub fn disarm(&mut self, reason: Reason, now: Tick) {
        let open = self.spans.iter_mut().filter(|(what, _, end)| *what == reason && *end == OPEN);
        open.for_each(|(_, _, end)| *end = now);
    }

    /// Whether `reason` was there at any time between `from` and `to`.
    pub fn was(&self, reason: Reason, from: Tick, to: Tick) -> bool {
        self.spans.iter().any(|(what, begin, end)| *what == reason && *begin <= to && *end >= from)
    }

    /// Whether there was a reason for `error`.
    pub fn excuse(&self, error: IoError, from: Tick, to: Tick) -> bool {
        let was = |reason| self.was(reason, from, to);
        was(Reason::Calls)
            || match error.kind {
                IoErrorKind::NoMemory => was(Reason::Memory),
                IoErrorKind::NoSpace => was(Reason::Space),
                // A copy that meets poison half-way comes out short.
                IoErrorKind::Poisoned | IoErrorKind::Io => was(Reason::Poison),
                IoErrorKind::WouldBlock | IoErrorKind::Interrupted | IoErrorKind::OutOfRange => {
                    false
                }
            }
    }
}
