//! Locks, sleeps and counters of the search for every schedule.

use super::Checker;
use crate::search::{self, Left, Trail, Want};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use udax_core::{Counter, Guarded, Parker, Platform, ShortLock};

/// The platform on which every schedule is tried, and every state gone on from once.
#[derive(Clone, Copy, Debug)]
pub struct SearchPlatform;

impl Platform for SearchPlatform {
    type Lock<T: Guarded> = SearchLock<T>;
    type Parker = SearchParker;
    type Counter = SearchCounter;

    fn step<T, H: Hash>(act: impl FnOnce() -> T, told: impl FnOnce(&T) -> H) -> T {
        search::step(act, told)
    }
}

/// Takes what no other thread can hold: there is but one, and the search lets nobody wait here.
fn own<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => {
            // A thread that fails, and meets on its way out what another holds who will never go on. It has said what failed.
            eprintln!("a failing thread of a model cannot be unwound");
            std::process::abort()
        }
    }
}

/// A hash of all that is in it, if that can be had.
fn describe(value: &impl Guarded) -> Option<u64> {
    let mut state = DefaultHasher::new();
    value.describe(&mut state).then(|| state.finish())
}

#[derive(Debug)]
struct Locked<T> {
    value: T,
    trail: Trail,
}

/// A lock whose taking is a point, and of which others see whether anything was written under it.
#[derive(Debug)]
pub struct SearchLock<T> {
    id: u64,
    locked: Mutex<Locked<T>>,
}

impl<T: Guarded> ShortLock<T> for SearchLock<T> {
    type Guard<'a>
        = SearchGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        let trail = Trail::of(describe(&value));
        Self { id: search::identity(), locked: Mutex::new(Locked { value, trail }) }
    }

    fn lock(&self) -> SearchGuard<'_, T> {
        search::point(Want::Lock(self.id));
        let locked = own(&self.locked);
        search::taken(self.id, &locked.trail);
        SearchGuard { id: self.id, locked, is_written: false }
    }
}

/// What holding one looks like.
pub struct SearchGuard<'a, T: Guarded> {
    id: u64,
    locked: MutexGuard<'a, Locked<T>>,
    is_written: bool,
}

impl<T: Guarded> Deref for SearchGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.locked.value
    }
}

impl<T: Guarded> DerefMut for SearchGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_written = true;
        &mut self.locked.value
    }
}

impl<T: Guarded> Drop for SearchGuard<'_, T> {
    fn drop(&mut self) {
        let Locked { value, trail } = &mut *self.locked;
        let left = if self.is_written { Left::Written(describe(value)) } else { Left::AsItWas };
        search::released(self.id, trail, left);
    }
}

impl<T: Guarded + fmt::Debug> fmt::Debug for SearchGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.locked.value.fmt(f)
    }
}

/// One sleep. That a wake comes before or after the sleep begins makes no difference to anybody.
#[derive(Debug)]
pub struct SearchParker {
    id: u64,
    trail: Mutex<Trail>,
}

impl Parker for SearchParker {
    fn new() -> Arc<Self> {
        Arc::new(Self { id: search::identity(), trail: Mutex::default() })
    }

    fn park(&self) {
        if !search::is_woken(self.id) {
            search::point(Want::Wake(self.id));
        }
        search::woken(self.id, &own(&self.trail));
    }

    fn unpark(&self) {
        search::wake(self.id, &mut own(&self.trail));
    }
}

/// A counter whose readers may see what it stood at before, unless a lock has ordered them behind the writer.
#[derive(Debug)]
pub struct SearchCounter {
    id: u64,
    /// All that it ever stood at.
    values: Mutex<Vec<usize>>,
}

impl Counter for SearchCounter {
    fn new(value: usize) -> Self {
        Self { id: search::identity(), values: Mutex::new(vec![value]) }
    }

    fn load(&self) -> usize {
        search::point(Want::Turn);
        search::read(self.id, &own(&self.values))
    }

    fn store(&self, value: usize) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.push(value);
        search::wrote(self.id, values.len() - 1, value);
    }
}

impl Checker for SearchPlatform {
    type Thread = usize;

    fn spawn(body: impl FnOnce() + Send + 'static) -> usize {
        search::spawn(Box::new(body))
    }

    fn yield_now() {
        search::yield_now();
    }

    fn forget(rest: impl Hash) {
        search::forget(rest);
    }

    fn join(thread: usize) {
        search::join(thread);
    }
}
