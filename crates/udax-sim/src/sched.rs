//! The scheduler: of the threads of a run only one runs at a time, and a seed decides which.
//!
//! Each simulated thread is a real one. It gives the turn away at every lock, unlock, park, unpark and [`yield_point`]; who gets
//! it is drawn from the seed, so that a seed is a schedule and a failure can be replayed. When nobody can run, the run ends
//! with a report of who waits where. The threads of a failed run are left asleep for ever: a test that failed ends its process.

use crate::prng::Prng;
use crate::together::Cpu;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const STEP_LIMIT: u64 = 2_000_000;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Member>>> = const { RefCell::new(None) };
}

/// The calling thread's place in the run it belongs to, if it belongs to one.
pub(crate) fn current() -> Option<Arc<Member>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Another thread of the run may go on here. Nothing happens outside of a run.
#[track_caller]
pub fn yield_point() {
    if let Some(member) = current() {
        member.yield_turn();
    }
}

/// How many turns the run of the calling thread has had so far; 0 outside of a run.
#[must_use]
pub fn steps() -> u64 {
    current().map_or(0, |member| member.shared.lock().steps)
}

/// What the calling thread is about, for the report of a run that hangs.
pub fn note(what: impl Into<String>) {
    if let Some(member) = current() {
        member.shared.lock().threads[member.number].note = what.into();
    }
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Lock(usize),
    Park(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ready,
    Waiting(Wait, &'static Location<'static>),
    Done,
}

#[derive(Debug)]
struct Thread {
    name: String,
    note: String,
    status: Status,
}

#[derive(Debug)]
struct State {
    seed: u64,
    prng: Prng,
    /// A turn is given away once in so many points.
    stickiness: u64,
    running: Option<usize>,
    threads: Vec<Thread>,
    steps: u64,
    step_limit: u64,
    failure: Option<Failure>,
}

impl State {
    fn finished(&self) -> bool {
        self.failure.is_some() || self.threads.iter().all(|thread| thread.status == Status::Done)
    }

    fn fail(&mut self, kind: FailureKind, headline: &str) {
        use fmt::Write as _;
        let mut report =
            format!("{headline} (step {}; UDAX_SEED={} replays it)", self.steps, self.seed);
        for (number, thread) in self.threads.iter().enumerate() {
            let Thread { name, note, status } = thread;
            let _ = write!(report, "\n  thread {number} {name:?} ");
            let _ = match status {
                Status::Ready => write!(report, "can run"),
                Status::Waiting(Wait::Lock(_), at) => write!(report, "waits for a lock at {at}"),
                Status::Waiting(Wait::Park(_), at) => write!(report, "is parked at {at}"),
                Status::Done => write!(report, "has ended"),
            };
            if !note.is_empty() {
                let _ = write!(report, ": {note}");
            }
        }
        self.running = None;
        self.failure.get_or_insert(Failure { seed: self.seed, kind, report });
    }

    /// Draws who is next. `me` keeps the turn more often than not, as a real thread does.
    fn draw(&mut self, me: Option<usize>) -> Option<usize> {
        let is_ready = |thread: &Thread| thread.status == Status::Ready;
        if let Some(me) = me
            && is_ready(&self.threads[me])
            && !self.prng.chance(1, self.stickiness)
        {
            return Some(me);
        }
        let ready: Vec<usize> =
            (0..self.threads.len()).filter(|&number| is_ready(&self.threads[number])).collect();
        if ready.is_empty() { None } else { Some(ready[self.prng.place(ready.len())]) }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// One for each thread, so that handing a turn on wakes exactly one.
    turns: Vec<Condvar>,
    over: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws who is next and wakes it; ends the run when there is nobody.
    fn hand_on(&self, state: &mut State, me: Option<usize>) {
        state.steps += 1;
        if state.steps > state.step_limit {
            state.fail(FailureKind::Livelock, "the run does not come to an end");
        } else {
            state.running = state.draw(me);
            if state.running.is_none() && !state.finished() {
                state.fail(FailureKind::Deadlock, "nobody can run");
            }
        }
        match state.running {
            Some(next) if Some(next) != me => self.turns[next].notify_one(),
            Some(_) => {}
            None => self.over.notify_all(),
        }
    }

    fn await_turn<'s>(&'s self, me: usize, mut state: MutexGuard<'s, State>) {
        while state.running != Some(me) {
            state = self.turns[me].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One thread's place in a run.
#[derive(Debug)]
pub(crate) struct Member {
    shared: Arc<Shared>,
    number: usize,
}

impl Member {
    /// Lets somebody else run, perhaps. A thread that unwinds keeps its turn: it must not be lost half-way.
    pub(crate) fn yield_turn(&self) {
        if std::thread::panicking() {
            return;
        }
        let mut state = self.shared.lock();
        self.shared.hand_on(&mut state, Some(self.number));
        self.shared.await_turn(self.number, state);
    }

    /// Sleeps until [`release`](Self::release) of the same `wait`. No wake-up can be lost between the caller's look and this:
    /// the caller has the turn.
    #[track_caller]
    pub(crate) fn wait(&self, wait: Wait) {
        let mut state = self.shared.lock();
        state.threads[self.number].status = Status::Waiting(wait, Location::caller());
        self.shared.hand_on(&mut state, Some(self.number));
        self.shared.await_turn(self.number, state);
    }

    /// Whoever waits for `wait` can run again.
    pub(crate) fn release(&self, wait: Wait) {
        for thread in &mut self.shared.lock().threads {
            if matches!(thread.status, Status::Waiting(what, _) if what == wait) {
                thread.status = Status::Ready;
            }
        }
        self.yield_turn();
    }

    fn end(&self, panic: Option<&str>) {
        let mut state = self.shared.lock();
        state.threads[self.number].status = Status::Done;
        if let Some(message) = panic {
            let headline =
                format!("thread {:?} panicked: {message}", state.threads[self.number].name);
            state.fail(FailureKind::Panic, &headline);
            self.shared.over.notify_all();
        } else {
            self.shared.hand_on(&mut state, None);
        }
    }
}

/// How a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Every thread that has not ended waits.
    Deadlock,
    /// The step limit was reached.
    Livelock,
    /// A thread panicked.
    Panic,
}

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed that replays it.
    pub seed: u64,
    /// How it failed.
    pub kind: FailureKind,
    /// Who waited where.
    pub report: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

impl std::error::Error for Failure {}

type Body = Box<dyn FnOnce() + Send>;

/// Threads to be run under one seed.
#[derive(Default)]
pub struct Run {
    seed: u64,
    step_limit: Option<u64>,
    threads: Vec<(String, Body)>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.threads.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Run").field("seed", &self.seed).field("threads", &names).finish()
    }
}

impl Run {
    /// A run without threads yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, step_limit: None, threads: Vec::new() }
    }

    /// The seed, for a test that wants to draw from it too.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a thread.
    pub fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> &mut Self {
        self.threads.push((name.to_owned(), Box::new(body)));
        self
    }

    /// After so many turns the run counts as a livelock.
    pub fn step_limit(&mut self, steps: u64) -> &mut Self {
        self.step_limit = Some(steps);
        self
    }

    /// Runs all threads to their ends.
    ///
    /// # Errors
    /// A deadlock, a livelock, or the panic of a thread.
    ///
    /// # Panics
    /// If the host has no thread to give.
    pub fn try_go(self) -> Result<(), Failure> {
        if self.threads.is_empty() {
            return Ok(());
        }
        let (shared, cpu) = (Arc::new(self.shared()), Cpu::here());
        let handles: Vec<_> = self
            .threads
            .into_iter()
            .enumerate()
            .map(|(number, (name, body))| {
                let member = Member { shared: Arc::clone(&shared), number };
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || {
                        cpu.stay();
                        live(member, body);
                    })
                    .expect("the host has threads")
            })
            .collect();
        let mut state = shared.lock();
        shared.hand_on(&mut state, None);
        while !state.finished() {
            state = shared.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let failure = state.failure.clone();
        drop(state);
        if let Some(failure) = failure {
            return Err(failure);
        }
        for handle in handles {
            let _ = handle.join();
        }
        Ok(())
    }

    /// Runs all threads to their ends.
    ///
    /// # Panics
    /// With the seed and a report, on a deadlock, a livelock, or the panic of a thread.
    pub fn go(self) {
        if let Err(failure) = self.try_go() {
            panic!("{failure}");
        }
    }

    fn shared(&self) -> Shared {
        let mut prng = Prng::new(self.seed);
        // Some schedules change thread at every point, some hardly ever: different races need different ones.
        let stickiness = [1, 2, 4, 16][prng.place(4)];
        let threads = self
            .threads
            .iter()
            .map(|(name, _)| Thread {
                name: name.clone(),
                note: String::new(),
                status: Status::Ready,
            })
            .collect();
        Shared {
            state: Mutex::new(State {
                seed: self.seed,
                prng,
                stickiness,
                running: None,
                threads,
                steps: 0,
                step_limit: self.step_limit.unwrap_or(STEP_LIMIT),
                failure: None,
            }),
            turns: self.threads.iter().map(|_| Condvar::new()).collect(),
            over: Condvar::new(),
        }
    }
}

/// The life of one thread of a run.
fn live(member: Member, body: Body) {
    let member = Arc::new(member);
    CURRENT.with(|current| *current.borrow_mut() = Some(Arc::clone(&member)));
    member.shared.await_turn(member.number, member.shared.lock());
    let outcome = catch_unwind(AssertUnwindSafe(body));
    CURRENT.with(|current| *current.borrow_mut() = None);
    let message = outcome.err().map(|payload| match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => {
            payload.downcast_ref::<&str>().map_or_else(String::new, |text| (*text).to_owned())
        }
    });
    member.end(message.as_deref());
}

