//! Each primitive with two threads that wait (pitfall 10). Who is woken is seen at once, without any time passing: the waker itself
//! takes a sleeper out of its bucket.

use super::*;
use crate::error::{InstallError, IoError};
use crate::seams::{
    AddressSpace, Filesystem, Guarded, Intent, Iomap, MediaAccess, Platform, Pmd, PrivateCopies,
    Rights, WriteTracking,
};
use crate::trace::Inode;
use crate::waits::WaitTable;
use crate::{Dax, FrameRange};
use alloc::sync::Arc;
use core::cell::Cell;
use core::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

struct StdPlatform;

struct StdLock<T>(Mutex<T>);

impl<T: Send> ShortLock<T> for StdLock<T> {
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

#[derive(Default)]
struct StdParker {
    unparked: Mutex<bool>,
    wake: Condvar,
}

std::thread_local! {
    /// How often the thread went to sleep.
    static SLEEPS: Cell<u32> = const { Cell::new(0) };
}

impl Parker for StdParker {
    fn new() -> Arc<Self> {
        SLEEPS.set(SLEEPS.get() + 1);
        Arc::default()
    }

    fn park(&self) {
        let unparked = self.unparked.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_while(unparked, |unparked| !*unparked));
    }

    fn unpark(&self) {
        *self.unparked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }
}

impl Platform for StdPlatform {
    type Lock<T: Guarded> = StdLock<T>;
    type Parker = StdParker;
    type Counter = AtomicUsize;
}

/// A world in which nothing but locks happens.
struct Nothing;

impl World for Nothing {
    type Platform = StdPlatform;
    type Filesystem = Self;
    type Media = Self;
    type Space = Self;
}

impl Filesystem for Nothing {
    fn size_bytes(&self) -> u64 {
        0
    }

    fn iomap_begin(&self, _: PageRange, _: Intent) -> Result<Iomap, IoError> {
        unreachable!("locks ask no file system")
    }

    fn iomap_end(&self, _: &Iomap, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn set_size(&self, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn free(&self, _: PageRange) -> Result<(), IoError> {
        Ok(())
    }

    fn commit(&self, _: PageRange) -> Result<(), IoError> {
        Ok(())
    }

    fn note_store(&self) {}
}

impl Media for Nothing {
    fn direct_access(&self, frames: FrameRange, _: MediaAccess) -> Result<u64, IoError> {
        Ok(frames.count)
    }

    fn flush(&self, _: FrameRange) -> Result<(), IoError> {
        Ok(())
    }

    fn load(&self, _: Frame, _: u64, into: &mut [u8]) -> Result<usize, IoError> {
        Ok(into.len())
    }

    fn store(&self, _: Frame, _: u64, from: &[u8]) -> Result<usize, IoError> {
        Ok(from.len())
    }

    fn zero(&self, _: Frame, _: u64, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn first_pinned(&self, _: FrameRange) -> Option<Frame> {
        None
    }

    fn wait_unpinned(&self, _: Frame) {}
}

impl AddressSpace for Nothing {
    fn pmd(&self, _: PageIndex) -> Pmd {
        Pmd::None
    }

    fn install_storage(
        &self,
        _: PageRange,
        _: Frame,
        _: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        Ok(rights)
    }

    fn install_zeros(&self, _: PageRange, _: Order) -> Result<(), InstallError> {
        Ok(())
    }

    fn install_copy(&self, _: PageIndex, _: Option<Frame>) -> Result<(), InstallError> {
        Ok(())
    }

    fn unmap(&self, _: PageRange, _: PrivateCopies) {}

    fn write_protect(&self, _: PageRange, _: Frame) -> WriteTracking {
        WriteTracking::Faults
    }

    fn clear_pmd(&self, _: PageIndex) {}
}

type TestMapping = Arc<Mapping<Nothing>>;

fn mapping() -> TestMapping {
    // Two buckets, so that keys meet.
    Mapping::new(&Dax::with_wait_buckets(None, 1), Inode::default(), Nothing, Nothing)
}

fn locked(mapping: &Mapping<Nothing>, index: u64, order: Order) -> LockedEntry<'_, Nothing> {
    mapping.grab(PageIndex(index), order, None).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Turns a hang into a failure; no test needs the time.
const LIMIT: Duration = Duration::from_secs(20);

/// What a waiter does with what it finds.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Lock,
    Put,
    Remove,
}

/// What a waiter found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Nothing,
    Entry,
}

/// A thread that waits for the entry that covers a page.
struct Waiter {
    thread: JoinHandle<u32>,
    found: Receiver<Seen>,
    go_on: Sender<()>,
}

impl Waiter {
    fn found(&self) -> Seen {
        self.found.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("the waiter sleeps for ever"))
    }

