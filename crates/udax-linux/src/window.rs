//! Making registered anonymous memory: traps in place, and zero windows elsewhere, moved into place when they are ready.
//!
//! A window is never made where it is to stand: between "the zero page is mapped" and "it is write-protected" a store of
//! another thread would land in a private page of its own and be lost. Moved as a whole, it appears protected.

use crate::area::VmaArea;
use crate::catcher::Catcher;
use crate::guarded;
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::{mem, uffd};
use crate::userfaultfd::Userfaultfd;
use linux_raw_sys::general as k;
use udax_core::PageRange;

/// Why a range could not be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was changed.
    Before(Errno),
    /// What had been there may be gone: something has to be put there at once.
    Halfway(Errno),
}

impl Failure {
    pub(crate) const fn errno(self) -> Errno {
        match self {
            Self::Before(errno) | Self::Halfway(errno) => errno,
        }
    }
}

/// Memory of our own, elsewhere, with the target's place in its 2 MiB. Dropping unmaps it.
pub(crate) struct Scratch {
    pub(crate) address: usize,
    pub(crate) length_bytes: usize,
}

impl Scratch {
    /// Reserves it, without rights.
    pub(crate) fn new(target: usize, length_bytes: usize) -> Result<Self, Errno> {
        let colour = target % mem::HUGE;
        let simple = Self { address: mem::reserve(length_bytes)?, length_bytes };
        if simple.address % mem::HUGE == colour || length_bytes < mem::HUGE {
            return Ok(simple);
        }
        drop(simple);
        let total = length_bytes.checked_add(mem::HUGE).ok_or(Errno::NOMEM)?;
        let base = mem::reserve(total)?;
        let address = base + (colour.wrapping_sub(base) & (mem::HUGE - 1));
        // What is too much goes before anything else can fail: the rest is exactly the scratch.
        for (start, end) in [(base, address), (address + length_bytes, base + total)] {
            if start < end {
                // SAFETY: the range is a part of what was reserved above, and nobody else has heard of it.
                unsafe { mem::munmap(start, end - start) }?;
            }
        }
        Ok(Self { address, length_bytes })
    }

    /// Gives the scratch the rights `prot`.
    pub(crate) fn allow(&self, prot: u32) -> Result<(), Errno> {
        // SAFETY: the range is our own, and no reference into it exists.
        unsafe { mem::mprotect(self.address, self.length_bytes, prot) }
    }

