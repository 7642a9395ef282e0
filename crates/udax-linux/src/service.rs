//! The service: five threads with a descriptor table of their own, which the program neither sees nor disturbs.
//!
//! - `udax-fault` reads the userfaultfd, or what signal handlers post, and has faults handled;
//! - `udax-lease` waits for leases to be broken;
//! - `udax-map` does nothing but mremap, which waits until somebody has read the event of it, and takes no lock meanwhile;
//! - `udax-call` does what program threads need a descriptor for, and what never waits for a lock of the file's;
//! - `udax-file` does what may: a write(2) holds the lock of its file while it faults on its buffer, so nothing that a fault
//!   depends on may stand in line behind such a call.
//!
//! All of them block every signal, except the two that the C library needs in every thread.

use crate::call::{Done, Job, Mailbox};
use crate::catcher::Catcher;
use crate::engine::Engine;
use crate::events::{FaultEvent, Handler, Verdict};
use crate::follow::Follower;
use crate::handover::Handover;
use crate::inject::{self, Point, fails, pass};
use crate::lease::Leases;
use crate::reserve::Reserve;
use crate::start::{self, StartError};
use crate::stats::{Stats, add};
use crate::strangers::are_rights_there;
use crate::sys::errno::Errno;
use crate::sys::fd;
use crate::sys::signal::{self, SignalsBlocked};
use crate::sys::{mem, sched};
use crate::watch::{self, Desk, Role, Watch};
use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many forks this process comes from, of those that were told. A child has none of the threads of a service and none of their descriptors.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// How many those were when a service was started last.
static FORKS_AT_START: AtomicU32 = AtomicU32::new(0);

/// Where a service thread belongs.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    service: u64,
    /// The process, where descriptors can be taken from it.
    process: Option<RawFd>,
}

thread_local! {
    static SEAT: Cell<Option<Seat>> = const { Cell::new(None) };
}

/// Says `what`, and what this thread was at, on the program's standard error and ends the process.
pub(crate) fn die(what: &str) -> ! {
    say(&watch::last_words(what));
    signal::abort_now()
}

/// Says `what` on the program's standard error.
pub(crate) fn say(what: &str) {
    // The private table has no standard error of its own, and the program may have redirected its.
    let stderr = match SEAT.get() {
        Some(Seat { process: Some(process), .. }) => fd::fetch(process, 2),
        // Of a file or a pipe that is another description for the same; a socket cannot be had so.
        Some(Seat { process: None, .. }) => fd::open_to_append(c"/proc/self/fd/2"),
        None => Ok(2),
    };
    if let Ok(stderr) = stderr {
        let _ = fd::write(stderr, format!("udax: {what}\n").as_bytes());
        if SEAT.get().is_some() {
            fd::close(stderr);
        }
    }
}

/// The descriptors that the service itself works with: numbers in the private table.
pub(crate) struct Table {
    pub(crate) catcher: Catcher,
    pub(crate) handover: Handover,
    pub(crate) pagemap: RawFd,
    pub(crate) memory: RawFd,
    pub(crate) maps: RawFd,
    /// A file in memory that never has any: what traps are made of, if it could be had.
    pub(crate) traps: Option<RawFd>,
    /// What zeros are made of where they are made in place.
    pub(crate) zeros: Option<RawFd>,
    /// What is in the way of a better catcher.
    pub(crate) why_not_better: Option<String>,
}

/// See the module. There is usually one in a process; it lives as long as the process.
pub struct Service {
    pub(crate) id: u64,
    /// [`FORKS`] when it was started.
    forks: u32,
    pub(crate) table: Table,
    pub(crate) huge_zero_pages: bool,
    pub(crate) leases: Leases,
    pub(crate) reserve: Reserve,
    pub(crate) runs: AtomicU64,
    handler: Arc<dyn Handler>,
    to_mapper: Mailbox,
    to_caller: Mailbox,
    to_file: Mailbox,
    /// The number of `udax-map`.
    mapper: AtomicI32,
    /// Whether `udax-fault` is at work.
    serving: AtomicBool,
    /// How many are at work on memory that is not served.
    replacing: AtomicU32,
    stats: Stats,
    /// What the threads are at, in the order of their roles, once they are at work.
    desks: [OnceLock<Arc<Desk>>; 5],
}

