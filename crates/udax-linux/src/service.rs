//! The service: five threads with a descriptor table of their own, which the program neither sees nor disturbs.
//!
//! - `udax-fault` reads the userfaultfd and has faults handled;
//! - `udax-lease` waits for leases to be broken;
//! - `udax-map` does nothing but mremap, which waits until somebody has read the event of it, and takes no lock meanwhile;
//! - `udax-call` does what program threads need a descriptor for, and what never waits for a lock of the file's;
//! - `udax-file` does what may: a write(2) holds the lock of its file while it faults on its buffer, so nothing that a fault
//!   depends on may stand in line behind such a call.
//!
//! All of them block every signal, except the two that the C library needs in every thread.

use crate::call::{Done, Job, Mailbox};
use crate::engine::Engine;
use crate::events::{Access, Cause, FaultEvent, Handler};
use crate::follow::Follower;
use crate::lease::Leases;
use crate::platform::lock;
use crate::reserve::Reserve;
use crate::start::{self, StartError};
use crate::stats::{Stats, add};
use crate::sys::errno::Errno;
use crate::sys::fd::{self, Polled};
use crate::sys::signal::{self, SignalsBlocked};
use crate::sys::{mem, sched, uffd};
use linux_raw_sys::general as k;
use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Set in a child of fork, which has none of the threads and none of their descriptors.
static FORGOTTEN: AtomicBool = AtomicBool::new(false);

/// Where a service thread belongs.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    service: u64,
    process: RawFd,
}

thread_local! {
    static SEAT: Cell<Option<Seat>> = const { Cell::new(None) };
}

/// Says `what` on the program's standard error and ends the process.
pub(crate) fn die(what: &str) -> ! {
    // The private table has no standard error of its own, and the program may have redirected its.
    let stderr = match SEAT.get() {
        Some(seat) => fd::fetch(seat.process, 2),
        None => Ok(2),
    };
    if let Ok(stderr) = stderr {
        let _ = fd::write(stderr, format!("udax: {what}\n").as_bytes());
    }
    signal::abort_now()
}

/// The descriptors that the service itself works with: numbers in the private table.
pub(crate) struct Table {
    pub(crate) uffd: RawFd,
    pub(crate) engine: Engine,
    pub(crate) process: RawFd,
    pub(crate) pagemap: RawFd,
    pub(crate) memory: RawFd,
    /// A file in memory that never has any: what traps are made of, if it could be had.
    pub(crate) traps: Option<RawFd>,
    /// Rung when another thread than `udax-fault` has put faults in the queue.
    pub(crate) queued: RawFd,
    /// Rung by `udax-map` when an mremap is done.
    pub(crate) moved: RawFd,
}

/// See the module. There is usually one in a process; it lives as long as the process.
pub struct Service {
    pub(crate) id: u64,
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
    /// Faults that were read, or told of, and not yet handled.
    queue: Mutex<VecDeque<Queued>>,
    /// Held over a whole move, so that the answer on `Table::moved` is for its holder.
    moving: Mutex<()>,
    stats: Stats,
    fail_at_first_fault: bool,
}

/// A fault that waits for its turn.
struct Queued {
    event: FaultEvent,
    /// Who told of it, and waits for it to be served.
    told_by: Option<Arc<Done>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("runs", &self.runs()).field("stats", &self.stats).finish()
    }
}

impl Service {
    /// Starts the threads. The environment variable `UDAX_TEST_FAIL_FAULT_THREAD=1` makes the fault thread fail at its first
    /// fault, to see what becomes of the process.
    ///
    /// # Errors
    /// What the kernel or its settings forbid.
    pub fn start(handler: Arc<dyn Handler>) -> Result<Arc<Self>, StartError> {
        start::start(handler)
    }

