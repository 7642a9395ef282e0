//! Locks and sleeps of the standard library, for the engine.

use crate::service::die;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use udax_core::{Guarded, Parker, Platform, ShortLock};

/// Takes a lock that no thread may have died with: what it guards may be half done, so the process must not go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| die("a thread failed while it held a lock"))
}

/// The same for the locks of others: what a thread guarded that failed must not be gone on with, but in a child of fork, which may have lost that thread.
pub fn unpoisoned<G>(taken: Result<G, PoisonError<G>>) -> G {
    taken.unwrap_or_else(|poison| match crate::service::Service::is_forgotten() {
        true => poison.into_inner(),
        false => die("a thread failed while it held a lock"),
    })
}

/// Waits for a signal on `condition`, giving the lock up meanwhile.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(|_| die("a thread failed while it held a lock"))
}

/// The same for `time` at most.
pub(crate) fn wait_for<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    match condition.wait_timeout(guard, time) {
        Ok((guard, _)) => guard,
        Err(_) => die("a thread failed while it held a lock"),
    }
}

/// The platform of a process on Linux: locks and sleeps that end in futexes.
#[derive(Clone, Copy, Debug)]
pub struct StdPlatform;

impl Platform for StdPlatform {
    type Lock<T: Guarded> = StdLock<T>;
    type Parker = StdParker;
    type Counter = AtomicUsize;
}

/// A [`ShortLock`] that sleeps. A thread that panics while it holds one ends the process.
#[derive(Debug)]
pub struct StdLock<T>(Mutex<T>);

impl<T: Send> ShortLock<T> for StdLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        lock(&self.0)
    }
}

/// One sleep of one thread.
#[derive(Debug, Default)]
pub struct StdParker {
    unparked: Mutex<bool>,
    changed: Condvar,
}

impl Parker for StdParker {
    fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn park(&self) {
        let mut unparked = lock(&self.unparked);
        while !*unparked {
            unparked = wait(&self.changed, unparked);
        }
        *unparked = false;
    }

    fn unpark(&self) {
        *lock(&self.unparked) = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpark_before_the_park_is_not_lost() {
        let parker = StdParker::new();
        parker.unpark();
        parker.park();
    }

    #[test]
    fn a_parked_thread_is_woken() {
        let parker = StdParker::new();
        let waker = Arc::clone(&parker);
        let thread = std::thread::spawn(move || waker.unpark());
        parker.park();
        thread.join().expect("the waker does not panic");
    }
}
