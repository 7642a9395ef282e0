//! Running a model under one of the two that try schedules, and saying what it came to.

use crate::ops::{Op, Start};
use crate::platform::{Checker, LoomPlatform, SearchPlatform};
use crate::rig::{Layout, Rig};
use crate::search::{Searched, search as search_states};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Points of choice in one execution, beyond which a model is taken to hang.
const POINTS: usize = 20_000;

/// Executions between two looks at the clock.
const LOOK: usize = 500;

/// How much is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// How often a thread that could go on is made to wait; `None`: as often as makes a difference.
    pub preemptions: Option<usize>,
    /// The time after which exploring ends, done or not.
    pub time: Duration,
}

/// What was explored to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// All schedules that preempt threads so often at most.
    Preemptions(usize),
    /// All schedules.
    All,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preemptions(count) => write!(f, "up to {count} preemptions"),
            Self::All => f.write_str("every schedule"),
        }
    }
}

/// What was explored.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// Schedules that were run.
    pub executions: usize,
    /// States that were told from each other; loom tells none.
    pub states: usize,
    /// How long that took.
    pub time: Duration,
    /// `None` if time ended first.
    pub reach: Option<Reach>,
}

impl Explored {
    /// Nothing.
    pub const NONE: Self = Self { executions: 0, states: 0, time: Duration::ZERO, reach: None };
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, states, time, reach } = self;
        write!(f, "{states} states, {executions} executions, {:.2} s, ", time.as_secs_f64())?;
        match reach {
            Some(reach) => reach.fmt(f),
            None => f.write_str("cut off"),
        }
    }
}

/// Runs one thread for each of `ops`, after `start`, under loom.
///
/// # Panics
/// If a thread is stuck, or anything is found that may not be.
pub fn explore(start: Start, ops: &[Op], layout: Layout, bound: Bound) -> Explored {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = POINTS;
    builder.preemption_bound = bound.preemptions;
    builder.max_duration = (bound.time < Duration::MAX).then_some(bound.time);
    builder.checkpoint_interval = LOOK;
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executions);
    let begun = Instant::now();
    let ops = ops.to_vec();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        run::<LoomPlatform>(start, &ops, layout);
    });
    let time = begun.elapsed();
    let reach = bound.preemptions.map_or(Reach::All, Reach::Preemptions);
    let executions = executions.load(Ordering::Relaxed);
    Explored { executions, states: 0, time, reach: (time < bound.time).then_some(reach) }
}

/// The same by the search that goes on from each state once.
///
/// # Panics
/// If a thread is stuck, or anything is found that may not be.
pub fn search(start: Start, ops: &[Op], layout: Layout, bound: Bound) -> Explored {
    let ops = ops.to_vec();
    search_model(bound, move || run::<SearchPlatform>(start, &ops, layout))
}

/// Searches all that `model` can come to on the [`SearchPlatform`]. It must do the same whenever it is run under the same schedule.
///
/// # Panics
/// If a thread is stuck, or `model` panics.
pub fn search_model(bound: Bound, model: impl Fn() + Clone + Send + 'static) -> Explored {
    let begun = Instant::now();
    let Searched { executions, states, is_complete } = search_states(&model, bound);
    let reach = bound.preemptions.map_or(Reach::All, Reach::Preemptions);
    Explored { executions, states, time: begun.elapsed(), reach: is_complete.then_some(reach) }
}

/// One execution: a thread for each of `ops`.
pub fn run<P: Checker>(start: Start, ops: &[Op], layout: Layout) {
    let rig = Arc::new(Rig::<P>::after(start, ops, layout));
    let threads: Vec<_> = ops[1..]
        .iter()
        .zip(3..)
        .map(|(&op, byte)| {
            let rig = Arc::clone(&rig);
            P::spawn(move || op.run(&rig, byte))
        })
        .collect();
    ops[0].run(&rig, 2);
    threads.into_iter().for_each(P::join);
    rig.check_quiet();
}