    pub(crate) fn advise(&self, advice: u32) -> Result<(), Errno> {
        loop {
            // SAFETY: none of the advices used here changes contents, and the range is our own.
            match unsafe { mem::madvise(self.address, self.length_bytes, advice) } {
                Err(Errno::INTR | Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    /// Moves it over what lies at `to`; its old place is free then.
    ///
    /// # Safety
    /// 1. What lies at `to` is the caller's to replace.
    pub(crate) unsafe fn move_over(self, service: &Service, to: usize) -> Result<(), Failure> {
        // SAFETY: 1: passed on; and the scratch, being our own, is forgotten below.
        let moved = unsafe { service.move_over(self.address, to, self.length_bytes) };
        match moved {
            Ok(()) => {
                std::mem::forget(self);
                Ok(())
            }
            Err(errno) => Err(Failure::Halfway(errno)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the range is our own, and nobody else has heard of it.
        let _ = unsafe { mem::munmap(self.address, self.length_bytes) };
    }
}

/// Keeps a range of ours from children, where nobody would serve it.
pub(crate) fn keep_from_children(address: usize, length_bytes: usize) -> Result<(), Errno> {
    // mlockall(MCL_FUTURE) locks every new mapping, and the kernel fills locked memory by itself. Here it could not, once it is
    // registered; but nothing is to depend on how it fails.
    mem::munlock(address, length_bytes)?;
    // SAFETY: this advice changes no contents.
    unsafe { mem::madvise(address, length_bytes, k::MADV_DONTFORK) }
}

/// Reports faults of a range from now on.
fn arm(uffd: &Userfaultfd, address: usize, length_bytes: usize) -> Result<(), Errno> {
    keep_from_children(address, length_bytes)?;
    uffd.register(address, length_bytes)
}

/// Maps what a trap at `target` is made of, without rights, over `address`.
///
/// It is memory of a file that never gets any, each address at the offset of its own number: so neighbours are one VMA, and a fault there leaves no page
/// table behind. That of anonymous memory does, and when it goes every processor that the process has run on is interrupted: 5 us of a first
/// store are 40 in a virtual machine whose other processors idle.
///
/// # Safety
/// 1. Whatever lies in the range is the caller's to replace.
pub(crate) unsafe fn map_trap(
    service: &Service,
    target: usize,
    address: usize,
    length_bytes: usize,
) -> Result<(), Errno> {
    let (flags, file) = match service.table.traps {
        Some(file) => (k::MAP_SHARED | k::MAP_NORESERVE, file),
        None => (mem::ANONYMOUS, -1),
    };
    let flags = flags | k::MAP_FIXED;
    // SAFETY: 1: passed on to our caller.
    unsafe { mem::mmap(address, length_bytes, mem::PROT_NONE, flags, file, target as u64) }
        .map(drop)
}

/// Lays a trap over `range`, where no other thread can be yet. On a service thread.
pub(crate) fn lay(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Failure> {
    let uffd = match service.catcher() {
        Catcher::Userfaultfd(uffd) => uffd,
        Catcher::Signals(_) => return guarded::lay(service, area, range),
    };
    let (address, length_bytes) = area.span(range);
    // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
    unsafe { map_trap(service, address, address, length_bytes) }.map_err(Failure::Halfway)?;
    arm(uffd, address, length_bytes).map_err(Failure::Halfway)?;
    // SAFETY: the range is of a VmaArea, and it gets the rights the program gave it.
    unsafe { mem::mprotect(address, length_bytes, area.prot().raw()) }.map_err(Failure::Halfway)
}

/// Puts a trap over `range`, at once for every other thread. On a service thread.
pub(crate) fn lay_live(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Failure> {
    let uffd = match service.catcher() {
        Catcher::Userfaultfd(uffd) => uffd,
        Catcher::Signals(_) => return guarded::lay(service, area, range),
    };
    let (address, length_bytes) = area.span(range);
    let scratch = Scratch::new(address, length_bytes).map_err(Failure::Before)?;
    // SAFETY: 1: the scratch is our own.
    unsafe { map_trap(service, address, scratch.address, length_bytes) }
        .map_err(Failure::Before)?;
    arm(uffd, scratch.address, length_bytes).map_err(Failure::Before)?;
    scratch.allow(area.prot().raw()).map_err(Failure::Before)?;
    // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
    unsafe { scratch.move_over(service, address) }
}

/// Puts a window of zero pages that cannot be stored to over `range`, at once for every other thread. On a service thread.
pub(crate) fn open(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Failure> {
    let uffd = match service.catcher() {
        Catcher::Userfaultfd(uffd) => uffd,
        Catcher::Signals(_) => return guarded::open(service, area, range),
    };
    let (address, length_bytes) = area.span(range);
    let scratch = prepare(service, uffd, area, address, length_bytes).map_err(Failure::Before)?;
    // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
    unsafe { scratch.move_over(service, address) }
}

/// Zero pages for all of 2 MiB, elsewhere, from which pieces are moved into place: where the 2 MiB are holes in part, one of these is cheaper than a window made
/// for each piece. Dropping unmaps what is left.
pub(crate) struct Prepared {
    unit: PageRange,
    base: usize,
    /// Addresses and lengths of what is left.
    parts: Vec<(usize, usize)>,
}

impl Prepared {
    /// For the 2 MiB that lie at `unit` of `area`, all of it inside. On a service thread.
    pub(crate) fn new(
        service: &Service,
        uffd: &Userfaultfd,
        area: &VmaArea,
        unit: PageRange,
    ) -> Result<Self, Errno> {
        let (address, length_bytes) = area.span(unit);
        let scratch = prepare(service, uffd, area, address, length_bytes)?;
        let made = Self {
            unit,
            base: scratch.address,
            parts: vec![(scratch.address, scratch.length_bytes)],
        };
        // What it had belongs to the parts now.
        std::mem::forget(scratch);
        Ok(made)
    }

    /// The 2 MiB it is for.
    pub(crate) const fn unit(&self) -> PageRange {
        self.unit
    }

    /// Puts its pages over `piece`, at once for every other thread. On a service thread.
    pub(crate) fn open(
        &mut self,
        service: &Service,
        area: &VmaArea,
        piece: PageRange,
    ) -> Result<(), Failure> {
        let (to, length_bytes) = area.span(piece);
        let from = self.base + (to - area.span(self.unit).0);
        let end = from + length_bytes;
        let holds = |&(start, length): &(usize, usize)| start <= from && end <= start + length;
        let found = self.parts.iter().position(holds).ok_or(Failure::Before(Errno::INVAL))?;
        let (start, length) = self.parts.swap_remove(found);
        for (start, end) in [(start, from), (end, start + length)] {
            if start < end {
                self.parts.push((start, end - start));
            }
        }
        let piece = Scratch { address: from, length_bytes };
        // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
        unsafe { piece.move_over(service, to) }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for &(address, length_bytes) in &self.parts {
            drop(Scratch { address, length_bytes });
        }
    }
}

/// A window for `target`, elsewhere.
fn prepare(
    service: &Service,
    uffd: &Userfaultfd,
    area: &VmaArea,
    target: usize,
    length_bytes: usize,
) -> Result<Scratch, Errno> {
    let scratch = Scratch::new(target, length_bytes)?;
    // Without a common 2 MiB zero page a huge fault would be given real memory. A kernel without huge pages refuses both
    // advices.
    let is_huge = service.huge_zero_pages && length_bytes >= mem::HUGE;
    let _ = scratch.advise(if is_huge { k::MADV_HUGEPAGE } else { k::MADV_NOHUGEPAGE });
    mem::munlock(scratch.address, length_bytes)?;
    scratch.allow(mem::PROT_READ)?;
    scratch.advise(k::MADV_POPULATE_READ)?;
    arm(uffd, scratch.address, length_bytes)?;
    uffd.protect(scratch.address, length_bytes, uffd::Protection::Stores)?;
    if area.prot().raw() != mem::PROT_READ {
        scratch.allow(area.prot().raw())?;
    }
    Ok(scratch)
}