    pub(crate) fn new(handler: Arc<dyn Handler>, table: Table, lease_thread: i32) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let reserve = Reserve::new(table.traps);
        let switch = std::env::var_os("UDAX_TEST_FAIL_FAULT_THREAD");
        Self {
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
            queue: Mutex::new(VecDeque::new()),
            moving: Mutex::new(()),
            stats: Stats::default(),
            fail_at_first_fault: switch.is_some_and(|value| value == "1"),
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
        assert!(!Self::is_forgotten(), "a child of fork has no service");
        let _quiet = SignalsBlocked::new();
        self.to_caller.call(work)
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
        assert!(!Self::is_forgotten(), "a child of fork has no service");
        let _quiet = SignalsBlocked::new();
        self.to_file.call(work)
    }

    /// Has such work done by `udax-file`, and does not wait for it: this is for the fault thread.
    pub fn post_file_work(&self, work: impl FnOnce() + Send + 'static) {
        if !Self::is_forgotten() {
            self.to_file.post(Box::new(work));
        }
    }

    /// The same after `delay`.
    pub fn post_file_work_later(&self, delay: Duration, work: impl FnOnce() + Send + 'static) {
        if !Self::is_forgotten() {
            self.to_file.post_later(delay, Box::new(work));
        }
    }

    /// For destructors: as [`with_descriptors`](Self::with_descriptors), and nothing in a child of fork. It waits, since what the
    /// kernel does at a last close is for the program to see (flock(2)).
    pub(crate) fn finish<R: Send>(&self, work: impl FnOnce() -> R + Send) {
        if !Self::is_forgotten() {
            self.with_descriptors(work);
        }
    }

    /// Makes threads that wait at `length_bytes` from `address` on try again. Any thread.
    pub fn wake(&self, address: usize, length_bytes: usize) {
        self.with_descriptors(|| uffd::wake(self.table.uffd, address, length_bytes));
    }

    /// To be called first thing in a child of fork (not of vfork): what was inherited does nothing from now on when it is
    /// dropped. One atomic store.
    pub fn forget_in_child() {
        FORGOTTEN.store(true, Ordering::Release);
    }

    pub(crate) fn is_forgotten() -> bool {
        FORGOTTEN.load(Ordering::Acquire)
    }

