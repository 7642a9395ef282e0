//! Where threads post their faults, from a signal handler, and wait for what becomes of them. Atomics and futexes alone: nothing here takes a lock or
//! allocates.

use crate::bounds::Bounds;
use crate::events::{Access, Cause, FaultEvent, Verdict};
use crate::sys::errno::Errno;
use crate::sys::{futex, mem};
use linux_raw_sys::general as k;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// So many faults can be under way at a time; more wait for a place.
const PLACES: usize = 128;

/// The states of a place. A thread takes it from free to posted, `udax-fault` from there to an answer, and the thread frees it again.
const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const POSTED: u32 = 2;
const TAKEN: u32 = 3;
/// The answers.
const SERVED: u32 = 4;
const NOTHING_IN_THE_WAY: u32 = 5;
const NOT_OURS: u32 = 6;

/// One fault.
#[repr(C)]
struct Place {
    state: AtomicU32,
    stores: AtomicU32,
    thread: AtomicI32,
    address: AtomicUsize,
}

/// The faults of one service. Made in memory that the kernel empties in a child of fork: there it says that no address is served, whoever forked.
#[repr(C)]
pub(crate) struct Posts {
    pub(super) bounds: Bounds,
    next: AtomicPtr<Posts>,
    /// How many were posted: `udax-fault` sleeps on it.
    posted: AtomicU32,
    /// How many places became free, and how many threads wait for one.
    freed: AtomicU32,
    waiting: AtomicU32,
    places: [Place; PLACES],
}

const _: () = assert!(size_of::<Posts>() <= mem::PAGE);

/// All there are in the process. They stay for good.
static FIRST: AtomicPtr<Posts> = AtomicPtr::new(std::ptr::null_mut());

impl Posts {
    /// New ones, in the list of all.
    pub(super) fn new() -> Result<&'static Self, Errno> {
        let place = crate::window::Scratch::new(0, mem::PAGE)?;
        place.allow(mem::PROT_READ | k::PROT_WRITE)?;
        // SAFETY: the page is our own; the advice changes nothing here.
        unsafe { mem::madvise(place.address, mem::PAGE, k::MADV_WIPEONFORK) }?;
        let made = std::ptr::with_exposed_provenance_mut::<Self>(place.address);
        // It stays.
        std::mem::forget(place);
        // SAFETY: it is a whole page of zeros, aligned to that, which nobody unmaps; everything in it is an atomic, or a pointer, of which all zero is a value.
        let posts = unsafe { &*made };
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            posts.next.store(first, Ordering::Relaxed);
            match FIRST.compare_exchange(first, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(posts),
                Err(other) => first = other,
            }
        }
    }

    /// Those in which a fault at `address` may be one to post. Async-signal-safe.
    pub(super) fn over(address: usize) -> impl Iterator<Item = &'static Self> {
        let load = |from: &AtomicPtr<Self>| {
            // SAFETY: what is in the list was made by `new`, and stays.
            unsafe { from.load(Ordering::Acquire).as_ref() }
        };
        std::iter::successors(load(&FIRST), move |posts: &&Self| load(&posts.next))
            .filter(move |posts| posts.bounds.meet(&(address..address + 1)))
    }

    /// Posts a fault and waits for what becomes of it. Async-signal-safe. Not on `udax-fault`, and with no lock held that a fault needs.
    pub(super) fn ask(&self, event: FaultEvent) -> Verdict {
        let place = self.claim();
        place.address.store(event.address, Ordering::Relaxed);
        place.stores.store((event.access == Access::Write).into(), Ordering::Relaxed);
        place.thread.store(event.thread, Ordering::Relaxed);
        place.state.store(POSTED, Ordering::Release);
        self.posted.fetch_add(1, Ordering::Release);
        futex::wake_one(&self.posted);
        let verdict = loop {
            match place.state.load(Ordering::Acquire) {
                SERVED => break Verdict::Served,
                NOTHING_IN_THE_WAY => break Verdict::Free,
                NOT_OURS => break Verdict::NotOurs,
                other => futex::wait(&place.state, other, None),
            }
        };
        place.state.store(FREE, Ordering::SeqCst);
        self.freed.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            futex::wake_one(&self.freed);
        }
        verdict
    }

    fn claim(&self) -> &Place {
        if let Some(place) = self.try_claim() {
            return place;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let place = loop {
            let seen = self.freed.load(Ordering::SeqCst);
            match self.try_claim() {
                Some(place) => break place,
                None => futex::wait(&self.freed, seen, None),
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        place
    }

    fn try_claim(&self) -> Option<&Place> {
        self.places.iter().find(|place| {
            place.state.compare_exchange(FREE, CLAIMED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }

    /// The next fault that was posted, from place `from` on, and its place. On `udax-fault`.
    pub(super) fn take(&self, from: usize) -> Option<(usize, FaultEvent)> {
        let order = (0..PLACES).map(|number| (from + number) % PLACES);
        let number = order
            .into_iter()
            .find(|&number| self.places[number].state.load(Ordering::Acquire) == POSTED)?;
        let place = &self.places[number];
        place.state.store(TAKEN, Ordering::Relaxed);
        let stores = place.stores.load(Ordering::Relaxed) != 0;
        let event = FaultEvent {
            address: place.address.load(Ordering::Relaxed),
            access: if stores { Access::Write } else { Access::Read },
            // What is in the way is seen when it is served.
            cause: Cause::Missing,
            thread: place.thread.load(Ordering::Relaxed),
        };
        Some((number, event))
    }

    /// Waits until something is posted, `at_most` so long; whether something is. On `udax-fault`.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> bool {
        let seen = self.posted.load(Ordering::Acquire);
        let is_any = || self.places.iter().any(|p| p.state.load(Ordering::Acquire) == POSTED);
        if !is_any() {
            futex::wait(&self.posted, seen, at_most);
        }
        is_any()
    }

    /// Says what became of the fault in place `number`. On `udax-fault`.
    pub(super) fn answer(&self, number: usize, verdict: Verdict) {
        let answer = match verdict {
            Verdict::Served => SERVED,
            Verdict::Free => NOTHING_IN_THE_WAY,
            Verdict::NotOurs => NOT_OURS,
        };
        let state = &self.places[number].state;
        state.store(answer, Ordering::Release);
        futex::wake_one(state);
    }
}
