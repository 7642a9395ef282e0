//! The platforms of the two checkers.

mod loom;
mod shuttle;

pub use self::loom::LoomPlatform;
pub use self::shuttle::ShuttlePlatform;

use udax_core::Platform;

/// A platform whose threads a checker schedules.
pub trait Checker: Platform {
    /// A thread that was started.
    type Thread;

    /// Starts a thread.
    fn spawn(body: impl FnOnce() + Send + 'static) -> Self::Thread;

    /// Lets the others go first: the caller can do nothing until one of them has done something.
    fn yield_now();

    /// Waits for its end.
    fn join(thread: Self::Thread);
}
