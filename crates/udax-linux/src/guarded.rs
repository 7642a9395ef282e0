//! Traps and zeros by rights alone, for faults that come by SIGSEGV: a trap is memory without rights, and the zeros of a shared mapping are memory that can only be
//! read. So both can be made in place by one mmap, at once for every other thread: there is no moment in which a store gets through.
//!
//! The zeros of a private mapping have the program's own rights: the kernel makes the copy at a store, and no store reaches the file.

use crate::area::{Prot, Sharing, VmaArea};
use crate::events::Access;
use crate::runs::RunState;
use crate::service::Service;
use crate::sys::errno::Errno;
use crate::sys::mem;
use crate::window::{self, Failure};
use linux_raw_sys::general as k;
use udax_core::PageRange;

/// Puts a trap over `range`, at once for every other thread. On a service thread.
pub(crate) fn lay(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Failure> {
    let (address, length_bytes) = area.span(range);
    // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
    unsafe { window::map_trap(service, address, address, length_bytes) }
        .and_then(|()| window::keep_from_children(address, length_bytes))
        .map_err(Failure::Halfway)
}

/// Puts zeros over `range`, at once for every other thread. On a service thread.
pub(crate) fn open(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Failure> {
    open_in(service, area, range).map_err(Failure::Halfway)
}

fn open_in(service: &Service, area: &VmaArea, range: PageRange) -> Result<(), Errno> {
    let (address, length_bytes) = area.span(range);
    let rights = rights(area.sharing(), RunState::Zero, area.prot()).unwrap_or(area.prot());
    let rights = rights.raw();
    // Of /dev/zero it is anonymous memory like any other, and can be told from that of the program: by its offset, which is its address.
    let (flags, file) = match service.table.zeros {
        Some(zeros) => (k::MAP_PRIVATE | k::MAP_NORESERVE, zeros),
        None => (mem::ANONYMOUS, -1),
    };
    let flags = flags | k::MAP_FIXED;
    let offset = address as u64;
    // Without rights until it is ready: whoever comes here meanwhile waits for us.
    // SAFETY: 1: the range is of a VmaArea, so it may be mapped anew.
    unsafe { mem::mmap(address, length_bytes, mem::PROT_NONE, flags, file, offset) }?;
    window::keep_from_children(address, length_bytes)?;
    let is_huge = area.sharing() == Sharing::Shared && length_bytes >= mem::HUGE;
    // A store to a 2 MiB zero page would get 2 MiB of memory.
    let advice =
        if is_huge && service.huge_zero_pages { k::MADV_HUGEPAGE } else { k::MADV_NOHUGEPAGE };
    // A kernel without huge pages refuses both.
    // SAFETY: this advice changes no contents.
    let _ = unsafe { mem::madvise(address, length_bytes, advice) };
    // SAFETY: the range is of a VmaArea, and it gets no more rights than the program gave it.
    unsafe { mem::mprotect(address, length_bytes, rights) }?;
    if rights & mem::PROT_READ != 0 {
        // What is not done of it is done at the first load.
        // SAFETY: this advice changes no contents.
        let _ = unsafe { mem::madvise(address, length_bytes, k::MADV_POPULATE_READ) };
    }
    Ok(())
}

/// The rights that pages have in the kernel, of which the program has been given `prot`; `None` if they are the program's.
pub(crate) fn rights(sharing: Sharing, state: RunState, prot: Prot) -> Option<Prot> {
    match (state, sharing) {
        (RunState::Plain, _) | (RunState::Zero, Sharing::Private) => None,
        (RunState::Trap, _) => Some(Prot::NONE),
        // Where stores are allowed, so are loads, by every processor's rule.
        (RunState::Zero, Sharing::Shared) if prot.allows(Access::Read) => Some(Prot::READ),
        (RunState::Zero, Sharing::Shared) => Some(Prot::NONE),
    }
}