/// See [`Service::replace_unserved`].
pub(crate) struct Replacing<'s>(&'s AtomicU32);

impl Drop for Replacing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("runs", &self.runs()).field("stats", &self.stats).finish()
    }
}

impl Service {
    /// Starts the threads. The environment variable `UDAX_TEST_FAIL` has something fail, to see what becomes of the process ([`crate::inject`]).
    ///
    /// # Errors
    /// What the kernel or its settings forbid.
    pub fn start(handler: Arc<dyn Handler>) -> Result<Arc<Self>, StartError> {
        start::start(handler)
    }

    pub(crate) fn new(handler: Arc<dyn Handler>, table: Table, lease_thread: i32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The environment is read here, and not by whichever thread comes first.
        let _ = inject::interval();
        let reserve = Reserve::new(table.traps);
        let forks = FORKS.load(Ordering::Acquire);
        FORKS_AT_START.store(forks, Ordering::Release);
        Self {
            forks,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            table,
            huge_zero_pages: start::has_huge_zero_pages(),
            leases: Leases::new(lease_thread),
            reserve,
            runs: AtomicU64::new(0),
            handler,
            to_mapper: Mailbox::new(),
            to_caller: Mailbox::new(),
            to_file: Mailbox::new(),
            mapper: AtomicI32::new(0),
            serving: AtomicBool::new(false),
            replacing: AtomicU32::new(0),
            stats: Stats::default(),
            desks: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// Whether this is a thread of a service.
    #[must_use]
    pub fn on_service_thread() -> bool {
        SEAT.get().is_some()
    }

    fn is_seated(&self) -> bool {
        SEAT.get().is_some_and(|seat| seat.service == self.id)
    }

    /// Runs `work` where the service's descriptors are: here on a service thread, else on `udax-call`, which is waited for
    /// with every signal blocked. `work` may touch no memory that is served, and take no lock that the caller holds.
    ///
    /// # Panics
    /// In a child of fork, which has no service.
    pub fn with_descriptors<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.is_seated() {
            return work();
        }
        assert!(!self.is_of_the_parent(), "a child of fork does not have its parent's service");
        let _quiet = SignalsBlocked::new();
        let task = watch::on_behalf();
        self.to_caller.call(move || {
            let _at_work = task.work();
            pass(Point::CallThread);
            work()
        })
    }

    /// The same for work that may wait for a lock of a file in the kernel (seeks for holes, truncation, allocation, syncs, writes).
    /// Not for the fault thread, nor for anybody who holds what it waits for.
    ///
    /// # Panics
    /// As [`with_descriptors`](Self::with_descriptors).
    pub fn with_files<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.is_seated() {
            return work();
        }
        assert!(!self.is_of_the_parent(), "a child of fork does not have its parent's service");
        let _quiet = SignalsBlocked::new();
        let task = watch::on_behalf();
        self.to_file.call(move || {
            let _at_work = task.work();
            pass(Point::FileThread);
            work()
        })
    }

    /// Has such work done by `udax-file`, and does not wait for it: this is for the fault thread.
    pub fn post_file_work(&self, work: impl FnOnce() + Send + 'static) {
        if !self.is_of_the_parent() {
            self.to_file.post(Box::new(work));
        }
    }

    /// The same after `delay`.
    pub fn post_file_work_later(&self, delay: Duration, work: impl FnOnce() + Send + 'static) {
        if !self.is_of_the_parent() {
            self.to_file.post_later(delay, Box::new(work));
        }
    }

    /// For destructors: as [`with_descriptors`](Self::with_descriptors), and nothing in a child of fork. It waits, since what the
    /// kernel does at a last close is for the program to see (flock(2)).
    pub(crate) fn finish<R: Send>(&self, work: impl FnOnce() -> R + Send) {
        if !self.is_of_the_parent() {
            self.with_descriptors(work);
        }
    }

