//! Some mappings of our own that are good for nothing but to be given up: where the process has as many as it may (`vm.max_map_count`), the plain mapping can be
//! put in all the same.
//!
//! Mapping the file over a part of a VMA takes up to two more, and traps of neighbouring mappings are one VMA, so even a whole region may be a part.

use crate::platform::lock;
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::mem;
use crate::window::Scratch;
use linux_raw_sys::general as k;
use std::os::fd::RawFd;
use std::sync::Mutex;

/// How many. A private mapping with copies takes about six for each 2 MiB while they are carried over, and may leave one.
const MAPPINGS: usize = 32;

/// The address of the mappings, one page each; `None` when they are given up, or could not be had.
pub(crate) struct Reserve(Mutex<Option<usize>>);

impl Reserve {
    /// Made of `traps`, the file in memory that never has any. On a service thread.
    pub(crate) fn new(traps: Option<RawFd>) -> Self {
        Self(Mutex::new(traps.and_then(|file| fill(file).ok())))
    }
}

/// Neighbours show pages that are none, so that each is a mapping of its own.
fn fill(file: RawFd) -> Result<usize, Errno> {
    let base = mem::reserve(MAPPINGS * mem::PAGE)?;
    for number in 0..MAPPINGS {
        let (address, offset) = (base + number * mem::PAGE, (MAPPINGS - number) * mem::PAGE);
        let flags = k::MAP_SHARED | k::MAP_NORESERVE | k::MAP_FIXED;
        // SAFETY: 1: the page was reserved above.
        let mapped =
            unsafe { mem::mmap(address, mem::PAGE, mem::PROT_NONE, flags, file, offset as u64) };
        if let Err(errno) = mapped {
            give_up(base);
            return Err(errno);
        }
    }
    // A child of fork has neither them nor a use for them.
    // SAFETY: this advice changes no contents.
    let _ = unsafe { mem::madvise(base, MAPPINGS * mem::PAGE, k::MADV_DONTFORK) };
    Ok(base)
}

/// Whether the process may have as many mappings more as the service takes with its threads: each has a stack and an arena of the allocator's, with the
/// parts of both that are guarded.
pub(crate) fn is_there_room() -> Result<(), Errno> {
    const MAPPINGS: usize = 96;
    let tried = Scratch::new(0, MAPPINGS * mem::PAGE)?;
    for page in (0..MAPPINGS).step_by(2) {
        // SAFETY: the page is our own, and nobody refers to it.
        unsafe { mem::mprotect(tried.address + page * mem::PAGE, mem::PAGE, mem::PROT_READ) }?;
    }
    Ok(())
}

fn give_up(base: usize) {
    // SAFETY: 1: they were made for this, and nobody has heard of them.
    let _ = unsafe { mem::munmap(base, MAPPINGS * mem::PAGE) };
}

impl Service {
    /// Makes `attempt`, and if the kernel has no more mappings for it, again without the reserve, which is then made anew if that can be. On a service thread.
    pub(crate) fn with_reserve(
        &self,
        mut attempt: impl FnMut() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let first = attempt();
        if first != Err(Errno::NOMEM) {
            return first;
        }
        let mut reserve = lock(&self.reserve.0);
        if let Some(base) = reserve.take() {
            give_up(base);
        }
        let second = attempt();
        *reserve = self.table.traps.and_then(|file| fill(file).ok());
        second
    }
}
