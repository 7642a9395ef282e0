//! The simulated world that the engine's tests run on: a scheduler with a seed, a media that remembers what is durable, a small
//! file system, and a machine with page tables and CPUs whose TLBs go stale. The engine cannot tell it from the real thing.
//!
//! Read in the order of the modules below.
#![forbid(unsafe_code)]

mod prng;
mod sched;
mod together;

mod platform;

mod plan;

mod cache;
mod media;
mod owners;

mod extents;
mod space_map;

mod fs;

mod file;

mod copies;

mod contents;
mod fallocate;

mod mmu;
mod tlb;

mod machine;
mod space;
mod vma;

mod process;
mod thread;

mod world;

mod model;

pub use cache::{Evicted, Image};
pub use file::{FileExtent, FsCall, SimFile};
pub use fs::SimFs;
pub use machine::{HugeZero, Machine, PrivateStores, Protection, Shootdown, VmaLayout};
pub use media::{MediaCall, MediaConfig, MediaEvent, SimMedia, StoreBy};
pub use model::FileModel;
pub use plan::Plan;
pub use platform::{
    ExclusiveHold, SharedHold, SharedLock, SimCounter, SimGuard, SimLock, SimParker, SimPlatform,
    WaitQueue,
};
pub use prng::Prng;
pub use process::{Congruence, Fork, Process, Target, Translation};
pub use sched::{Failure, FailureKind, Run, explore, explore_then, note, run, steps, yield_point};
pub use space::SimSpace;
pub use space_map::{Freed, Placement};
pub use thread::{AccessError, SimThread};
pub use vma::{FaultRequest, SimVma};
pub use world::SimWorld;
