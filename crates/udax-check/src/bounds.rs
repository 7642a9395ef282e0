//! How far the tests explore, and what that came to.

use crate::explore::{Bound, Explored, Reach, explore, search};
use crate::ops::{Op, Start};
use crate::rig::Layout;
use std::collections::BTreeMap;
use std::time::Duration;

/// Preemptions with which loom explores every model.
const FEW: usize = 2;

/// Preemptions with which every model is explored to its end where all was asked for, however long it takes.
const LEAST: usize = 3;

/// Whether every bound is to be lifted.
fn all() -> bool {
    std::env::var("UDAX_CHECK").is_ok_and(|value| value == "all")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How long one step of a search may take.
fn time() -> Duration {
    Duration::from_secs(number("UDAX_CHECK_SECONDS").unwrap_or(10))
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

/// Explores one model: by loom under schedules with few preemptions; then by the search, if there are two threads, under every schedule. More threads are
/// searched where all was asked for, as far as that goes in its time.
///
/// # Panics
/// If anything is found that may not be; stderr then names the model.
pub fn check(start: Start, ops: &[Op], layout: Layout) -> Explored {
    let name = Name(format!("{start:?} {ops:?}"));
    if std::env::var("UDAX_CHECK_ONLY").is_ok_and(|only| !name.0.contains(&only)) {
        return Explored::NONE;
    }
    let by = std::env::var("UDAX_CHECK_BY").unwrap_or_default();
    if by != "search" {
        let few = Bound { preemptions: Some(FEW), time: Duration::MAX };
        let explored = explore(start, ops, layout, few);
        if by == "loom" || (ops.len() > 2 && !all()) {
            return explored;
        }
    }
    let explored = if ops.len() > 2 {
        deepen(start, ops, layout)
    } else {
        search(start, ops, layout, Bound { preemptions: None, time: Duration::MAX })
    };
    if all() {
        println!("{}: {explored}", name.0);
    }
    explored
}

/// Every schedule, if that can be had in the time that a step may take. Else those with so many preemptions, and then with one more, as long as that
/// takes no longer.
fn deepen(start: Start, ops: &[Op], layout: Layout) -> Explored {
    let mut sum = Explored::NONE;
    let mut step = |preemptions, time| {
        let explored = search(start, ops, layout, Bound { preemptions, time });
        sum.executions += explored.executions;
        sum.states += explored.states;
        sum.time += explored.time;
        if let Some(reach) = explored.reach {
            sum.reach = Some(reach);
        }
        explored.reach.is_some()
    };
    if step(None, time()) {
        return sum;
    }
    let mut preemptions = LEAST;
    let mut limit = Duration::MAX;
    while step(Some(preemptions), limit) {
        (preemptions, limit) = (preemptions + 1, time());
    }
    sum
}

/// Sums over models, for the table of docs/testing.md. Printed when dropped, if all was asked for.
pub struct Totals {
    name: String,
    executions: usize,
    states: usize,
    time: Duration,
    /// How many models each bound was reached by.
    reached: BTreeMap<Option<Reach>, usize>,
}

impl Totals {
    /// Nothing yet, under a name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (executions, states, time, reached) = (0, 0, Duration::ZERO, BTreeMap::new());
        Self { name: name.to_owned(), executions, states, time, reached }
    }

    /// Adds a model's.
    pub fn add(&mut self, explored: Explored) {
        if explored.executions == 0 {
            return;
        }
        self.executions += explored.executions;
        self.states += explored.states;
        self.time += explored.time;
        *self.reached.entry(explored.reach).or_default() += 1;
    }
}

impl Drop for Totals {
    fn drop(&mut self) {
        if !all() {
            return;
        }
        let Self { name, executions, states, time, reached } = self;
        let seconds = time.as_secs_f64();
        let models: usize = reached.values().sum();
        print!(
            "TOTAL {name}: {models} models, {states} states, {executions} executions, {seconds:.1} s"
        );
        for (reach, models) in reached {
            match reach {
                Some(reach) => print!("; {models}: {reach}"),
                None => print!("; {models}: cut off"),
            }
        }
        println!();
    }
}
