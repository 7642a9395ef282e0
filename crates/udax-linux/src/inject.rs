//! Internal failures on demand, so that tests see what becomes of the process: `UDAX_TEST_FAIL=POINT` in the environment, or `POINT:N` to let it pass N - 1 times,
//! or `POINT:later` to let it pass until the program calls [`now`]. From then on it fails each time. All of it is here, but for one line at each point.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Where something can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A panic of the thread as it takes its next fault, break or job.
    FaultThread,
    /// The same.
    LeaseThread,
    /// The same.
    MapThread,
    /// The same.
    CallThread,
    /// The same.
    FileThread,
    /// The thread ends without a word, with a fault at hand.
    FaultThreadGone,
    /// The same for the one that watches it, with a job at hand.
    CallThreadGone,
    /// The fault thread is stuck until somebody has said so.
    FaultThreadStuck,
    /// A panic in the engine.
    Engine,
    /// A thread dies with the lock of a space.
    SpaceLock,
    /// A thread dies with the registry of regions.
    Registry,
    /// The userfaultfd cannot be read.
    UffdRead,
    /// Its other requests fail.
    UffdIoctl,
    /// A move of memory is refused.
    Mremap,
    /// The file cannot be mapped again.
    MapAgain,
    /// No memory for what a look for holes finds.
    SurveyMemory,
}

const NAMES: [(&str, Point); 16] = [
    ("fault-thread", Point::FaultThread),
    ("lease-thread", Point::LeaseThread),
    ("map-thread", Point::MapThread),
    ("call-thread", Point::CallThread),
    ("file-thread", Point::FileThread),
    ("fault-thread-gone", Point::FaultThreadGone),
    ("call-thread-gone", Point::CallThreadGone),
    ("fault-thread-stuck", Point::FaultThreadStuck),
    ("engine", Point::Engine),
    ("space-lock", Point::SpaceLock),
    ("registry", Point::Registry),
    ("uffd-read", Point::UffdRead),
    ("uffd-ioctl", Point::UffdIoctl),
    ("mremap", Point::Mremap),
    ("map-again", Point::MapAgain),
    ("survey-memory", Point::SurveyMemory),
];

struct Plan {
    point: Point,
    from: AtomicU64,
    passed: AtomicU64,
}

/// What is to fail, and from which time on.
fn parse(asked: &str) -> Option<(Point, u64)> {
    let (name, from) = asked.split_once(':').unwrap_or((asked, "1"));
    let point = NAMES.iter().find(|(known, _)| *known == name)?.1;
    let from = if from == "later" { u64::MAX } else { from.parse().ok()? };
    Some((point, from))
}

/// For the fuzzer: the point's name, and from which time on it fails.
#[cfg(fuzzing)]
pub fn any_plan(asked: &str) -> Option<(&'static str, u64)> {
    let (point, from) = parse(asked)?;
    NAMES.iter().find(|(_, known)| *known == point).map(|&(name, _)| (name, from))
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let read = || {
        let (point, from) = parse(&std::env::var("UDAX_TEST_FAIL").ok()?)?;
        Some(Plan { point, from: AtomicU64::new(from), passed: AtomicU64::new(0) })
    };
    PLAN.get_or_init(read).as_ref()
}

/// Whether `point` is to fail now.
pub fn fails(point: Point) -> bool {
    plan().is_some_and(|plan| {
        let from = plan.from.load(Ordering::Relaxed);
        plan.point == point && plan.passed.fetch_add(1, Ordering::Relaxed) + 1 >= from
    })
}

/// What was to fail later fails from now on.
pub fn now() {
    if let Some(plan) = plan() {
        plan.from.store(0, Ordering::Relaxed);
    }
}

/// Panics if `point` is to fail now.
///
/// # Panics
/// That is what it is for.
pub fn pass(point: Point) {
    assert!(!fails(point), "told to by UDAX_TEST_FAIL");
}

/// The fault thread is stuck here, or gone, if it is to be.
pub fn stop_here() {
    be_stuck(Point::FaultThreadStuck);
    if fails(Point::FaultThreadGone) {
        crate::sys::signal::leave_now();
    }
}

/// What the standard library does when there is no memory, if `point` is to fail now.
pub fn run_out_of_memory(point: Point) {
    if fails(point) {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; 4096]>());
    }
}

/// If `point` is to fail now, a thread dies that has taken a lock by `take`.
pub fn die_holding<G>(point: Point, take: impl FnOnce() -> G + Send) {
    if fails(point) {
        let died = std::thread::scope(|scope| {
            let body = || {
                let _held = take();
                // Without the words of a panic.
                std::panic::resume_unwind(Box::new("told to by UDAX_TEST_FAIL"));
            };
            scope.spawn(body).join()
        });
        assert!(died.is_err(), "it was to die");
    }
}

/// How often the watch looks, if something is to fail: nobody wants to wait for it.
pub(crate) fn interval() -> Option<Duration> {
    plan().map(|_| Duration::from_millis(20))
}

static SAID: (Mutex<bool>, std::sync::Condvar) = (Mutex::new(false), std::sync::Condvar::new());

/// The watch has said that a thread is stuck.
pub(crate) fn said() {
    *crate::platform::lock(&SAID.0) = true;
    SAID.1.notify_all();
}

/// If `point` is to fail now, waits until the watch has said that somebody is stuck. Once that has been said nobody is stuck any more.
fn be_stuck(point: Point) {
    if fails(point) {
        let mut said = crate::platform::lock(&SAID.0);
        while !*said {
            said = crate::platform::wait(&SAID.1, said);
        }
    }
}
