//! fork, spawn, and what another process may share with us.

use crate::regions::Regions;
use crate::runtime::{Files, Runtime};
use crate::served::FileKey;
use std::collections::BTreeSet;
use std::sync::{MutexGuard, RwLockWriteGuard};
use udax_linux::{Service, SignalsBlocked, segv};

/// A fork is under way: no fault is, and no file is served.
#[must_use = "end it with `parent` or `child`"]
pub struct ForkGuard<'r> {
    runtime: &'r Runtime,
    _regions: RwLockWriteGuard<'r, Regions>,
    files: MutexGuard<'r, Files>,
    _actions: segv::Writing,
    _signals: SignalsBlocked,
}

impl ForkGuard<'_> {
    /// In the parent, after the fork.
    pub fn parent(mut self) {
        // What another thread opened while the fork was on its way may be open in the child.
        taint_open(&mut self.files);
    }

    /// In the child: there are no service threads here, and this runtime serves nothing any more. Async-signal-safe.
    pub fn child(self) {
        Service::forget_in_child();
        self.runtime.state.close();
    }

    /// The same, and the files of which the parent may have a descriptor of ours. Allocates.
    pub(crate) fn child_shares(mut self) -> BTreeSet<FileKey> {
        crate::in_flight::forget_in_child();
        taint_open(&mut self.files);
        let shared = std::mem::take(&mut self.files.tainted);
        self.child();
        shared
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
        let actions = segv::Writing::begin();
        ForkGuard { runtime: self, _regions: regions, files, _actions: actions, _signals: signals }
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
