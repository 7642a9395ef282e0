//! A fault, from the access that caused it to the translation that serves it (SEMANTICS 5).

mod extent;
mod insert;
mod pmd;
mod pte;
mod request;
mod serve;
mod sync;

pub use pmd::NotHuge;
pub use request::{Access, Fault, FaultOutcome, Served};
