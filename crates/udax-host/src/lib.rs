//! Files of the mounted file systems (ext2/3/4, XFS, btrfs, tmpfs) as the engine's `Filesystem` and `Media`.
//!
//! The storage frame of a page is the page's own offset in the file, so colours always agree, and what "mapped" means is that
//! the host kernel's own mapping is to be shown. What is left to know here is where the holes are, and that is kept in
//! a map of its pages: [`HostFile`] says how they are learnt, and why that is never done while a fault waits.
#![forbid(unsafe_code)]

mod extents;
mod file;
mod holes;
mod io;
mod kind;
mod range_set;

pub use extents::{Extent, ExtentKind, Extents, extents};
pub use file::{HostFile, Survey};
pub use holes::SMALLEST_HOLE;
pub use io::{FdIo, HostIo};
pub use kind::HostKind;
pub use range_set::RangeSet;
