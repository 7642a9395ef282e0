//! The DAX fault engine: mapping entries, their locks, faults, writeback and truncation, for any operating system.
//!
//! It knows neither memory nor time nor threads: those come in through the traits of the seams ([`World`]). Read the modules in
//! the order below; `docs/concurrency.md` holds the argument for every lock.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod entry;
mod error;
mod seams;
mod units;

mod index;
mod interrupt;
mod waits;

mod fault_lock;
mod trace;
mod vma;

mod grab;
mod lock;
mod mapping;

mod collapse;
mod fault;
mod io;
mod reflink;
mod remove;
mod writeback;

#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;

pub use collapse::{Collapsed, NotCollapsed};
pub use entry::{Entry, FRAME_LIMIT, Kind};
pub use error::{InstallError, IoError, IoErrorKind};
pub use fault::{Access, Fault, FaultOutcome, NotHuge, Served};
pub use interrupt::Interrupt;
pub use mapping::{Dax, EntryReport, Mapping};
pub use seams::{
    AddressSpace, Backing, Counter, Filesystem, Guarded, Intent, Iomap, Media, MediaAccess, Owner,
    Parker, Platform, Pmd, PrivateCopies, Rights, ShortLock, World, WriteTracking,
};
pub use trace::{FaultFlags, FaultPlace, FaultResult, Inode, TraceEvent, Tracer};
pub use units::{
    Frame, FrameRange, Order, PAGE_BYTES, PAGE_SHIFT, PMD_BYTES, PMD_PAGES, PMD_SHIFT, PageIndex,
    PageRange,
};
pub use vma::{Durability, HugePages, Sharing, Vma};
