//! fork, spawn, and what another process may share with us.

use super::Program;
use crate::fork::ForkGuard;

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

    /// Before another program takes the place of this one: a lease on a descriptor that it inherits would have nobody to answer for it.
    pub fn before_exec(&self) {
        self.runtime.before_exec();
    }

    /// Before a child is made that shares this memory until it executes another program: it takes the open files along.
    pub fn before_spawn(&self) {
        self.runtime.before_spawn();
    }
}
