//! Locks, sleeps and counters of shuttle.

use super::Checker;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Condvar, Mutex, MutexGuard};
use std::sync::{Arc, PoisonError};
use udax_core::{Counter, Guarded, Parker, Platform, ShortLock};

/// The platform on which shuttle draws schedules.
#[derive(Clone, Copy, Debug)]
pub struct ShuttlePlatform;

impl Platform for ShuttlePlatform {
    type Lock<T: Guarded> = ShuttleLock<T>;
    type Parker = ShuttleParker;
    type Counter = ShuttleCounter;
}

/// A lock whose taking is a point of choice.
#[derive(Debug)]
pub struct ShuttleLock<T>(Mutex<T>);

impl<T: Send> ShortLock<T> for ShuttleLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sleep.
#[derive(Debug)]
pub struct ShuttleParker {
    unparked: Mutex<bool>,
    changed: Condvar,
}

impl Parker for ShuttleParker {
    fn new() -> Arc<Self> {
        Arc::new(Self { unparked: Mutex::new(false), changed: Condvar::new() })
    }

    fn park(&self) {
        let mut unparked = self.unparked.lock().unwrap_or_else(PoisonError::into_inner);
        while !*unparked {
            unparked = self.changed.wait(unparked).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn unpark(&self) {
        *self.unparked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

/// A counter whose every access is a point of choice. Shuttle knows no weak memory: a reader sees the last value.
#[derive(Debug)]
pub struct ShuttleCounter(AtomicUsize);

impl Counter for ShuttleCounter {
    fn new(value: usize) -> Self {
        Self(AtomicUsize::new(value))
    }

    fn load(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn store(&self, value: usize) {
        self.0.store(value, Ordering::SeqCst);
    }
}

impl Checker for ShuttlePlatform {
    type Thread = shuttle::thread::JoinHandle<()>;

    fn spawn(body: impl FnOnce() + Send + 'static) -> Self::Thread {
        shuttle::thread::spawn(body)
    }

    fn yield_now() {
        shuttle::thread::yield_now();
    }

    fn join(thread: Self::Thread) {
        thread.join().expect("a thread that failed has ended the run");
    }
}