    /// Lets it unlock, if it locked; and waits for its end.
    fn end(self) {
        self.sleeps();
    }

    /// The same; how often it went to sleep.
    fn sleeps(self) -> u32 {
        drop(self.go_on);
        self.thread.join().unwrap_or_else(|_| panic!("the waiter has panicked"))
    }
}

/// Starts one, and waits until it sleeps under the key of `start`, beside those that did before.
fn sleeper(mapping: &TestMapping, index: u64, start: u64, then: Then) -> Waiter {
    let before = mapping.sleepers(PageIndex(start));
    let ((tell, found), (go_on, wait)) = (channel(), channel::<()>());
    let shared = Arc::clone(mapping);
    let thread = std::thread::spawn(move || {
        match shared.get_unlocked(shared.tree.lock(), PageIndex(index), None, Waiting::Exclusive) {
            Lookup::Nothing(tree) => {
                drop(tree);
                let _ = tell.send(Seen::Nothing);
            }
            Lookup::Conflict => panic!("no size was asked for"),
            Lookup::Interrupted => panic!("nobody interrupts"),
            Lookup::Entry(awaited) => {
                let held = match then {
                    Then::Lock => Some(awaited.lock()),
                    Then::Put => {
                        drop(awaited);
                        None
                    }
                    Then::Remove => {
                        awaited.remove();
                        None
                    }
                };
                let _ = tell.send(Seen::Entry);
                let _ = wait.recv();
                drop(held);
            }
        }
        SLEEPS.get()
    });
    while mapping.sleepers(PageIndex(start)) == before {
        std::thread::yield_now();
    }
    Waiter { thread, found, go_on }
}

fn two(mapping: &TestMapping, index: u64, start: u64, then: Then) -> [Waiter; 2] {
    [(), ()].map(|()| sleeper(mapping, index, start, then))
}

#[test]
fn unlock_wakes_one_of_two_and_its_unlock_the_other() {
    let mapping = mapping();
    let held = locked(&mapping, 5, Order::Pte);
    let [one, two] = two(&mapping, 5, 5, Then::Lock);
    drop(held);
    assert_eq!(mapping.sleepers(PageIndex(5)), 1);
    assert_eq!(one.found(), Seen::Entry, "first come, first served");
    assert_eq!(mapping.sleepers(PageIndex(5)), 1, "to lock wakes nobody");
    assert_eq!(one.sleeps(), 1);
    assert_eq!(two.found(), Seen::Entry);
    assert_eq!(two.sleeps(), 1, "nor did that one wake for nothing");
}

#[test]
fn a_put_wakes_the_next_and_so_on() {
    let mapping = mapping();
    let held = locked(&mapping, 5, Order::Pte);
    let [one, two] = two(&mapping, 5, 5, Then::Put);
    drop(held);
    assert_eq!((one.found(), two.found()), (Seen::Entry, Seen::Entry));
    one.end();
    two.end();
}

