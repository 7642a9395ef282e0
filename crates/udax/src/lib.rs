//! udax: map any sparse file directly. Loads from holes cost no memory, stores reach the file.
//!
//! Shaped like `memmap2`: change one `use` line.
//!
//! ```no_run
//! use udax::MmapOptions;
//! # fn main() -> std::io::Result<()> {
//! let file = std::fs::OpenOptions::new().read(true).write(true).open("sparse.bin")?;
//! // SAFETY: nobody truncates or changes the file while the slice is in use.
//! let mut map = unsafe { MmapOptions::new().map_mut(&file)? };
//! let sum: u64 = map.iter().map(|&byte| u64::from(byte)).sum();
//! map[0] = 1;
//! map.flush()?;
//! # let _ = sum; Ok(()) }
//! ```
//!
//! How it works, and what it guarantees: ARCHITECTURE.md and docs/concurrency.md. Whatever cannot be served stays a plain mapping, which is
//! always right; [`Mmap::report`] says what and why.
#![deny(unsafe_code)]

mod world;

mod descriptors;
mod eligible;
mod in_flight;

mod regions;
mod served;
mod window;

mod audit;
mod calls;
mod faults;
mod fork;
mod give_back;
mod prepare;
mod runtime;
mod tainted;

pub mod program;
mod statistics;
mod trace;

mod advice;
mod file;
mod kept;
mod mmap;
mod no_space;
mod opened;
mod process;
mod report;
mod shared_map;

pub use advice::Advice;
pub use file::File;
pub use mmap::{Mmap, MmapMut, MmapOptions};
pub use no_space::{NoSpace, WithoutSpace};
pub use prepare::{Prepared, prepare_to_be_read, prepare_to_be_written};
pub use process::statistics;
pub use report::{MapReport, UnitReport, UnitState};
pub use shared_map::SharedMap;
pub use statistics::{Ended, FileStatistics, PassedThrough, Statistics};
pub use udax_linux::{Engine, Errno};

/// What is read from outside, for the fuzzer.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::descriptors::fuzzing as maps;
}
