//! fork, spawn, exec, and what another process may share with us.
//!
//! What may be written through a descriptor that another process has as well is not served: no lease tells of such a store. A file that is open for reading only
//! is another matter. Its lease is on a description of our own, and nobody may write the file while it holds; so both sides of a fork go on being shown its holes.

use crate::regions::Regions;
use crate::runtime::{Files, Promise, Runtime, State};
use crate::served::{FileKey, ServedFile, whole_units};
use crate::tainted::Tainted;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, MutexGuard, RwLockWriteGuard};
use udax_core::{PageIndex, PageRange, Sharing};
use udax_linux::{Service, SignalsBlocked, VmaArea, segv};

/// A fork is under way: no fault is, and all that is mapped is plain.
#[must_use = "end it with `parent` or `child`"]
pub struct ForkGuard<'r> {
    runtime: &'r Runtime,
    /// The files that go on being served.
    resting: Vec<Arc<ServedFile>>,
    regions: RwLockWriteGuard<'r, Regions>,
    files: MutexGuard<'r, Files>,
    _actions: segv::Writing,
    signals: SignalsBlocked,
}

/// The process is about to become another user, or has just done so.
#[must_use = "it is held over the change"]
pub struct UserChange<'r> {
    _files: MutexGuard<'r, Files>,
    _signals: SignalsBlocked,
}

/// What a child of fork takes over from its parent.
pub(crate) struct Inherited {
    /// Of these files the parent may have a descriptor that writes them.
    pub(crate) tainted: Tainted,
    /// Mappings of files that nobody writes, which are plain in the child.
    pub(crate) mappings: Vec<InheritedMapping>,
    /// They have been since before the fork.
    pub(crate) signals: SignalsBlocked,
}

pub(crate) struct InheritedMapping {
    pub(crate) key: FileKey,
    pub(crate) name: Arc<str>,
    pub(crate) area: VmaArea,
}

impl ForkGuard<'_> {
    /// In the parent, after the fork.
    pub fn parent(mut self) {
        // What another thread opened while the fork was on its way may be open in the child.
        self.files.tainted.add_open();
        let Self { runtime, resting, regions, files, .. } = self;
        drop((regions, files));
        // Their mappings are in the registry all along, so that they may be unmapped meanwhile.
        resting.iter().for_each(|file| runtime.state.show_holes_again(file));
    }

    /// In the child: there are no service threads here, and this runtime serves nothing any more. Async-signal-safe.
    pub fn child(self) {
        self.runtime.forget_in_child();
        // Nothing is freed: who has the allocator's locks there is not in this process.
        std::mem::forget(self.resting);
    }

    /// The same, and what is of use in the child. Allocates.
    pub(crate) fn child_inherits(mut self) -> Inherited {
        crate::in_flight::forget_in_child();
        self.files.tainted.add_open();
        let tainted = std::mem::take(&mut self.files.tainted);
        let rests = |file: &Arc<ServedFile>| self.resting.iter().any(|one| Arc::ptr_eq(one, file));
        let shared = self.regions.iter().filter(|region| region.vma.sharing == Sharing::Shared);
        let mappings = shared.filter(|region| rests(&region.file)).map(|region| InheritedMapping {
            key: region.file.key,
            name: Arc::clone(&region.file.name),
            area: region.area(),
        });
        let mappings = mappings.collect();
        self.runtime.forget_in_child();
        Inherited { tainted, mappings, signals: self.signals }
    }
}

impl State {
    /// The served files that nobody writes while their lease holds, whoever has a descriptor of ours.
    fn only_read(files: &Files) -> Vec<Arc<ServedFile>> {
        files.served.values().filter(|file| file.is_only_read()).map(Arc::clone).collect()
    }

    /// Ends the service of the files that a process may write which takes our descriptors along.
    fn end_written(&self, files: &mut Files, why: &'static str) {
        let written = files.served.values().filter(|file| !file.is_only_read());
        let keys: Vec<FileKey> = written.map(|file| file.key).collect();
        keys.into_iter().for_each(|key| self.end_service(files, key, why));
    }

    /// Shows `file` natively for a while, in all its mappings. The registry is held exclusively.
    fn make_plain_for_a_while(regions: &Regions, file: &Arc<ServedFile>) {
        for region in regions.iter().filter(|region| Arc::ptr_eq(&region.file, file)) {
            let units = whole_units(region.vma.pages);
            region.vma.space.forget_strangers(region.vma.pages);
            file.host.assign(units);
            file.mapping.invalidate(units);
            region.vma.space.plain_all();
        }
    }

    fn show_holes_again(&self, file: &Arc<ServedFile>) {
        self.give_back(file, PageRange::between(PageIndex(0), file.pages()));
    }
}

impl Runtime {
    fn forget_in_child(&self) {
        Service::forget_in_child();
        self.state.close();
    }

    pub(crate) fn snapshot_inherited(&self) {
        let _signals = SignalsBlocked::new();
        self.state.files().tainted.add_open();
    }

    pub(crate) fn before_fork(&self) -> ForkGuard<'_> {
        let signals = SignalsBlocked::new();
        let mut files = self.state.files();
        files.tainted.add_open();
        self.state.end_written(&mut files, "the process forked");
        let resting = State::only_read(&files);
        let regions = self.state.regions_mut();
        resting.iter().for_each(|file| State::make_plain_for_a_while(&regions, file));
        let actions = segv::Writing::begin();
        ForkGuard { runtime: self, resting, regions, files, _actions: actions, signals }
    }

    pub(crate) fn before_exec(&self) {
        let _signals = SignalsBlocked::new();
        if std::process::id() == self.state.process {
            // For good, so that no other thread takes a lease between this and the exec. (A vfork child, which is another process in
            // this memory, closes nothing for its parent.)
            self.state.close();
            let mut files = self.state.files();
            self.state.end_all(&mut files, "the process executed another program");
        } else {
            let mut files = self.state.files();
            self.state.end_written(&mut files, "the process started another");
        }
    }

    pub(crate) fn before_becoming_another_user(&self) -> Option<UserChange<'_>> {
        let signals = SignalsBlocked::new();
        // A child of vfork, which is another process in this memory, changes nothing for its parent.
        if self.state.is_of_the_parent() {
            return None;
        }
        let mut files = self.state.files();
        self.state.end_all(&mut files, "the process became another user");
        Some(UserChange { _files: files, _signals: signals })
    }

    pub(crate) fn before_spawn(&self) {
        let _signals = SignalsBlocked::new();
        let mut files = self.state.files();
        files.tainted.add_open();
        self.state.end_written(&mut files, "the process started another");
    }
}

impl Runtime {
    /// In a child of fork: takes a mapping into service that shows its file natively so far. If that cannot be, it stays as it is.
    pub(crate) fn serve_inherited(&self, mapping: &InheritedMapping) {
        // Its descriptor may be closed, and ours are in the parent.
        let Some(fd) = crate::descriptors::open_again(&mapping.name, mapping.key) else { return };
        if let Err(refusal) = self.adopt(mapping.area, fd.as_raw_fd(), Promise::None) {
            self.count_refusal(&refusal);
        }
    }
}