/// Runs `bodies` under `seed`; see [`Run::go`].
///
/// # Panics
/// As [`Run::go`].
pub fn run(seed: u64, bodies: Vec<Body>) {
    let mut run = Run::new(seed);
    for (number, body) in bodies.into_iter().enumerate() {
        run.spawn(&format!("t{number}"), body);
    }
    run.go();
}

/// For every seed a run of what `make` spawns. With `UDAX_SEED` in the environment, that seed alone.
///
/// # Panics
/// As [`Run::go`], at the first seed that fails.
pub fn explore(seeds: std::ops::Range<u64>, mut make: impl FnMut(&mut Run)) {
    explore_then(seeds, |run| {
        make(run);
        || {}
    });
}

/// The same; and what `make` returns is called after each run, on the test's own thread.
///
/// # Panics
/// As [`explore`], or where that check fails.
pub fn explore_then<Check: FnOnce()>(
    seeds: std::ops::Range<u64>,
    mut make: impl FnMut(&mut Run) -> Check,
) {
    let only = std::env::var("UDAX_SEED").ok().and_then(|seed| seed.parse().ok());
    // Miri is a thousand times slower, and does not look for schedules.
    let most = if cfg!(miri) { 2 } else { usize::MAX };
    for seed in only.map_or(seeds, |seed: u64| seed..seed + 1).take(most) {
        let mut run = Run::new(seed);
        let check = make(&mut run);
        run.go();
        check();
    }
}