#[test]
fn a_removal_by_one_who_waited_wakes_all() {
    let mapping = mapping();
    let held = locked(&mapping, 5, Order::Pte);
    let remover = sleeper(&mapping, 5, 5, Then::Remove);
    let [one, two] = two(&mapping, 5, 5, Then::Lock);
    drop(held);
    assert_eq!(remover.found(), Seen::Entry);
    assert_eq!(mapping.sleepers(PageIndex(5)), 0);
    assert_eq!((one.found(), two.found()), (Seen::Nothing, Seen::Nothing));
    [remover, one, two].into_iter().for_each(Waiter::end);
}

#[test]
fn giving_up_a_held_entry_wakes_all() {
    let mapping = mapping();
    let held = locked(&mapping, 5, Order::Pte);
    let waiters = two(&mapping, 5, 5, Then::Lock);
    mapping.remove_all(alloc::vec![held]);
    assert_eq!(mapping.sleepers(PageIndex(5)), 0);
    assert!(waiters.iter().all(|waiter| waiter.found() == Seen::Nothing));
    waiters.into_iter().for_each(Waiter::end);
}

#[test]
fn a_downgrade_wakes_all_under_the_old_key() {
    let mapping = mapping();
    let held = locked(&mapping, 512, Order::Pmd);
    let waiters = [513, 514].map(|index| sleeper(&mapping, index, 512, Then::Lock));
    let small = Entry::new(Order::Pte, Kind::Empty).locked();
    let Ok(small) = held.downgrade(PageIndex(700), small) else { panic!("there is memory") };
    assert_eq!(mapping.sleepers(PageIndex(512)), 0);
    assert!(waiters.iter().all(|waiter| waiter.found() == Seen::Nothing));
    drop(small);
    waiters.into_iter().for_each(Waiter::end);
}

/// S5: the guard unlocks what it could not downgrade.
#[test]
fn a_downgrade_without_memory_wakes_one_and_keeps_the_entry() {
    let mapping = mapping();
    let held = locked(&mapping, 512, Order::Pmd);
    let [one, two] = [513, 514].map(|index| sleeper(&mapping, index, 512, Then::Lock));
    mapping.limit_index_nodes(Some(0));
    let small = Entry::new(Order::Pte, Kind::Empty).locked();
    assert!(held.downgrade(PageIndex(700), small).is_err());
    assert_eq!(mapping.sleepers(PageIndex(512)), 1);
    assert_eq!(one.found(), Seen::Entry);
    one.end();
    assert_eq!(two.found(), Seen::Entry);
    two.end();
}

#[test]
fn a_new_kind_wakes_nobody() {
    let mapping = mapping();
    let mut held = locked(&mapping, 5, Order::Pte);
    let waiters = two(&mapping, 5, 5, Then::Put);
    held.set_kind(Kind::Zero);
    held.set_kind(Kind::Mapped(Frame(7)));
    assert_eq!(mapping.sleepers(PageIndex(5)), 2);
    drop(held);
    assert!(waiters.iter().all(|waiter| waiter.found() == Seen::Entry));
    assert!(waiters.into_iter().all(|waiter| waiter.sleeps() == 1), "nobody woke for nothing");
}

/// W6, S10: who waits without exclusivity is woken beside an exclusive one, wherever it stands, and never in its stead.
#[test]
fn a_waiter_that_may_vanish_uses_no_wake_up() {
    for shared_at in 0..3 {
        let table = WaitTable::<StdPlatform>::new(1);
        let key = crate::waits::WaitKey { mapping: 1, start: PageIndex(5) };
        let parkers = [0, 1, 2].map(|place| {
            let waiting = if place == shared_at { Waiting::Shared } else { Waiting::Exclusive };
            (waiting, table.enqueue(key, waiting))
        });
        table.wake(key, Wake::Next);
        let woken = |wanted: Waiting| {
            let is_woken = |parker: &StdParker| *parker.unparked.lock().expect("nobody panics");
            let these = parkers.iter().filter(|(waiting, _)| *waiting == wanted);
            these.filter(|(_, parker)| is_woken(parker)).count()
        };
        assert_eq!((woken(Waiting::Shared), woken(Waiting::Exclusive)), (1, 1));
        assert_eq!(table.sleeping(key), 1);
    }
}

