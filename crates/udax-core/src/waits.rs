//! The wait table: where threads sleep for an entry lock.
//!
//! Glossary: a *key* is a mapping's number and the first index of the entry waited for; a *bucket* is shared by several keys; an
//! *exclusive* waiter stops a wake of one, a non-exclusive one does not. The argument is in docs/concurrency.md.

use crate::seams::{Counter, Guarded, Parker, Platform, ShortLock};
use crate::units::PageIndex;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher;

/// Buckets as in Linux: 2^12, shared by all mappings.
pub(crate) const DEFAULT_BUCKET_BITS: u32 = 12;

/// Whom one wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "exceptional_entry_key")]
#[doc(alias = "wait_exceptional_entry_queue")]
pub(crate) struct WaitKey {
    pub(crate) mapping: u64,
    /// The first index of the entry that was found, never of the request (W5).
    pub(crate) start: PageIndex,
}

/// How many waiters a wake ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "dax_wake_mode")]
pub(crate) enum Wake {
    /// One exclusive waiter (and the non-exclusive ones before it).
    #[doc(alias = "WAKE_NEXT")]
    Next,
    /// Everybody with the key.
    #[doc(alias = "WAKE_ALL")]
    All,
}

/// Whether a waiter promises to pass a wake on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It will lock, delete, or pass on.
    Exclusive,
    /// It may never come back to the entry (W6).
    Shared,
}

/// When a waiter left its bucket by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Before any wake chose it.
    Before,
    /// A wake had taken it out already.
    AfterItsWake,
}

struct Waiter<P: Platform> {
    key: WaitKey,
    waiting: Waiting,
    parker: Arc<P::Parker>,
}

impl<P: Platform> Guarded for VecDeque<Waiter<P>> {
    fn describe(&self, _: &mut dyn Hasher) -> bool {
        self.is_empty()
    }
}

struct Bucket<P: Platform> {
    /// How many are queued; read without the lock by wakers (see "The wake-up argument").
    queued: P::Counter,
    queue: P::Lock<VecDeque<Waiter<P>>>,
}

/// All buckets.
#[doc(alias = "wait_table")]
pub(crate) struct WaitTable<P: Platform> {
    buckets: Vec<Bucket<P>>,
    shift: u32,
}

impl<P: Platform> WaitTable<P> {
    pub(crate) fn new(bits: u32) -> Self {
        assert!((1..=16).contains(&bits), "a wait table has 2 to 65536 buckets");
        let buckets = (0..1_usize << bits)
            .map(|_| Bucket { queued: P::Counter::new(0), queue: P::Lock::new(VecDeque::new()) })
            .collect();
        Self { buckets, shift: 64 - bits }
    }

    fn bucket(&self, key: WaitKey) -> &Bucket<P> {
        // Fibonacci hashing: the high bits of the product depend on every bit of the key.
        let mixed = (key.mapping.rotate_left(32) ^ key.start.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let place = usize::try_from(mixed >> self.shift).unwrap_or(0);
        &self.buckets[place]
    }

    /// Queues the calling thread. To be called under the tree lock under which the entry was seen locked; the caller then
    /// drops that lock and parks.
    pub(crate) fn enqueue(&self, key: WaitKey, waiting: Waiting) -> Arc<P::Parker> {
        let parker = P::Parker::new();
        let bucket = self.bucket(key);
        let mut queue = bucket.queue.lock();
        let waiter = Waiter { key, waiting, parker: Arc::clone(&parker) };
        match waiting {
            Waiting::Exclusive => queue.push_back(waiter),
            // Before the exclusive ones, so that a wake of one always reaches them.
            Waiting::Shared => queue.push_front(waiter),
        }
        bucket.queued.store(queue.len());
        parker
    }

    /// Wakes waiters of `key`. To be called after the tree lock, under which the entry changed, was dropped.
    #[doc(alias = "dax_wake_entry")]
    pub(crate) fn wake(&self, key: WaitKey, mode: Wake) {
        let bucket = self.bucket(key);
        if bucket.queued.load() == 0 {
            return;
        }
        let mut woken = Vec::new();
        {
            let mut queue = bucket.queue.lock();
            let mut place = 0;
            while place < queue.len() {
                if queue[place].key != key {
                    place += 1;
                    continue;
                }
                let Some(waiter) = queue.remove(place) else { break };
                let stop = mode == Wake::Next && waiter.waiting == Waiting::Exclusive;
                woken.push(waiter.parker);
                if stop {
                    break;
                }
            }
            bucket.queued.store(queue.len());
        }
        for parker in woken {
            parker.unpark();
        }
    }

    /// Takes a waiter that does not want to wait any longer out of its bucket. If it is not there any more, a wake has chosen it, and that
    /// wake is for the caller to pass on (W9).
    #[must_use = "a wake that has been used up must be passed on"]
    pub(crate) fn leave(&self, key: WaitKey, parker: &Arc<P::Parker>) -> Left {
        let bucket = self.bucket(key);
        let mut queue = bucket.queue.lock();
        let place = queue.iter().position(|waiter| Arc::ptr_eq(&waiter.parker, parker));
        let Some(place) = place else { return Left::AfterItsWake };
        queue.remove(place);
        bucket.queued.store(queue.len());
        Left::Before
    }

    /// How many threads sleep on `key`, for tests and for reports.
    pub(crate) fn sleeping(&self, key: WaitKey) -> usize {
        self.bucket(key).queue.lock().iter().filter(|waiter| waiter.key == key).count()
    }

    /// How each of the threads that sleep on `key` does.
    #[cfg(test)]
    pub(crate) fn sleepers_as(&self, key: WaitKey) -> Vec<Waiting> {
        let queue = self.bucket(key).queue.lock();
        queue.iter().filter(|waiter| waiter.key == key).map(|waiter| waiter.waiting).collect()
    }
}
