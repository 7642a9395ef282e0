//! The engine under two checkers of schedules, in a world so small that loom sees all of it.
//!
//! [`Rig`] is one file, one storage and two or three VMAs; its state lives in the platform's own locks, since a checker prunes whatever it
//! cannot see. [`Op`] is what a thread does to it, [`Start`] what was there before. The same bodies run under [`LoomPlatform`]
//! (every schedule of a few calls) and under [`ShuttlePlatform`] (some schedules of many). `docs/concurrency.md` says what neither can see.
#![forbid(unsafe_code)]

mod disk;
mod platform;
mod tables;

mod cpu;
mod ops;
mod quiet;
mod rig;

mod bounds;
mod explore;
mod search;

pub use bounds::{Totals, check};
pub use cpu::Shown;
pub use disk::{Disk, File, Storage, TRACKED};
pub use explore::{Bound, Explored, Reach, explore, run, search, search_model};
pub use ops::{Op, Start};
pub use platform::{Checker, LoomPlatform, SearchPlatform, ShuttlePlatform};
pub use rig::{Layout, Model, Rig, Which};
pub use tables::{Space, Tables};
