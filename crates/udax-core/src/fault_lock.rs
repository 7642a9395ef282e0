//! The fault lock: by which truncation excludes faults. A fair, sleeping reader-writer lock on the platform's parkers.

use crate::seams::{Guarded, Parker, Platform, ShortLock};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::hash::{Hash, Hasher};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Shared,
    Exclusive,
}

struct State<P: Platform> {
    shared: usize,
    exclusive: bool,
    queue: VecDeque<(Want, Arc<P::Parker>)>,
}

impl<P: Platform> Guarded for State<P> {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        (self.shared, self.exclusive).hash(&mut state);
        self.queue.is_empty()
    }
}

impl<P: Platform> State<P> {
    /// Hands the lock to whoever comes first in the queue, and to the shared ones right behind it.
    fn hand_over(&mut self, mut wake: impl FnMut(Arc<P::Parker>)) {
        while let Some(&(want, _)) = self.queue.front() {
            let free = match want {
                Want::Shared => !self.exclusive,
                Want::Exclusive => !self.exclusive && self.shared == 0,
            };
            if !free {
                return;
            }
            match want {
                Want::Shared => self.shared += 1,
                Want::Exclusive => self.exclusive = true,
            }
            if let Some((_, parker)) = self.queue.pop_front() {
                wake(parker);
            }
        }
    }
}

/// Faults take it shared, truncate, punch and revoke exclusively. First come, first served, so neither side starves; hence a
/// thread must not take it shared twice.
#[doc(alias = "invalidate_lock")]
#[doc(alias = "i_mmap_sem")]
#[doc(alias = "MMAPLOCK")]
pub(crate) struct FaultLock<P: Platform> {
    state: P::Lock<State<P>>,
}

impl<P: Platform> FaultLock<P> {
    pub(crate) fn new() -> Self {
        Self { state: P::Lock::new(State { shared: 0, exclusive: false, queue: VecDeque::new() }) }
    }

    fn acquire(&self, want: Want) {
        let parker = {
            let mut state = self.state.lock();
            let free = state.queue.is_empty()
                && !state.exclusive
                && (want == Want::Shared || state.shared == 0);
            if free {
                match want {
                    Want::Shared => state.shared += 1,
                    Want::Exclusive => state.exclusive = true,
                }
                return;
            }
            let parker = P::Parker::new();
            state.queue.push_back((want, Arc::clone(&parker)));
            parker
        };
        // Whoever unparks has already counted us in: no second look is needed.
        parker.park();
    }

    fn release(&self, want: Want) {
        let mut woken = VecDeque::new();
        {
            let mut state = self.state.lock();
            match want {
                Want::Shared => state.shared -= 1,
                Want::Exclusive => state.exclusive = false,
            }
            state.hand_over(|parker| woken.push_back(parker));
        }
        for parker in woken {
            parker.unpark();
        }
    }

    pub(crate) fn shared(&self) -> SharedFaults<'_, P> {
        P::step(|| self.acquire(Want::Shared), |&()| ());
        SharedFaults { lock: self }
    }

    pub(crate) fn exclusive(&self) -> NoFaults<'_, P> {
        P::step(|| self.acquire(Want::Exclusive), |&()| ());
        NoFaults { lock: self }
    }
}

/// Held by a fault.
#[must_use]
pub(crate) struct SharedFaults<'l, P: Platform> {
    lock: &'l FaultLock<P>,
}

impl<P: Platform> Drop for SharedFaults<'_, P> {
    fn drop(&mut self) {
        P::step(|| self.lock.release(Want::Shared), |&()| ());
    }
}

/// Held by whoever wants no fault on the file under way.
#[must_use]
pub(crate) struct NoFaults<'l, P: Platform> {
    lock: &'l FaultLock<P>,
}

impl<P: Platform> Drop for NoFaults<'_, P> {
    fn drop(&mut self) {
        P::step(|| self.lock.release(Want::Exclusive), |&()| ());
    }
}
