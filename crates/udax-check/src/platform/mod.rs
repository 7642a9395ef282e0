//! The platforms of the two checkers.

mod loom;
mod search;
mod shuttle;

pub use self::loom::LoomPlatform;
pub use self::search::SearchPlatform;
pub use self::shuttle::ShuttlePlatform;

use std::hash::Hash;
use udax_core::Platform;

/// A platform whose threads a checker schedules.
pub trait Checker: Platform {
    /// A thread that was started.
    type Thread;

    /// Starts a thread.
    fn spawn(body: impl FnOnce() + Send + 'static) -> Self::Thread;

    /// Lets the others go first: the caller can do nothing until one of them has done something.
    fn yield_now();

    /// The calling thread knows nothing any more but `rest`, and what is known before it begins. To be called where it is in no call of the engine.
    fn forget(rest: impl Hash) {
        let _ = rest;
    }

    /// Does what the calling thread learns nothing by but the answer.
    fn told<T: Hash + Copy>(act: impl FnOnce() -> T) -> T {
        Self::step(act, |&told| told)
    }

    /// Waits for its end.
    fn join(thread: Self::Thread);
}
