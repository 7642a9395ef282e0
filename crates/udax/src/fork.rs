//! fork, spawn, and what another process may share with us.

use crate::regions::Regions;
use crate::runtime::{Files, Runtime};
use std::sync::{MutexGuard, RwLockWriteGuard};
use udax_linux::{Service, SignalsBlocked};

/// A fork is under way: no fault is, and no file is served.
#[must_use = "end it with `parent` or `child`"]
pub struct ForkGuard<'r> {
    runtime: &'r Runtime,
    _regions: RwLockWriteGuard<'r, Regions>,
    _files: MutexGuard<'r, Files>,
    _signals: SignalsBlocked,
}

impl ForkGuard<'_> {
    /// In the parent, after the fork.
    pub fn parent(self) {}

    /// In the child: there are no service threads here, and nothing is served until another program is executed.
    pub fn child(self) {
        Service::forget_in_child();
        self.runtime.state.close();
    }
}

impl Runtime {
    pub(crate) fn snapshot_inherited(&self) {
        let _signals = SignalsBlocked::new();
        taint_open(&mut self.state.files());
    }

    pub(crate) fn before_fork(&self) -> ForkGuard<'_> {
        let signals = SignalsBlocked::new();
        let mut files = self.state.files();
        taint_open(&mut files);
        self.state.end_all(&mut files, "the process forked");
        let regions = self.state.regions_mut();
        ForkGuard { runtime: self, _regions: regions, _files: files, _signals: signals }
    }

    pub(crate) fn before_exec(&self) {
        let _signals = SignalsBlocked::new();
        if std::process::id() == self.state.process {
            // For good, so that no other thread takes a lease between this and the exec. (A vfork child, which is another process in
            // this memory, closes nothing for its parent.)
            self.state.close();
        }
        let mut files = self.state.files();
        self.state.end_all(&mut files, "the process executed another program");
    }

    pub(crate) fn before_spawn(&self) {
        let _signals = SignalsBlocked::new();
        let mut files = self.state.files();
        taint_open(&mut files);
        self.state.end_all(&mut files, "the process started another");
    }
}

fn taint_open(files: &mut Files) {
    files.tainted.extend(crate::descriptors::open_files().into_iter().map(|open| open.key));
}
