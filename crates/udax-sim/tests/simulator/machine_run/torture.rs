//! One run under one seed.

use super::config::Config;
use super::device::Device;
use super::report::Totals;
use super::scene::Scene;
use super::worker::Worker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use udax_sim::{Run, steps};

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub totals: Totals,
    /// Why it failed, with all that is known.
    pub failure: Option<String>,
}

/// Turns beyond the last new operation, for those under way: more means that they do not come to an end.
const GRACE: u64 = 2_000_000;

/// Tortures the engine under `seed`, for about `turns`.
pub fn torture(seed: u64, turns: u64) -> Outcome {
    let scene = Scene::new(Config::draw(seed, turns));
    let failure = storm(&scene).or_else(|| calm(&scene));
    let totals = Totals::of(&scene.counts, scene.machine.fault_count());
    let failure = failure.map(|report| {
        format!(
            "{report}\n{:?}\nthe last operations, with the turns at which they began and ended:{}\n\nUDAX_SEED={seed} \
             UDAX_TORTURE_STEPS={turns} cargo test --release -p udax-sim torture::survives -- --nocapture\nreplays it",
            scene.config,
            scene.trail.text()
        )
    });
    Outcome { totals, failure }
}

fn storm(scene: &Arc<Scene>) -> Option<String> {
    let mut run = Run::new(scene.config.seed);
    run.step_limit(scene.config.steps + GRACE);
    for number in 0..scene.config.workers {
        let (own, worker) = (Arc::clone(scene), Worker::new(scene, number));
        run.spawn(&format!("worker {number}"), move || {
            worker.work();
            own.counts.steps.store(steps(), Ordering::Relaxed);
        });
    }
    let device = Device::new(scene, scene.config.workers);
    run.spawn("device", move || device.run());
    run.try_go().err().map(|failure| failure.report)
}

/// Under the scheduler too, so that a lock that was left behind is a report and not a hang.
fn calm(scene: &Arc<Scene>) -> Option<String> {
    let mut run = Run::new(scene.config.seed);
    let worker = Worker::new(scene, scene.config.workers);
    run.spawn("at rest", move || worker.settle());
    run.try_go().err().map(|failure| failure.report)
}
