//! The one runtime of a process that uses the library.

use crate::fork::ForkGuard;
use crate::runtime::Runtime;
use crate::statistics::Statistics;
use std::cell::RefCell;
use std::sync::LazyLock;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    udax_linux::at_fork(before_fork, after_fork_in_parent, after_fork_in_child);
    Runtime::new(None)
});

thread_local! {
    /// The fork that this thread is making.
    static FORK: RefCell<Option<ForkGuard<'static>>> = const { RefCell::new(None) };
}

fn before_fork() {
    let guard = RUNTIME.before_fork();
    FORK.with_borrow_mut(|fork| *fork = Some(guard));
}

fn after_fork_in_parent() {
    if let Some(guard) = FORK.with_borrow_mut(Option::take) {
        guard.parent();
    }
}

fn after_fork_in_child() {
    if let Some(guard) = FORK.with_borrow_mut(Option::take) {
        guard.child();
    }
}

pub(crate) fn runtime() -> &'static Runtime {
    &RUNTIME
}

/// What the library has served in this process, what it has left plain, and why. Blocks for the runtime's locks.
#[must_use]
pub fn statistics() -> Statistics {
    Statistics::of(runtime())
}
