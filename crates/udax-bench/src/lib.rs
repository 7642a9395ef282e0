//! The engine alone: its entry lock, its index, and whole faults on page tables that cost nothing, beside what does the same work elsewhere.
//!
//! Here is the work; who calls it takes the time, or counts instructions: `udax bench`, and the benches of this crate (`cargo bench -p udax-bench`).
#![forbid(unsafe_code)]

mod entries;
mod faults;
mod locks;
mod world;

pub use entries::{Entries, InBTreeMap, InIndex};
pub use faults::{hole_faults, write_faults};
pub use locks::{EntryLock, EntryWord};
