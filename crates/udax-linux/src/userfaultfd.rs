//! The userfaultfd of a service: faults are read from it, and its events, without which no mremap of registered memory ends.

use crate::bounds::Bounds;
use crate::call::{Done, Mailbox};
use crate::catcher::Waiting;
use crate::engine::Engine;
use crate::events::{Access, Cause, FaultEvent};
use crate::inject::{Point, fails, pass};
use crate::platform::lock;
use crate::service::die;
use crate::sys::errno::Errno;
use crate::sys::fd::{self, Polled};
use crate::sys::{mem, uffd};
use crate::watch;
use linux_raw_sys::general as k;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The descriptors are numbers in the service's table: everything here is for its threads, unless it says otherwise.
pub(crate) struct Userfaultfd {
    number: RawFd,
    engine: Engine,
    /// Rung when another thread than `udax-fault` has put faults in the queue.
    queued: RawFd,
    /// Rung by `udax-map` when an mremap is done.
    moved: RawFd,
    /// Faults that were read, or told of, and not yet handled.
    queue: Mutex<VecDeque<Waiting>>,
    pub(crate) bounds: Bounds,
    /// Held over a whole move, so that the answer on `moved` is for its holder.
    moving: Mutex<()>,
}

impl Userfaultfd {
    /// Of a descriptor that has agreed on its features.
    pub(crate) fn new(number: RawFd, engine: Engine) -> Result<Self, Errno> {
        Ok(Self {
            number,
            engine,
            queued: fd::event_counter()?,
            moved: fd::event_counter()?,
            queue: Mutex::default(),
            bounds: Bounds::default(),
            moving: Mutex::default(),
        })
    }

    pub(crate) const fn engine(&self) -> Engine {
        self.engine
    }

    /// From now on missing pages, and stores to protected ones, are reported.
    pub(crate) fn register(&self, address: usize, length_bytes: usize) -> Result<(), Errno> {
        uffd::register(self.number, address, length_bytes)
    }

    /// From now on stores to protected pages are reported, and nothing else.
    pub(crate) fn register_stores(&self, address: usize, length_bytes: usize) -> Result<(), Errno> {
        uffd::register_stores(self.number, address, length_bytes)
    }

    /// Maps zero pages where nothing is mapped, up to the first page that is there; wakes whoever waits for them.
    pub(crate) fn zero_pages(&self, address: usize, length_bytes: usize) -> Result<(), Errno> {
        uffd::zero_pages(self.number, address, length_bytes)
    }

    /// Whoever waits in the range tries again.
    pub(crate) fn wake(&self, address: usize, length_bytes: usize) {
        uffd::wake(self.number, address, length_bytes);
    }

    /// Sets the write-protection of the pages present in a registered range.
    pub(crate) fn protect(
        &self,
        address: usize,
        length_bytes: usize,
        protection: uffd::Protection,
    ) -> Result<(), Errno> {
        if fails(Point::UffdIoctl) {
            return Err(Errno::IO);
        }
        loop {
            match uffd::protect(self.number, address, length_bytes, protection) {
                // Somebody's mremap has moved registered memory and waits until its event is read. If this is the thread that
                // reads events, nobody else will.
                Err(Errno::AGAIN) => {
                    self.queue_events()?;
                    fd::ring(self.queued);
                    std::thread::yield_now();
                }
                answer => return answer,
            }
        }
    }

    /// Moves `length_bytes` at `from` over what lies at `to`, at once for every other thread, by the thread that takes the jobs of
    /// `mapper`; registered memory stays so.
    ///
    /// # Safety
    /// 1. Both ranges are the caller's: what lies at `to` is replaced, and nothing refers to `from` any more.
    pub(crate) unsafe fn move_over(
        &self,
        mapper: &Mailbox,
        from: usize,
        to: usize,
        length_bytes: usize,
    ) -> Result<(), Errno> {
        let _one_at_a_time = lock(&self.moving);
        let answer = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&answer);
        let moved = self.moved;
        let task = watch::on_behalf();
        mapper.post(Box::new(move || {
            let _at_work = task.work();
            pass(Point::MapThread);
            let result = if fails(Point::Mremap) {
                Err(Errno::NOMEM)
            } else {
                // SAFETY: 1: passed on to the caller, who waits for the answer below.
                unsafe { mem::move_over(from, to, length_bytes) }
            };
            *lock(&slot) = Some(result);
            fd::ring(moved);
        }));
        // The mremap waits until its event has been read: by this thread, or by `udax-fault` if that is another one.
        let mut queued = Ok(());
        while fd::poll_two(self.number, moved, None) != Polled::Second {
            queued = queued.and(self.queue_events());
        }
        fd::answer(moved);
        fd::ring(self.queued);
        if let Err(errno) = queued {
            die(&format!("reading the userfaultfd failed: {errno}"));
        }
        lock(&answer).take().unwrap_or(Err(Errno::IO))
    }

    /// Reads what events there are into the queue.
    fn queue_events(&self) -> Result<(), Errno> {
        let mut queue = lock(&self.queue);
        let result = uffd::read(self.number, &mut |event| match event {
            uffd::Event::Fault { address, flags, thread } => {
                let protected = flags & u64::from(k::UFFD_PAGEFAULT_FLAG_WP) != 0;
                let stores = protected || flags & u64::from(k::UFFD_PAGEFAULT_FLAG_WRITE) != 0;
                let event = FaultEvent {
                    address: address & !(mem::PAGE - 1),
                    access: if stores { Access::Write } else { Access::Read },
                    cause: if protected { Cause::WriteProtected } else { Cause::Missing },
                    thread,
                };
                queue.push_back(Waiting::in_kernel(event));
            }
            uffd::Event::Other => {}
        });
        match result {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(()) if fails(Point::UffdRead) => Err(Errno::IO),
            other => other,
        }
    }

    /// Puts a fault into the queue that nobody has taken; `ring` is to run [`ring`](Self::ring) on a service thread. Any thread.
    pub(crate) fn tell(&self, event: FaultEvent, done: Arc<Done>, ring: impl FnOnce()) {
        lock(&self.queue).push_back(Waiting::told(event, done));
        ring();
    }

    /// Says that there is something in the queue.
    pub(crate) fn ring(&self) {
        fd::ring(self.queued);
    }

    pub(crate) fn next(&self) -> Option<Waiting> {
        lock(&self.queue).pop_front()
    }

    /// Waits for a fault, `at_most` so long; whether there may be one.
    pub(crate) fn wait(&self, at_most: Option<Duration>) -> bool {
        let polled = fd::poll_two(self.number, self.queued, at_most);
        if polled == Polled::Second {
            fd::answer(self.queued);
        }
        if let Err(errno) = self.queue_events() {
            die(&format!("reading the userfaultfd failed: {errno}"));
        }
        polled != Polled::Nothing
    }
}
