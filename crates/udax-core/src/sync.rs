//! The one place that says where atomics come from, so that a checker of schedules can supply its own.

pub(crate) use core::sync::atomic::{AtomicUsize, Ordering};
