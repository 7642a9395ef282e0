//! The engine under torture. `docs/testing.md` says how to play more of it.

use crate::machine_run::{Totals, torture};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// Seeds of a run without a word about it.
const SEEDS: u64 = 60;
/// Turns of each.
const STEPS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Seeds from a fresh one on: as many as `UDAX_TORTURE_SEEDS`, or as `UDAX_TORTURE_SECONDS` allow; with `UDAX_SEED` that one alone.
#[test]
fn survives() {
    let steps = number("UDAX_TORTURE_STEPS").unwrap_or(STEPS);
    let only = number("UDAX_SEED");
    let first = only.unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    let seconds = number("UDAX_TORTURE_SECONDS").map(Duration::from_secs);
    let seeds =
        number("UDAX_TORTURE_SEEDS").unwrap_or(if seconds.is_some() { u64::MAX } else { SEEDS });
    let seeds = if only.is_some() { 1 } else { seeds };
    let (begin, mut totals) = (Instant::now(), Totals::default());
    for seed in (first..).take(usize::try_from(seeds).unwrap_or(usize::MAX)) {
        if seconds.is_some_and(|seconds| begin.elapsed() >= seconds) {
            break;
        }
        let outcome = torture(seed, steps);
        totals.add(outcome.totals);
        if let Some(failure) = outcome.failure {
            panic!("{failure}\nfound after {totals} in {:?}", begin.elapsed());
        }
    }
    println!("torture from seed {first}: {totals}; {:?}", begin.elapsed());
}

#[test]
fn a_seed_is_one_schedule_and_one_outcome() {
    for seed in [1, 2, 3] {
        assert_eq!(torture(seed, STEPS), torture(seed, STEPS));
    }
}
