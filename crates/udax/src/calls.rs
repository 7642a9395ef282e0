//! Calls that change a file without a store, and what has to happen before them.

use crate::in_flight::Writing;
use crate::regions::Region;
use crate::runtime::{Files, Runtime};
use crate::served::ServedFile;
use std::sync::Arc;
use udax_core::{PageRange, Sharing};
use udax_linux::{Errno, SignalsBlocked};

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAt {
    /// At this byte of the file.
    Offset(u64),
    /// Where the descriptor's position is, which other threads may move meanwhile.
    FilePosition,
}

/// A call that changes a file is under way while this lives.
#[derive(Debug)]
#[must_use = "it must live until the kernel's own call has returned"]
pub struct FileCall {
    _writing: Writing,
}

impl Runtime {
    pub(crate) fn writing(&self, fd: i32, at: WriteAt, length: u64) -> FileCall {
        // Published first, then the look (in_flight.rs).
        let call = FileCall { _writing: Writing::publish(fd) };
        if !self.state.is_serving() {
            return call;
        }
        match at {
            WriteAt::Offset(offset) if !udax_linux::descriptor_appends(fd) => {
                self.make_storage(fd, PageRange::of_bytes(offset, length));
            }
            WriteAt::Offset(_) | WriteAt::FilePosition => {
                self.end_service_of(fd, "written at a file position");
            }
        }
        call
    }

    /// The rights, as mprotect(2) has them, that the kernel gives `address` now.
    pub(crate) fn rights_at(&self, address: usize) -> Option<i32> {
        crate::descriptors::rights_at(self.running()?, address)
    }

    /// The plain mapping goes in where `addresses` are served.
    pub(crate) fn make_plain(&self, addresses: std::ops::Range<usize>) {
        if !self.state.is_serving() {
            return;
        }
        let _signals = SignalsBlocked::new();
        let regions = self.state.regions();
        for region in regions.over(&addresses) {
            let pages = crate::regions::pages_within(region.area(), &addresses);
            let pages = crate::served::whole_units(pages);
            region.file.make_storage(pages);
            region.vma.space.plain(pages.intersect(region.vma.pages));
            region.file.settle_overflow();
        }
    }

    pub(crate) fn changing_layout(&self, fd: i32) -> FileCall {
        let call = FileCall { _writing: Writing::publish(fd) };
        if self.state.is_serving() {
            self.end_service_of(fd, "resized, allocated or punched");
        }
        call
    }

    pub(crate) fn descriptor_shared(&self, fd: i32) {
        let Some(key) = crate::descriptors::key_of(fd) else { return };
        let _signals = SignalsBlocked::new();
        let mut files = self.state.files();
        files.tainted.insert(key);
        self.state.end_service(&mut files, key, "its descriptor was shared");
    }

    fn make_storage(&self, fd: i32, range: PageRange) {
        let Some(key) = crate::descriptors::key_of(fd) else { return };
        let _signals = SignalsBlocked::new();
        // The table is let go first: what follows may wait for faults.
        let file = self.state.files().served.get(&key).cloned();
        if let Some(file) = file {
            let _regions = self.state.regions();
            file.make_storage(range);
        }
    }

    /// A shared mapping of `pages` that the kernel serves is there: nobody is shown zeros of them from here on.
    pub(crate) fn mapped_natively(&self, fd: i32, pages: PageRange) {
        self.make_storage(fd, pages);
    }

    /// What shared mappings show natively of the served files counts as storage from here on. The caller holds the registry.
    pub(crate) fn count_native_mappings(&self, files: &Files) {
        let Some(service) = self.running() else { return };
        for file in files.served.values() {
            for pages in crate::descriptors::mapped_shared(service, file.key.ino, &(0..0)) {
                file.make_storage(pages);
            }
        }
    }

    fn end_service_of(&self, fd: i32, why: &'static str) {
        let Some(key) = crate::descriptors::key_of(fd) else { return };
        let _signals = SignalsBlocked::new();
        let mut files = self.state.files();
        self.state.end_service(&mut files, key, why);
    }
}

impl Runtime {
    /// Ends a mapping of the library: nothing is served there any more, and then the kernel unmaps it.
    pub(crate) fn unmap(&self, mapped: udax_linux::Mapped) {
        let _signals = SignalsBlocked::new();
        let area = mapped.area();
        let addresses = area.address()..area.end();
        let mut regions = self.state.regions_mut();
        self.audit(regions.over(&addresses));
        for region in regions.carve(&addresses) {
            let _ = region.detach();
        }
        drop(mapped);
        drop(regions);
        if self.state.is_serving() {
            self.state.drop_unmapped();
        }
    }

    /// msync(2) of some addresses, which `native` does, and what that cannot do: it writes what lies under mappings of the file, and where a trap
    /// lies none does, though others may have stored there.
    pub(crate) fn sync(
        &self,
        addresses: std::ops::Range<usize>,
        flags: i32,
        native: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        const MS_SYNC: i32 = 4;
        let _no_giving_back = self.state.while_syncing();
        let unseen = self.account_for_sync(&addresses);
        native()?;
        if flags & MS_SYNC != 0 {
            for file in unseen {
                file.handle.service().with_files(|| file.handle.sync_range(0, 0))?;
            }
        }
        Ok(())
    }

    /// The engine's account of what was dirtied, the check that no store was swallowed, and the files of which something lies under traps that is
    /// not known to be a hole.
    fn account_for_sync(&self, addresses: &std::ops::Range<usize>) -> Vec<Arc<ServedFile>> {
        let mut unseen: Vec<Arc<ServedFile>> = Vec::new();
        if !self.state.is_serving() {
            return unseen;
        }
        let _signals = SignalsBlocked::new();
        let regions = self.state.regions();
        let pages_of = |region: &Region| crate::regions::pages_within(region.area(), addresses);
        // The look costs a way to another thread, so only where something could be swallowed.
        let shows_zeros = |region: &&Region| region.vma.space.shows_zeros(pages_of(region));
        self.audit(regions.over(addresses).filter(shows_zeros));
        for region in regions.over(addresses) {
            let pages = pages_of(region);
            // An error can only be the account's: the kernel's call makes it durable, and reports.
            let _ = region.file.mapping.writeback(pages);
            let is_new = !unseen.iter().any(|file| Arc::ptr_eq(file, &region.file));
            if is_new && region.vma.sharing == Sharing::Shared && hides_data(region, pages) {
                unseen.push(Arc::clone(&region.file));
            }
        }
        unseen
    }
}

/// Whether a trap in `pages` lies over anything but known holes.
fn hides_data(region: &Region, pages: PageRange) -> bool {
    let mut rest = pages;
    while let Some(trap) = region.vma.space.first_trap(rest) {
        if region.file.host.hole_pages(trap) < trap.len() {
            return true;
        }
        rest.start = trap.end;
    }
    false
}