/// And who comes from the storage, and may find the file gone, is such a waiter; a fault is not.
#[test]
fn pitfall_014_who_comes_from_the_storage_waits_without_exclusivity() {
    for (from_storage, wanted) in [(true, Waiting::Shared), (false, Waiting::Exclusive)] {
        let mapping = mapping();
        let held = locked(&mapping, 5, Order::Pte);
        let shared = Arc::clone(&mapping);
        let thread = std::thread::spawn(move || {
            if from_storage {
                assert!(shared.lock_mapped(PageIndex(5)).is_none(), "there is no storage");
            } else {
                drop(locked(&shared, 5, Order::Pte));
            }
        });
        while mapping.sleepers(PageIndex(5)) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(mapping.dax.waits.sleepers_as(mapping.key(PageIndex(5))), [wanted]);
        drop(held);
        thread.join().unwrap_or_else(|_| panic!("the waiter has panicked"));
    }
}

/// Pitfalls 9, 11: the order of the tests is nothing, size, lock; a small entry anywhere in the 2 MiB is a conflict at once.
#[test]
fn a_2_mib_request_tests_for_nothing_then_size_then_lock() {
    let mapping = mapping();
    let look = |index: u64| {
        let exclusive = Waiting::Exclusive;
        mapping.get_unlocked(mapping.tree.lock(), PageIndex(index), Some(Order::Pmd), exclusive)
    };
    assert!(matches!(look(0), Lookup::Nothing(_)));
    let small = locked(&mapping, 300, Order::Pte);
    assert!(matches!(look(0), Lookup::Conflict), "locked, and not waited for");
    assert_eq!(
        mapping.grab(PageIndex(0), Order::Pmd, None).err(),
        Some(crate::grab::GrabError::Conflict)
    );
    drop(small);
    assert!(matches!(look(0), Lookup::Conflict), "unlocked");
    assert!(matches!(look(512), Lookup::Nothing(_)));
    drop(locked(&mapping, 512, Order::Pmd));
    assert!(matches!(look(512), Lookup::Entry(_)));
}

/// S11: keys that share a bucket. 64 of them in two buckets, each with two sleepers: a wake for one reaches none of the others.
#[test]
fn a_wake_passes_by_the_sleepers_of_other_keys() {
    let table = WaitTable::<StdPlatform>::new(1);
    let key = |start| crate::waits::WaitKey { mapping: 1, start: PageIndex(start) };
    for start in 0..64 {
        for _ in 0..2 {
            let _parker = table.enqueue(key(start), Waiting::Exclusive);
        }
    }
    let _other_file = table
        .enqueue(crate::waits::WaitKey { mapping: 2, start: PageIndex(63) }, Waiting::Exclusive);
    for start in (0..64).rev() {
        table.wake(key(start), Wake::Next);
        assert_eq!(table.sleeping(key(start)), 1);
        table.wake(key(start), Wake::All);
        assert_eq!(table.sleeping(key(start)), 0);
        assert!((0..start).all(|other| table.sleeping(key(other)) == 2));
    }
    let other_file = crate::waits::WaitKey { mapping: 2, start: PageIndex(63) };
    assert_eq!(table.sleeping(other_file), 1);
}

/// W7: a guard that is dropped while its thread unwinds unlocks and wakes all the same.
#[test]
fn a_panic_leaves_no_entry_locked() {
    let mapping = mapping();
    let thread = {
        let mapping = Arc::clone(&mapping);
        std::thread::spawn(move || {
            let _held = locked(&mapping, 5, Order::Pte);
            std::panic::resume_unwind(alloc::boxed::Box::new("planned"));
        })
    };
    assert!(thread.join().is_err());
    let report = mapping.entries_in(PageRange::new(PageIndex(5), 1));
    assert!(report.first().is_some_and(|report| !report.entry.is_locked()));
}
