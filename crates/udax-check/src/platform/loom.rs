//! Locks, sleeps and counters of loom.

use super::Checker;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Mutex, MutexGuard};
use loom::thread::Thread;
use std::sync::{Arc, PoisonError};
use udax_core::{Counter, Guarded, Parker, Platform, ShortLock};

/// The platform on which loom tries every schedule.
#[derive(Clone, Copy, Debug)]
pub struct LoomPlatform;

impl Platform for LoomPlatform {
    type Lock<T: Guarded> = LoomLock<T>;
    type Parker = LoomParker;
    type Counter = LoomCounter;
}

/// A lock whose taking is a point of choice.
#[derive(Debug)]
pub struct LoomLock<T>(Mutex<T>);

impl<T: Send> ShortLock<T> for LoomLock<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    #[track_caller]
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Sleep {
    unparked: bool,
    sleeper: Option<Thread>,
}

/// One sleep. That a wake comes before or after the sleep begins makes no difference to anybody, so neither is a point of choice: what loom has to know
/// is who sleeps, and what the waker had done before.
#[derive(Debug, Default)]
pub struct LoomParker(std::sync::Mutex<Sleep>);

impl LoomParker {
    fn sleep(&self) -> std::sync::MutexGuard<'_, Sleep> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parker for LoomParker {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn park(&self) {
        loop {
            {
                let mut sleep = self.sleep();
                if sleep.unparked {
                    return;
                }
                sleep.sleeper = Some(loom::thread::current());
            }
            loom::thread::park();
        }
    }

    fn unpark(&self) {
        let sleeper = {
            let mut sleep = self.sleep();
            sleep.unparked = true;
            sleep.sleeper.take()
        };
        // Only who sleeps: the token of a thread that does not would end another sleep of it.
        if let Some(thread) = sleeper {
            thread.unpark();
        }
    }
}

/// A counter whose readers may see what it stood at before, unless a lock has ordered them behind the writer.
#[derive(Debug)]
pub struct LoomCounter(AtomicUsize);

impl Counter for LoomCounter {
    fn new(value: usize) -> Self {
        Self(AtomicUsize::new(value))
    }

    #[track_caller]
    fn load(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn store(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Words of stack: a failing test prints from it.
const STACK_WORDS: usize = 0x8000;

impl Checker for LoomPlatform {
    type Thread = loom::thread::JoinHandle<()>;

    fn spawn(body: impl FnOnce() + Send + 'static) -> Self::Thread {
        loom::thread::Builder::new()
            .stack_size(STACK_WORDS)
            .spawn(body)
            .expect("loom starts threads")
    }

    fn yield_now() {
        loom::thread::yield_now();
    }

    fn join(thread: Self::Thread) {
        thread.join().expect("a thread that failed has ended the model");
    }
}
