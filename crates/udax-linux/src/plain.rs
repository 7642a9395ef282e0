//! Putting the kernel's own mapping of the file in place: for shared memory one mmap, for private memory with the copies that
//! the program has made.

use crate::area::{Sharing, VmaArea};
use crate::catcher::Catcher;
use crate::inject::{Point, fails};
use crate::runs::RunState;
use crate::service::{Service, die};
use crate::stats::add;
use crate::strangers::is_ours;
use crate::sys::errno::Errno;
use crate::sys::{fd, mem, pagemap, uffd};
use crate::window::Scratch;
use linux_raw_sys::general as k;
use std::os::fd::RawFd;
use udax_core::PageRange;

/// Maps the file over `range`, at once for every other thread; private copies there are gone. On a service thread.
pub(crate) fn map(
    service: &Service,
    area: &VmaArea,
    file: RawFd,
    range: PageRange,
) -> Result<(), Errno> {
    if fails(Point::MapAgain) {
        return Err(Errno::NOMEM);
    }
    let (address, length_bytes) = area.span(range);
    let flags = k::MAP_FIXED
        | match area.sharing() {
            Sharing::Shared => k::MAP_SHARED,
            Sharing::Private => k::MAP_PRIVATE,
        };
    let offset = range.start.byte();
    let map = |flags| {
        // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
        unsafe { mem::mmap(address, length_bytes, area.prot().raw(), flags, file, offset) }
    };
    match map(flags) {
        // More private memory than there is (vm.overcommit_memory): the program has been given it all the same.
        Err(Errno::NOMEM) if area.sharing() == Sharing::Private => map(flags | k::MAP_NORESERVE),
        mapped => mapped,
    }?;
    count(service, range);
    Ok(())
}

fn count(service: &Service, range: PageRange) {
    add(&service.stats().plain_installs, 1);
    add(&service.stats().plain_pages, range.len());
}

/// Maps the file privately over `range`, which shows zeros and the program's own copies, and keeps those. On a service thread.
///
/// Other threads may store meanwhile: they wait until the new mapping is there, and then store to that.
pub(crate) fn map_keeping_copies(
    service: &Service,
    area: &VmaArea,
    file: RawFd,
    range: PageRange,
) -> Result<(), Errno> {
    let (address, length_bytes) = area.span(range);
    // From here on nobody makes another copy, or changes one.
    match service.catcher() {
        Catcher::Userfaultfd(uffd) => {
            uffd.protect(address, length_bytes, uffd::Protection::Stores)?;
        }
        Catcher::Signals(_) => forbid_stores(area, address, length_bytes)?,
    }
    let copies = pagemap::present_pages(service.table.pagemap, address, address + length_bytes)?;
    let outcome = if copies.is_empty() {
        map(service, area, file, range)
    } else {
        replace(service, area, file, range, &copies)
    };
    // Also when it failed: the waiting threads come again, and find what there is then.
    match service.catcher() {
        Catcher::Userfaultfd(uffd) => uffd.wake(address, length_bytes),
        Catcher::Signals(_) if outcome.is_err() => {
            let _ = allow_stores(area, address, length_bytes);
        }
        Catcher::Signals(_) => {}
    }
    outcome
}

/// Gives back what [`forbid_stores`] has taken.
pub(crate) fn allow_stores(
    area: &VmaArea,
    address: usize,
    length_bytes: usize,
) -> Result<(), Errno> {
    // SAFETY: the range is of a VmaArea, and it gets the rights the program gave it.
    unsafe { mem::mprotect(address, length_bytes, area.prot().raw()) }
}

/// Where faults come by signals: whoever stores there from now on waits for [`allow_stores`], or for what is mapped there.
pub(crate) fn forbid_stores(
    area: &VmaArea,
    address: usize,
    length_bytes: usize,
) -> Result<(), Errno> {
    let rights = area.prot().raw() & !k::PROT_WRITE;
    // SAFETY: the range is of a VmaArea; whoever stores there waits until its space is free.
    unsafe { mem::mprotect(address, length_bytes, rights) }
}

fn replace(
    service: &Service,
    area: &VmaArea,
    file: RawFd,
    range: PageRange,
    copies: &[(usize, usize)],
) -> Result<(), Errno> {
    let (address, length_bytes) = area.span(range);
    let scratch = Scratch::new(address, length_bytes)?;
    let flags = k::MAP_PRIVATE | k::MAP_FIXED;
    let rights = k::PROT_READ | k::PROT_WRITE;
    let offset = range.start.byte();
    // SAFETY: 1: the scratch is our own.
    unsafe { mem::mmap(scratch.address, length_bytes, rights, flags, file, offset) }?;
    for (start, end) in copies {
        let to = scratch.address + (start - address);
        carry(service, *start, to, end - start)?;
    }
    scratch.allow(area.prot().raw())?;
    // Nothing is registered in the scratch, so no event has to be read and this thread may do the move.
    // SAFETY: 1: the range is of a VmaArea, and the scratch is our own.
    if let Err(errno) = unsafe { mem::move_over(scratch.address, address, length_bytes) } {
        // With too many mappings the kernel refuses before it changes anything, and the copies are there yet.
        let (kind, sharing) = (RunState::Zero, area.sharing());
        if errno == Errno::NOMEM && is_ours(service, kind, sharing, address, length_bytes) {
            return Err(errno);
        }
        // Else it may have unmapped them already: there is nothing right to go on with.
        die(&format!("moving private copies into place failed: {errno}"));
    }
    std::mem::forget(scratch);
    count(service, range);
    Ok(())
}

/// Copies pages that are stored to by nobody into the new mapping.
fn carry(service: &Service, from: usize, to: usize, length_bytes: usize) -> Result<(), Errno> {
    for offset in (0..length_bytes).step_by(mem::PAGE) {
        let memory = service.table.memory;
        // /proc/self/mem reads what the program may not (PROT_NONE).
        // SAFETY: 1: the page is in our own scratch.
        let copied =
            unsafe { fd::read_at_address(memory, to + offset, mem::PAGE, (from + offset) as u64) };
        match copied {
            Ok(mem::PAGE) => add(&service.stats().private_copies_kept, 1),
            // The new page cannot be had: the file ends before it. The kernel drops private copies there, too.
            Err(Errno::FAULT) => {}
            Ok(_) => return Err(Errno::IO),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
