//! How far the tests explore, and what that came to.

use crate::explore::{Bound, Explored, explore};
use crate::ops::{Op, Start};
use crate::rig::Layout;
use std::time::Duration;

/// The bound for what is cut off without one.
const FALLBACK_PREEMPTIONS: usize = 6;

/// Whether every bound is to be lifted.
fn all() -> bool {
    std::env::var("UDAX_CHECK").is_ok_and(|value| value == "all")
}

/// What is explored with so many threads.
fn bound(threads: usize) -> Bound {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let preemptions = match (all(), threads) {
        (true, ..=2) => None,
        (true, _) => Some(3),
        (false, ..=2) => Some(3),
        (false, _) => Some(2),
    };
    let seconds = number("UDAX_CHECK_SECONDS").unwrap_or(60);
    Bound {
        preemptions: number("UDAX_CHECK_PREEMPTIONS")
            .and_then(|n| usize::try_from(n).ok())
            .or(preemptions),
        time: Duration::from_secs(seconds),
    }
}

/// Says which model it was when a test fails.
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the model {}", self.0);
        }
    }
}

/// Explores one model within the bounds that the environment sets.
///
/// # Panics
/// If anything is found that may not be; stderr then names the model.
pub fn check(start: Start, ops: &[Op], layout: Layout) -> Explored {
    let name = Name(format!("{start:?} {ops:?}"));
    if std::env::var("UDAX_CHECK_ONLY").is_ok_and(|only| !name.0.contains(&only)) {
        return Explored { executions: 0, time: Duration::ZERO, complete: true };
    }
    let wanted = bound(ops.len());
    let mut explored = explore(start, ops, layout, wanted);
    if all() {
        println!("{}: {explored}", name.0);
    }
    if !explored.complete && wanted.preemptions.is_none() {
        // Not every schedule in that time; then all of those that switch threads so often.
        let bound = Bound { preemptions: Some(FALLBACK_PREEMPTIONS), time: Duration::MAX };
        let bounded = explore(start, ops, layout, bound);
        println!("{}: with {FALLBACK_PREEMPTIONS} preemptions {bounded}", name.0);
        explored.executions += bounded.executions;
        explored.time += bounded.time;
    }
    explored
}

/// Sums over models, for the table of docs/testing.md. Printed when dropped, if all was asked for.
pub struct Totals {
    name: String,
    models: usize,
    executions: usize,
    time: Duration,
    cut_off: usize,
}

impl Totals {
    /// Nothing yet, under a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), models: 0, executions: 0, time: Duration::ZERO, cut_off: 0 }
    }

    /// Adds a model's.
    pub fn add(&mut self, explored: Explored) {
        self.models += 1;
        self.executions += explored.executions;
        self.time += explored.time;
        self.cut_off += usize::from(!explored.complete);
    }
}

impl Drop for Totals {
    fn drop(&mut self) {
        if !all() {
            return;
        }
        let Self { name, models, executions, time, cut_off } = self;
        println!(
            "TOTAL {name}: {models} models, {executions} executions, {:.1} s, {cut_off} cut off",
            time.as_secs_f64()
        );
    }
}
