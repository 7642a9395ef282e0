//! What Linux's DAX did with small workloads, line by line, and whether the engine on the simulator does the same. For tests only.
//!
//! Read in the order of the modules below; `docs/conformance.md` lists every difference that is allowed, and why.
#![forbid(unsafe_code)]

pub mod script;

pub mod recording;

pub mod flavour;

pub mod player;

pub mod rules;

pub mod compare;

pub mod folder;
