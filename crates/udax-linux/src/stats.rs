//! Counters of what was done to real memory.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one service; each only grows, and they are not read as of one moment.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The same counters as numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The counters now.
            #[must_use]
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Page faults that came to the fault thread.
    faults,
    /// Zero windows put in place.
    windows_opened,
    /// Pages in them.
    window_pages,
    /// Times that a mapping of the file was put in place.
    plain_installs,
    /// Pages in them.
    plain_pages,
    /// Private copies carried over into a mapping of the file.
    private_copies_kept,
    /// Emptied pieces of zero windows that were filled again.
    repairs,
    /// Leases that somebody broke.
    lease_breaks,
    /// Ranges moved into place by mremap.
    moves,
}

/// System calls that this process has made for udax and that change memory, or ask about it or about a file. Calls that only wait are not counted.
#[must_use]
pub fn calls_made() -> u64 {
    crate::sys::calls_made()
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
