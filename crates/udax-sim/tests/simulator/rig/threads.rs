//! Threads whose hanging is a failure with a name, not a test run without an end.

use super::{Rig, page};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No sleep that a test needs: it only turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(20);

/// A thread that must end.
pub struct Watched {
    name: &'static str,
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

/// Starts one.
pub fn watch(name: &'static str, body: impl FnOnce() + Send + 'static) -> Watched {
    let (sender, ended) = channel();
    let handle = std::thread::spawn(move || {
        body();
        let _ = sender.send(());
    });
    Watched { name, handle, ended }
}

impl Watched {
    #[track_caller]
    /// Waits for its end.
    pub fn ends(self) {
        if self.ended.recv_timeout(LIMIT).is_err() && !self.handle.is_finished() {
            panic!("{} sleeps for ever", self.name);
        }
        self.handle.join().expect("the thread has not panicked");
    }
}

/// Waits until somebody sleeps for the entry that starts at `start`, or until `thread` has ended without having had to.
pub fn await_sleeper_or_end(rig: &Rig, start: u64, thread: &Watched) {
    let begin = Instant::now();
    while rig.mapping.sleepers(page(start)) == 0 && !thread.handle.is_finished() {
        assert!(begin.elapsed() < LIMIT, "{} neither sleeps nor ends", thread.name);
        std::thread::yield_now();
    }
}

/// Waits until so many threads sleep for the entry that starts at `start`.
pub fn await_sleepers(rig: &Rig, start: u64, count: usize) {
    let begin = Instant::now();
    while rig.mapping.sleepers(page(start)) < count {
        assert!(begin.elapsed() < LIMIT, "nobody goes to sleep for the entry at {start:#x}");
        std::thread::yield_now();
    }
}
