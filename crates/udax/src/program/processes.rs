//! fork, spawn, and what another process may share with us.

use super::Program;
use crate::fork::{ForkGuard, UserChange};
use crate::runtime::Runtime;
use udax_linux::SignalsBlocked;

impl Program {
    /// When the library is loaded: what is open now may be open in the parent as well.
    pub fn snapshot_inherited(&self) {
        self.runtime.snapshot_inherited();
    }

    /// Before a fork. The plain mapping goes in everywhere, so that the child inherits what is always right, and files that are open
    /// now are not served again: the child may write them unseen.
    pub fn before_fork(&self) -> ForkGuard<'_> {
        self.runtime.before_fork()
    }

    /// In the child of a fork, once the C library works there again: what is to be asked from now on. What the parent had open stays plain, since it may store
    /// to it unseen; what is opened from here on is served as ever. The old one may only be leaked. Starts nothing; allocates.
    ///
    /// A file that nobody writes, and that can be opened by the name it had, is served as in the parent: then service threads are started.
    /// Every signal is blocked until the second half of the answer is dropped.
    #[must_use]
    pub fn in_child(&self, fork: ForkGuard<'_>) -> (Self, SignalsBlocked) {
        let inherited = fork.child_inherits();
        let runtime = Runtime::sharing(None, inherited.tainted);
        inherited.mappings.iter().for_each(|mapping| runtime.serve_inherited(mapping));
        let program = Self { native: self.native, promise: self.promise, runtime, trace: None };
        (program, inherited.signals)
    }

    /// Before all threads of the process become another user's, who may have no right to give the leases back. What is served ends, and nothing is taken into service while
    /// the answer lives: it is to be dropped after the change, by the same thread. Blocks for the table of files; every signal is blocked meanwhile.
    #[must_use = "it is held over the change"]
    pub fn before_becoming_another_user(&self) -> Option<UserChange<'_>> {
        self.runtime.before_becoming_another_user()
    }

    /// Before another program takes the place of this one: a lease on a descriptor that it inherits would have nobody to answer for it.
    pub fn before_exec(&self) {
        self.runtime.before_exec();
    }

    /// Before a child is made that shares this memory until it executes another program: it takes the open files along.
    pub fn before_spawn(&self) {
        self.runtime.before_spawn();
    }
}
