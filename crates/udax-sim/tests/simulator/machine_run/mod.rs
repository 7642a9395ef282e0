//! A seeded torture of the engine: threads that do whatever files and mappings allow, bad luck, and a model of plain registers that says what must
//! be seen. Read in the order of the modules.
//!
//! What must be survived: every schedule of the threads; stale TLBs until they are shot down; failing allocations of tables, copies and index nodes;
//! failing calls of the file system and the media; no space; poison; pins; a held journal; a frozen file system; a power cut at any turn, with any
//! of the unflushed cache lines lost. What need not: a second failure of the very calls that mend a first one's traces, and callers that
//! break their duties (the inode lock).

#![allow(missing_docs, unreachable_pub, reason = "for tests")]

mod history;

mod model;

mod config;
mod report;
mod trouble;

mod scene;

mod access;
mod calls;
mod device;
mod worker;

mod quiet;

mod torture;

pub use report::Totals;
pub use torture::torture;
