//! What threads are at, for the last words of a process; and the watch over the service's threads (docs/concurrency.md, "What cannot end").
//!
//! `udax-call` looks after the other four, as it never waits for anything itself, and `udax-lease` after that one. A thread that is gone will answer nobody any more: the
//! process ends, with a word on standard error. One that is at the same thing look after look may be slow, or have been given no processor: that is said, and no more. Looks
//! are counted, not seconds: a process that was stopped, or a machine that was, has had no looks meanwhile.

use crate::inject;
use crate::platform::lock;
use crate::service::{Service, say};
use crate::sys::{fd, signal};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use udax_core::PageRange;

/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(5);
/// After so many looks that find a thread at the same thing it is said; then after twice as many, and so on.
const SLOW: u32 = 2;

/// Something that a thread does to a file.
#[derive(Clone, Debug)]
struct Task {
    operation: &'static str,
    file: Arc<str>,
    pages: PageRange,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { operation, file, pages } = self;
        if pages.end == PageRange::from(pages.start).end {
            return write!(f, "{operation} of {file} from byte {} on", pages.start.byte());
        }
        write!(f, "{operation} of bytes {} to {} of {file}", pages.start.byte(), pages.end.byte())
    }
}

/// What one thread is at.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    task: Mutex<Option<Task>>,
    /// Changes whenever the thread begins something or has ended it; odd while it is at something.
    turns: AtomicU64,
    /// The thread, once it is at work.
    thread: AtomicI32,
}

thread_local! {
    static DESK: Arc<Desk> = Arc::default();
}

/// The thread is at something while this lives.
#[derive(Debug)]
#[must_use = "it lasts as long as this lives"]
pub struct AtWork {
    before: Option<Task>,
}

/// This thread begins `operation` on some pages of a file. What it was at before it goes on with afterwards.
pub fn at_work(operation: &'static str, file: &Arc<str>, pages: PageRange) -> AtWork {
    begin(Some(Task { operation, file: Arc::clone(file), pages }))
}

fn begin(task: Option<Task>) -> AtWork {
    let before = DESK.try_with(|desk| std::mem::replace(&mut *lock(&desk.task), task));
    AtWork { before: before.ok().flatten() }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        // The last words come when all of it has been unwound.
        if std::thread::panicking() {
            return;
        }
        let before = self.before.take();
        // A thread that ends has no desk any more.
        let _ = DESK.try_with(|desk| *lock(&desk.task) = before);
    }
}

/// What this thread is at, for another that does a part of it.
pub(crate) struct OnBehalf(Option<Task>);

pub(crate) fn on_behalf() -> OnBehalf {
    OnBehalf(DESK.try_with(|desk| lock(&desk.task).clone()).ok().flatten())
}

impl OnBehalf {
    pub(crate) fn work(self) -> AtWork {
        begin(self.0)
    }
}

/// `what` ends this thread's work: the same, with what it was at.
pub(crate) fn last_words(what: &str) -> String {
    let what = what.replace('\n', " ");
    // Whoever holds it may be the one who failed.
    let task = DESK.try_with(|desk| desk.task.try_lock().ok().and_then(|task| task.clone()));
    match task {
        Ok(Some(task)) => format!("{what}, at {task}"),
        Ok(None) | Err(_) => what,
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

/// A turn of a service thread: a fault, a break, a job.
pub(crate) struct Turn<'d>(&'d Desk);

impl Desk {
    /// The desk of this thread, which is to be watched.
    pub(crate) fn mine() -> Arc<Self> {
        DESK.with(|desk| {
            desk.thread.store(signal::thread_id(), Ordering::Relaxed);
            Arc::clone(desk)
        })
    }

    pub(crate) fn turn(&self) -> Turn<'_> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one thread has seen of the others.
pub(crate) struct Watch {
    roles: &'static [Role],
    seen: Vec<(u64, u32)>,
    next: Instant,
}

impl Watch {
    pub(crate) fn over(roles: &'static [Role]) -> Self {
        let seen = vec![(0, 0); roles.len()];
        Self { roles, seen, next: Instant::now() }
    }

    /// Looks, if it is time, and says how long it is to the next look.
    pub(crate) fn look(&mut self, service: &Service) -> Duration {
        let now = Instant::now();
        if let Some(early) = self.next.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return early;
        }
        for (&role, seen) in self.roles.iter().zip(&mut self.seen) {
            if let Some(desk) = service.desk(role) {
                look_at(role, desk, seen);
            }
        }
        let interval = inject::interval().unwrap_or(INTERVAL);
        self.next = now + interval;
        interval
    }
}

fn at(desk: &Desk) -> String {
    lock(&desk.task).as_ref().map(|task| format!(", at {task}")).unwrap_or_default()
}

fn look_at(role: Role, desk: &Desk, (turn, looks): &mut (u64, u32)) {
    let thread = desk.thread.load(Ordering::Relaxed);
    if !signal::is_thread(thread) {
        crate::service::die(&format!("the {} thread is gone{}", role.name(), at(desk)));
    }
    let now = desk.turns.load(Ordering::Relaxed);
    // What it does for others may take its time: a sync, an allocation.
    if now.is_multiple_of(2) || now != *turn || role == Role::File {
        (*turn, *looks) = (now, 0);
        return;
    }
    *looks += 1;
    if *looks >= SLOW && looks.is_power_of_two() {
        let (at, state) = (at(desk), fd::thread_state(thread));
        say(&format!(
            "the {} thread has not come on for {looks} looks ({state}){at}; who waits for it goes on waiting",
            role.name()
        ));
        inject::said();
    }
}
