//! Longer schedules than loom can try all of: four to six threads with several calls each, drawn at random and by priorities that change.
//!
//! A failure prints the schedule, which `shuttle::replay` plays again. `UDAX_SHUTTLE=N` draws N schedules of each kind (default 300).

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use std::sync::Arc;
use udax_check::{Checker, Layout, Op, Rig, ShuttlePlatform, Start, Which};

/// Times that a thread's priority falls in a schedule of the second kind.
const CHANGES: usize = 4;

fn schedules() -> usize {
    std::env::var("UDAX_SHUTTLE").ok().and_then(|value| value.parse().ok()).unwrap_or(300)
}

/// Threads, each with what it does, after `start`.
fn threads(start: Start, scripts: &'static [&'static [Op]], layout: Layout) {
    let body = move || {
        let all: Vec<Op> = scripts.iter().copied().flatten().copied().collect();
        let rig = Arc::new(Rig::<ShuttlePlatform>::after(start, &all, layout));
        let started: Vec<_> = (2..)
            .zip(scripts)
            .map(|(byte, script)| {
                let rig = Arc::clone(&rig);
                ShuttlePlatform::spawn(move || script.iter().for_each(|op| op.run(&rig, byte)))
            })
            .collect();
        started.into_iter().for_each(ShuttlePlatform::join);
        rig.check_quiet();
    };
    Runner::new(RandomScheduler::new(schedules()), Config::new()).run(body);
    Runner::new(PctScheduler::new(CHANGES, schedules()), Config::new()).run(body);
}

const SMALL: Which = Which::Small;
const HUGE: Which = Which::Huge;

fn after_each(scripts: &'static [&'static [Op]]) {
    for start in Start::ALL {
        threads(start, scripts, Layout::default());
    }
}

#[test]
fn faults_of_both_sizes_beside_syncs_and_punches() {
    after_each(&[
        &[Op::Store(SMALL, 0), Op::Load(HUGE, 1), Op::StoreSync(SMALL, 0)],
        &[Op::Store(HUGE, 1), Op::Load(SMALL, 0), Op::Store(HUGE, 0)],
        &[Op::Sync, Op::Punch(0), Op::Sync],
        &[Op::StoreSync(HUGE, 2), Op::PunchAll, Op::Store(SMALL, 2)],
    ]);
}

#[test]
fn writes_into_holes_beside_faults_and_invalidations() {
    after_each(&[
        &[Op::Write(0), Op::Punch(0), Op::Write(0)],
        &[Op::Load(SMALL, 0), Op::Load(HUGE, 0), Op::Load(SMALL, 1)],
        &[Op::Write(1), Op::Invalidate(0), Op::Load(HUGE, 1)],
        &[Op::Store(SMALL, 1), Op::Revoke, Op::Load(SMALL, 0)],
        &[Op::MediaFailed(0), Op::Invalidate(1), Op::Sync],
    ]);
}

#[test]
fn truncations_beside_everything() {
    after_each(&[
        &[Op::Truncate(1), Op::Truncate(0)],
        &[Op::Store(SMALL, 0), Op::StoreSync(SMALL, 1), Op::Load(HUGE, 0)],
        &[Op::Store(HUGE, 1), Op::Sync, Op::Load(SMALL, 1)],
        &[Op::Load(HUGE, 0), Op::Store(HUGE, 2)],
    ]);
}

#[test]
fn collapses_and_interrupted_waits_beside_those_who_wait() {
    after_each(&[
        &[Op::Collapse, Op::Punch(1), Op::Collapse],
        &[Op::FaultUnless(SMALL, 0), Op::StoreSync(SMALL, 0), Op::FaultUnless(HUGE, 0)],
        &[Op::Interrupt, Op::Interrupt, Op::Load(HUGE, 0)],
        &[Op::Store(SMALL, 0), Op::Sync, Op::Store(SMALL, 1)],
        &[Op::Sync, Op::MediaFailed(1), Op::Store(SMALL, 1)],
        &[Op::Load(SMALL, 1), Op::Sync, Op::Load(HUGE, 2)],
    ]);
}