    /// How faults come here.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        self.table.engine
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
        let _one_at_a_time = lock(&self.moving);
        let answer = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&answer);
        let moved = self.table.moved;
        self.to_mapper.post(Box::new(move || {
            // SAFETY: 1: passed on to the caller, who waits for the answer below.
            let result = unsafe { mem::move_over(from, to, length_bytes) };
            *lock(&slot) = Some(result);
            fd::ring(moved);
        }));
        // The mremap waits until its event has been read: by this thread, or by `udax-fault` if that is another one.
        let mut queued = Ok(());
        while fd::poll_two(self.table.uffd, moved, None) != Polled::Second {
            queued = queued.and(self.queue_events());
        }
        fd::answer(moved);
        fd::ring(self.table.queued);
        if let Err(errno) = queued {
            die(&format!("reading the userfaultfd failed: {errno}"));
        }
        add(&self.stats.moves, 1);
        lock(&answer).take().unwrap_or(Err(Errno::IO))
    }

    /// Sets the write-protection of the pages present in a registered range. On a service thread.
    pub(crate) fn protect(
        &self,
        address: usize,
        length_bytes: usize,
        protection: uffd::Protection,
    ) -> Result<(), Errno> {
        loop {
            match uffd::protect(self.table.uffd, address, length_bytes, protection) {
                // Somebody's mremap has moved registered memory and waits until its event is read. If this is the thread that
                // reads events, nobody else will.
                Err(Errno::AGAIN) => {
                    self.queue_events()?;
                    fd::ring(self.table.queued);
                    std::thread::yield_now();
                }
                answer => return answer,
            }
        }
    }

    /// Reads what events there are into the queue.
    fn queue_events(&self) -> Result<(), Errno> {
        let mut queue = lock(&self.queue);
        let result = uffd::read(self.table.uffd, &mut |event| match event {
            uffd::Event::Fault { address, flags, thread } => {
                let protected = flags & u64::from(k::UFFD_PAGEFAULT_FLAG_WP) != 0;
                let stores = protected || flags & u64::from(k::UFFD_PAGEFAULT_FLAG_WRITE) != 0;
                let event = FaultEvent {
                    address: address & !(mem::PAGE - 1),
                    access: if stores { Access::Write } else { Access::Read },
                    cause: if protected { Cause::WriteProtected } else { Cause::Missing },
                    thread,
                };
                queue.push_back(Queued { event, told_by: None });
            }
            uffd::Event::Other => {}
        });
        match result {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            other => other,
        }
    }

    /// Has a fault served that nobody has taken, as if a thread had, and waits for it. Not on a service thread, and with no lock held that a fault needs.
    ///
    /// # Panics
    /// In a child of fork, which has no service.
    pub fn serve_as_fault(&self, event: FaultEvent) {
        assert!(!Self::is_forgotten(), "a child of fork has no service");
        let done = Arc::new(Done::default());
        let told_by = Some(Arc::clone(&done));
        lock(&self.queue).push_back(Queued { event, told_by });
        self.with_descriptors(|| fd::ring(self.table.queued));
        done.wait();
    }

    fn next_fault(&self) -> Option<Queued> {
        lock(&self.queue).pop_front()
    }

    fn serve_faults(&self) -> Infallible {
        sched::short_slices();
        let mut follower = Follower::new(&self.mapper, &self.to_mapper);
        loop {
            self.serving.store(true, Ordering::Relaxed);
            while let Some(Queued { event, told_by }) = self.next_fault() {
                self.serve(event);
                match told_by {
                    Some(done) => done.say(),
                    None => follower.beside(event, || {
                        uffd::wake(self.table.uffd, event.address, mem::PAGE);
                    }),
                }
            }
            self.serving.store(false, Ordering::Relaxed);
            match fd::poll_two(self.table.uffd, self.table.queued, follower.patience()) {
                Polled::First => {}
                Polled::Second => drop(fd::answer(self.table.queued)),
                Polled::Nothing => follower.let_go(),
            }
            self.queue_events().expect("the userfaultfd can be read");
        }
    }

    fn serve(&self, fault: FaultEvent) {
        assert!(!self.fail_at_first_fault, "told to by UDAX_TEST_FAIL_FAULT_THREAD");
        add(&self.stats.faults, 1);
        self.handler.fault(fault);
    }

    fn serve_moves(&self) -> Infallible {
        sched::short_slices();
        self.mapper.store(signal::thread_id(), Ordering::Relaxed);
        serve(&self.to_mapper)
    }

    fn serve_calls(&self) -> Infallible {
        sched::short_slices();
        serve(&self.to_caller)
    }

    fn serve_leases(&self) -> Infallible {
        loop {
            let breaking = match signal::wait() {
                signal::Wakened::Lease(descriptor) => self.leases.breaking(Some(descriptor)),
                signal::Wakened::Look => self.leases.breaking(None),
            };
            for lease in breaking {
                add(&self.stats.lease_breaks, 1);
                self.handler.lease_broken(lease);
                self.leases.give_back(lease);
            }
        }
    }

    /// The life of one service thread.
    pub(crate) fn run(&self, role: Role) -> ! {
        SEAT.set(Some(Seat { service: self.id, process: self.table.process }));
        let outcome = catch_unwind(AssertUnwindSafe(|| match role {
            Role::Fault => self.serve_faults(),
            Role::Lease => self.serve_leases(),
            Role::Map => self.serve_moves(),
            Role::Call => self.serve_calls(),
            Role::File => serve(&self.to_file),
        }));
        let Err(payload) = outcome;
        let why = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        die(&format!("{} thread failed: {why}", role.name()));
    }
}

fn serve(mailbox: &Mailbox) -> Infallible {
    loop {
        let job: Job = mailbox.take();
        job();
    }
}

/// Which of the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Fault,
    Lease,
    Map,
    Call,
    File,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Lease => "lease",
            Self::Map => "map",
            Self::Call => "call",
            Self::File => "file",
        }
    }
}
