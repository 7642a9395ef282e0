//! Planned failures: which calls of which kind fail, and with what.

use std::sync::{Mutex, PoisonError};

/// Which calls fail: the first `after` of them pass, the next `times` fail, the rest pass again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many calls pass first.
    pub after: u64,
    /// How many fail then.
    pub times: u64,
}

impl Plan {
    /// The next call fails.
    pub const ONCE: Self = Self { after: 0, times: 1 };
    /// Every call fails.
    pub const ALWAYS: Self = Self { after: 0, times: u64::MAX };

    /// The `n`th call from now fails; 1 is the next.
    #[must_use]
    pub const fn nth(n: u64) -> Self {
        Self { after: n.saturating_sub(1), times: 1 }
    }
}

#[derive(Debug)]
struct Planned<C, E> {
    call: C,
    plan: Plan,
    error: E,
}

#[derive(Debug)]
struct Calls<C, E> {
    counts: Vec<(C, u64)>,
    planned: Vec<Planned<C, E>>,
}

/// Counts calls of the kinds `C` and fails those that were planned to.
#[derive(Debug)]
pub(crate) struct Failures<C, E>(Mutex<Calls<C, E>>);

impl<C: Copy + PartialEq, E: Copy> Failures<C, E> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Calls { counts: Vec::new(), planned: Vec::new() }))
    }

    pub(crate) fn plan(&self, call: C, plan: Plan, error: E) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.planned.retain(|planned| planned.call != call);
        calls.planned.push(Planned { call, plan, error });
    }

    /// How many calls there have been, failed ones included.
    pub(crate) fn count(&self, call: C) -> u64 {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.counts.iter().find(|(kind, _)| *kind == call).map_or(0, |(_, count)| *count)
    }

    /// A call of kind `call` happens: the error that was planned for it, if any.
    pub(crate) fn check(&self, call: C) -> Result<(), E> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.counts.iter_mut().find(|(kind, _)| *kind == call) {
            Some((_, count)) => *count += 1,
            None => calls.counts.push((call, 1)),
        }
        let Some(planned) = calls.planned.iter_mut().find(|planned| planned.call == call) else {
            return Ok(());
        };
        if planned.plan.after > 0 {
            planned.plan.after -= 1;
            return Ok(());
        }
        if planned.plan.times == 0 {
            return Ok(());
        }
        planned.plan.times -= 1;
        Err(planned.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_planned_calls_fail() {
        let failures = Failures::<u8, &str>::new();
        failures.plan(1, Plan { after: 2, times: 2 }, "planned");
        let seen: Vec<bool> = (0..6).map(|_| failures.check(1).is_err()).collect();
        assert_eq!(seen, [false, false, true, true, false, false]);
        assert_eq!(failures.check(2), Ok(()));
        assert_eq!((failures.count(1), failures.count(2)), (6, 1));
        failures.plan(2, Plan::nth(2), "second");
        assert_eq!((failures.check(2), failures.check(2)), (Ok(()), Err("second")));
    }
}