    /// To be called first thing in a child of fork (not of vfork): what was inherited does nothing from now on when it is
    /// dropped, and another service may be started. One atomic addition.
    pub fn forget_in_child() {
        FORKS.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether this is a child of fork in which no service has been started.
    pub(crate) fn is_forgotten() -> bool {
        FORKS.load(Ordering::Acquire) != FORKS_AT_START.load(Ordering::Acquire)
    }

    /// Whether this process is a child of the one that this is the service of.
    fn is_of_the_parent(&self) -> bool {
        FORKS.load(Ordering::Acquire) != self.forks
    }

    pub(crate) const fn catcher(&self) -> &Catcher {
        &self.table.catcher
    }

    /// How faults come here.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.table.catcher.engine()
    }

    /// Why it is not the best one, if it is not; what can be done about it.
    #[must_use]
    pub fn why_not_better(&self) -> Option<&str> {
        self.table.why_not_better.as_deref()
    }

    /// From now on these may be.
    pub(crate) fn expect_faults(&self, addresses: &Range<usize>) {
        self.table.catcher.bounds().include(addresses);
    }

    /// Whether any of `addresses` may be served. Some atomic loads; whoever knows an address that is served has it from the call that began that.
    #[must_use]
    pub fn may_serve(&self, addresses: &Range<usize>) -> bool {
        self.table.catcher.bounds().meet(addresses)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many runs of trap and zero pages there are in the process; each is about one mapping of the kernel's.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Gives faults under way their turn, for some time: who works in the background takes the same locks again and again, and each time `udax-fault` wakes
    /// up it would find them taken. With no lock held that a fault needs.
    pub fn let_faults_pass(&self) {
        const PATIENCE: Duration = Duration::from_millis(1);
        let since = Instant::now();
        while self.serving.load(Ordering::Relaxed) && since.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }

    /// Says `what` on the program's standard error and ends the process, without running anything of the program's.
    pub fn fail(&self, what: &str) -> ! {
        die(what)
    }

    /// Moves `length_bytes` at `from` over what lies at `to`, at once for every other thread; registered memory stays so.
    /// On a service thread.
    ///
    /// # Safety
    /// 1. Both ranges are the caller's: what lies at `to` is replaced, and nothing refers to `from` any more.
    pub(crate) unsafe fn move_over(
        &self,
        from: usize,
        to: usize,
        length_bytes: usize,
    ) -> Result<(), Errno> {
        add(&self.stats.moves, 1);
        match &self.table.catcher {
            // SAFETY: 1: passed on to our caller.
            Catcher::Userfaultfd(uffd) => unsafe {
                uffd.move_over(&self.to_mapper, from, to, length_bytes)
            },
            // SAFETY: 1: passed on to our caller.
            Catcher::Signals(_) => unsafe { mem::move_over(from, to, length_bytes) },
        }
    }

    /// Has a fault served that nobody has taken, as if a thread had, and waits for it. Not on a service thread, and with no lock held that a fault needs.
    ///
    /// # Panics
    /// In a child of fork, which has no service.
    pub fn serve_as_fault(&self, event: FaultEvent) {
        assert!(!self.is_of_the_parent(), "a child of fork does not have its parent's service");
        match &self.table.catcher {
            Catcher::Signals(signals) => signals.ask(event),
            Catcher::Userfaultfd(uffd) => {
                let done = Arc::new(Done::default());
                uffd.tell(event, Arc::clone(&done), || self.with_descriptors(|| uffd.ring()));
                done.wait();
            }
        }
    }

    pub(crate) fn desk(&self, role: Role) -> Option<&Desk> {
        self.desks[role as usize].get().map(|desk| &**desk)
    }

    fn serve_faults(&self) -> Infallible {
        sched::short_slices();
        let catcher = &self.table.catcher;
        let mut follower = Follower::new(&self.mapper, &self.to_mapper);
        loop {
            self.serving.store(true, Ordering::Relaxed);
            while let Some(waiting) = catcher.next() {
                let verdict = self.serve(waiting.event);
                if waiting.was_met() {
                    follower.beside(waiting.event, || catcher.answer(waiting, verdict));
                } else {
                    catcher.answer(waiting, verdict);
                }
            }
            self.serving.store(false, Ordering::Relaxed);
            if !catcher.wait(follower.patience()) {
                follower.let_go();
            }
        }
    }

    fn serve(&self, fault: FaultEvent) -> Verdict {
        let desk = self.desk(Role::Fault);
        let _turn = desk.map(|desk| desk.turn());
        add(&self.stats.faults, 1);
        let verdict = self.handler.fault(fault);
        if verdict != Verdict::Free {
            return verdict;
        }
        // It may be what is being replaced: until that is done.
        let is_replaced = || self.replacing.load(Ordering::Acquire) > 0;
        match self.catcher() {
            _ if is_replaced() => Verdict::Served,
            Catcher::Userfaultfd(_) => Verdict::Free,
            // Nobody takes an access back that the kernel would refuse again and again. The second look is for what was being replaced at the first.
            Catcher::Signals(_) => {
                let allowed = || are_rights_there(self, fault.address, fault.access);
                let is_refused = !allowed() && !is_replaced() && !allowed();
                if is_refused { Verdict::NotOurs } else { Verdict::Served }
            }
        }
    }

    /// While this is held accesses to `addresses` wait, which are not served, and have no rights for the moment.
    pub(crate) fn replace_unserved(&self, addresses: &Range<usize>) -> Replacing<'_> {
        self.expect_faults(addresses);
        self.replacing.fetch_add(1, Ordering::AcqRel);
        Replacing(&self.replacing)
    }

