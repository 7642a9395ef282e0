//! Locks and sleeps: of std on an ordinary thread, of the scheduler on a thread of a [`Run`](crate::Run).
//!
//! One platform for both, so that there is one simulated world: the same engine, with the same types, runs under a seed and
//! under load. Objects must not be used by both kinds of thread at the same time.

use crate::sched::{Wait, current, yield_point};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use udax_core::{Counter, Guarded, Parker, Platform, ShortLock};

/// The platform of the simulated world.
#[derive(Clone, Copy, Debug)]
pub struct SimPlatform;

impl Platform for SimPlatform {
    type Lock<T: Guarded> = SimLock<T>;
    type Parker = SimParker;
    type Counter = SimCounter;
}

fn place_of<T>(thing: &T) -> usize {
    std::ptr::from_ref(thing).addr()
}

/// A lock that the scheduler knows.
#[derive(Debug, Default)]
pub struct SimLock<T> {
    value: Mutex<T>,
}

impl<T: Send> ShortLock<T> for SimLock<T> {
    type Guard<'a>
        = SimGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self { value: Mutex::new(value) }
    }

    #[track_caller]
    fn lock(&self) -> SimGuard<'_, T> {
        let Some(member) = current() else {
            let guard = self.value.lock().unwrap_or_else(PoisonError::into_inner);
            return SimGuard { guard: Some(guard), place: place_of(self) };
        };
        member.yield_turn();
        loop {
            let guard = match self.value.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    member.wait(Wait::Lock(place_of(self)));
                    continue;
                }
            };
            return SimGuard { guard: Some(guard), place: place_of(self) };
        }
    }
}

/// A held [`SimLock`].
pub struct SimGuard<'a, T> {
    /// `None` only while it is dropped.
    guard: Option<MutexGuard<'a, T>>,
    place: usize,
}

impl<T> Deref for SimGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_deref().expect("a guard holds its lock until it is dropped")
    }
}

impl<T> DerefMut for SimGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_deref_mut().expect("a guard holds its lock until it is dropped")
    }
}

impl<T: fmt::Debug> fmt::Debug for SimGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for SimGuard<'_, T> {
    fn drop(&mut self) {
        // First the lock, then the news of it: whoever is woken finds it free.
        drop(self.guard.take());
        if let Some(member) = current() {
            member.release(Wait::Lock(self.place));
        }
    }
}

/// One sleep. Once unparked it stays so.
#[derive(Debug, Default)]
pub struct SimParker {
    unparked: Mutex<bool>,
    wake: Condvar,
}

impl Parker for SimParker {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    #[track_caller]
    fn park(&self) {
        if let Some(member) = current() {
            member.yield_turn();
            while !*self.unparked.lock().unwrap_or_else(PoisonError::into_inner) {
                member.wait(Wait::Park(place_of(self)));
            }
            return;
        }
        let mut unparked = self.unparked.lock().unwrap_or_else(PoisonError::into_inner);
        while !*unparked {
            unparked = self.wake.wait(unparked).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn unpark(&self) {
        *self.unparked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
        if let Some(member) = current() {
            member.release(Wait::Park(place_of(self)));
        }
    }
}

/// A counter whose readers may be overtaken: a thread of a [`Run`](crate::Run) gives the turn away before it looks. Not before it writes,
/// as it holds a lock then, which was a point of its own.
#[derive(Debug)]
pub struct SimCounter(AtomicUsize);

impl Counter for SimCounter {
    fn new(value: usize) -> Self {
        Self(AtomicUsize::new(value))
    }

    #[track_caller]
    fn load(&self) -> usize {
        yield_point();
        Counter::load(&self.0)
    }

    fn store(&self, value: usize) {
        Counter::store(&self.0, value);
    }
}

/// Where threads of either kind sleep until something has become true.
#[derive(Debug, Default)]
pub struct WaitQueue {
    sleepers: Mutex<Vec<Arc<SimParker>>>,
}

impl WaitQueue {
    /// A queue nobody sleeps in.
    #[must_use]
    pub const fn new() -> Self {
        Self { sleepers: Mutex::new(Vec::new()) }
    }

    /// Sleeps until `is_so` says true; asks it anew after every [`notify_all`](Self::notify_all).
    #[track_caller]
    pub fn wait_until(&self, mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            let parker = SimParker::new();
            // Queued before the question is asked: who makes it true after the answer will see us.
            self.sleepers().push(Arc::clone(&parker));
            if is_so() {
                self.sleepers().retain(|other| !Arc::ptr_eq(other, &parker));
                return;
            }
            parker.park();
        }
    }

    /// Everybody asks again. To be called after the change.
    pub fn notify_all(&self) {
        let sleepers = std::mem::take(&mut *self.sleepers());
        for parker in sleepers {
            parker.unpark();
        }
    }

    fn sleepers(&self) -> MutexGuard<'_, Vec<Arc<SimParker>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Holders {
    shared: usize,
    exclusive: bool,
}

/// A sleeping reader-writer lock (an mm lock). A thread may take it shared more than once.
#[derive(Debug, Default)]
pub struct SharedLock {
    holders: Mutex<Holders>,
    queue: WaitQueue,
}

impl SharedLock {
    /// A free lock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes it together with others.
    #[track_caller]
    pub fn shared(&self) -> SharedHold<'_> {
        self.queue.wait_until(|| {
            let mut holders = self.holders();
            let free = !holders.exclusive;
            holders.shared += usize::from(free);
            free
        });
        SharedHold { lock: self }
    }

    /// Takes it alone.
    #[track_caller]
    pub fn exclusive(&self) -> ExclusiveHold<'_> {
        self.queue.wait_until(|| {
            let mut holders = self.holders();
            let free = !holders.exclusive && holders.shared == 0;
            holders.exclusive |= free;
            free
        });
        ExclusiveHold { lock: self }
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`SharedLock`] held together with others.
#[derive(Debug)]
#[must_use]
pub struct SharedHold<'a> {
    lock: &'a SharedLock,
}

impl Drop for SharedHold<'_> {
    fn drop(&mut self) {
        self.lock.holders().shared -= 1;
        self.lock.queue.notify_all();
    }
}

/// A [`SharedLock`] held alone.
#[derive(Debug)]
#[must_use]
pub struct ExclusiveHold<'a> {
    lock: &'a SharedLock,
}

impl Drop for ExclusiveHold<'_> {
    fn drop(&mut self) {
        self.lock.holders().exclusive = false;
        self.lock.queue.notify_all();
    }
}
