//! What a run did, for whoever has to understand one that failed.

use super::scene::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Operations that are remembered of each thread.
const REMEMBERED: usize = 300;

/// The last operations of each thread.
pub struct Trail {
    threads: Vec<Mutex<VecDeque<String>>>,
}

impl Trail {
    pub fn new(threads: usize) -> Self {
        Self { threads: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// An operation begins.
    pub fn begin(&self, thread: usize, what: String) {
        let mut trail = lock(&self.threads[thread]);
        if trail.len() == REMEMBERED {
            trail.pop_front();
        }
        trail.push_back(what);
    }

    /// How the last one ended.
    pub fn end(&self, thread: usize, how: &str) {
        if let Some(last) = lock(&self.threads[thread]).back_mut() {
            last.push_str(how);
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (number, trail) in self.threads.iter().enumerate() {
            let _ = write!(text, "\n  thread {number}:");
            for line in lock(trail).iter() {
                let _ = write!(text, "\n    {line}");
            }
        }
        text
    }
}

/// How much was done.
#[derive(Debug, Default)]
pub struct Counts {
    pub operations: AtomicU64,
    pub failed: AtomicU64,
    pub power_cuts: AtomicU64,
    pub collapsed: AtomicU64,
    pub steps: AtomicU64,
}

/// The same of many runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub schedules: u64,
    pub steps: u64,
    pub operations: u64,
    /// Operations that failed for a reason that was there.
    pub failed: u64,
    pub faults: u64,
    pub power_cuts: u64,
    /// Units.
    pub collapsed: u64,
}

impl Counts {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Totals {
    pub fn of(counts: &Counts, faults: u64) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            schedules: 1,
            steps: get(&counts.steps),
            operations: get(&counts.operations),
            failed: get(&counts.failed),
            faults,
            power_cuts: get(&counts.power_cuts),
            collapsed: get(&counts.collapsed),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.operations += other.operations;
        self.failed += other.failed;
        self.faults += other.faults;
        self.power_cuts += other.power_cuts;
        self.collapsed += other.collapsed;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { schedules, steps, operations, failed, faults, power_cuts, collapsed } = self;
        write!(
            f,
            "{schedules} schedules, {steps} steps, {operations} operations ({failed} failed as they had to), {faults} \
             faults, {collapsed} units collapsed, {power_cuts} power cuts"
        )
    }
}