    fn serve_moves(&self) -> Infallible {
        sched::short_slices();
        self.mapper.store(signal::thread_id(), Ordering::Relaxed);
        self.serve_jobs(&self.to_mapper, Role::Map)
    }

    fn serve_calls(&self) -> Infallible {
        sched::short_slices();
        let mut watch = Watch::over(&[Role::Fault, Role::Lease, Role::Map, Role::File]);
        loop {
            let patience = watch.look(self);
            if let Some(job) = self.to_caller.take(Some(patience)) {
                self.do_job(job, Role::Call);
            }
        }
    }

    fn serve_jobs(&self, mailbox: &Mailbox, role: Role) -> Infallible {
        loop {
            if let Some(job) = mailbox.take(None) {
                self.do_job(job, role);
            }
        }
    }

    fn do_job(&self, job: Job, role: Role) {
        let _turn = self.desk(role).map(|desk| desk.turn());
        if role == Role::Call && fails(Point::CallThreadGone) {
            signal::leave_now();
        }
        job();
    }

    fn serve_leases(&self) -> Infallible {
        let mut watch = Watch::over(&[Role::Call]);
        loop {
            watch.look(self);
            let breaking = match signal::wait() {
                signal::Wakened::Lease(descriptor) => self.leases.breaking(Some(descriptor)),
                signal::Wakened::Look => self.leases.breaking(None),
            };
            for lease in breaking {
                let _turn = self.desk(Role::Lease).map(|desk| desk.turn());
                add(&self.stats.lease_breaks, 1);
                self.handler.lease_broken(lease);
                self.leases.give_back(lease);
            }
        }
    }

    /// The life of one service thread.
    pub(crate) fn run(&self, role: Role) -> ! {
        SEAT.set(Some(Seat { service: self.id, process: self.table.handover.process() }));
        let _ = self.desks[role as usize].set(Desk::mine());
        let outcome = catch_unwind(AssertUnwindSafe(|| match role {
            Role::Fault => self.serve_faults(),
            Role::Lease => self.serve_leases(),
            Role::Map => self.serve_moves(),
            Role::Call => self.serve_calls(),
            Role::File => self.serve_jobs(&self.to_file, Role::File),
        }));
        let Err(payload) = outcome;
        let why = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        die(&format!("the {} thread failed: {why}", role.name()));
    }
}
