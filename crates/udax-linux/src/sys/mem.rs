//! Calls that change the address space. Addresses are plain integers; all lengths are bytes.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, to_usize};
use linux_raw_sys::general as k;
use std::os::fd::RawFd;

pub(crate) const PAGE: usize = 4096;
pub(crate) const HUGE: usize = 2 << 20;
/// No address of a process is as high, unless it asks for that.
pub(crate) const ADDRESSES: u64 = 1 << 48;

pub(crate) const PROT_NONE: u32 = k::PROT_NONE;
pub(crate) const PROT_READ: u32 = k::PROT_READ;
/// Anonymous memory that no overcommit accounting is done for.
pub(crate) const ANONYMOUS: u32 = k::MAP_PRIVATE | k::MAP_ANONYMOUS | k::MAP_NORESERVE;

/// `mmap`.
///
/// # Safety
/// 1. If `flags` has MAP_FIXED, whatever lies in the range is the caller's to replace.
pub(crate) unsafe fn mmap(
    address: usize,
    length_bytes: usize,
    prot: u32,
    flags: u32,
    fd: RawFd,
    offset: u64,
) -> Result<usize, Errno> {
    let arguments = [address, length_bytes, bits(prot), bits(flags), fd as usize, to_usize(offset)];
    // SAFETY: no argument is read as a pointer; 1: passed on to our caller.
    unsafe { syscall(k::__NR_mmap, arguments) }
}

/// Reserves `length_bytes` without rights, at an address the kernel chooses; nothing existing is touched.
pub(crate) fn reserve(length_bytes: usize) -> Result<usize, Errno> {
    // SAFETY: 1: no MAP_FIXED.
    unsafe { mmap(0, length_bytes, PROT_NONE, ANONYMOUS, -1, 0) }
}

/// `munmap`.
///
/// # Safety
/// 1. Nothing uses the range any more.
pub(crate) unsafe fn munmap(address: usize, length_bytes: usize) -> Result<(), Errno> {
    // SAFETY: no argument is read as a pointer; 1: passed on to our caller.
    unsafe { syscall(k::__NR_munmap, [address, length_bytes, 0, 0, 0, 0]) }.map(drop)
}

/// `mprotect`.
///
/// # Safety
/// 1. The range is the caller's, and no reference relies on the rights it loses.
pub(crate) unsafe fn mprotect(address: usize, length_bytes: usize, prot: u32) -> Result<(), Errno> {
    // SAFETY: no argument is read as a pointer; 1: passed on to our caller.
    unsafe { syscall(k::__NR_mprotect, [address, length_bytes, bits(prot), 0, 0, 0]) }.map(drop)
}

/// `mremap`.
///
/// # Safety
/// 1. Both ranges are the caller's: what lies at `to` is replaced, and nothing refers to `from` any more.
pub(crate) unsafe fn mremap(
    from: usize,
    from_bytes: usize,
    to_bytes: usize,
    flags: u32,
    to: usize,
) -> Result<usize, Errno> {
    // SAFETY: no argument is read as a pointer; 1: passed on to our caller.
    unsafe { syscall(k::__NR_mremap, [from, from_bytes, to_bytes, bits(flags), to, 0]) }
}

/// Moves `length_bytes` at `from` over what lies at `to`, at once for every other thread.
///
/// # Safety
/// 1. As [`mremap`].
pub(crate) unsafe fn move_over(from: usize, to: usize, length_bytes: usize) -> Result<(), Errno> {
    let flags = k::MREMAP_MAYMOVE | k::MREMAP_FIXED;
    // SAFETY: 1: passed on to our caller.
    unsafe { mremap(from, length_bytes, length_bytes, flags, to) }.map(drop)
}

/// `madvise`.
///
/// # Safety
/// 1. If the advice changes contents (MADV_DONTNEED, MADV_REMOVE), they are the caller's.
pub(crate) unsafe fn madvise(
    address: usize,
    length_bytes: usize,
    advice: u32,
) -> Result<(), Errno> {
    // SAFETY: no argument is read as a pointer; 1: passed on to our caller.
    unsafe { syscall(k::__NR_madvise, [address, length_bytes, bits(advice), 0, 0, 0]) }.map(drop)
}

/// Takes VM_LOCKED off, which `mlockall(MCL_FUTURE)` puts on every new mapping: a locked one is filled with private pages
/// as soon as it becomes writable.
pub(crate) fn munlock(address: usize, length_bytes: usize) -> Result<(), Errno> {
    // SAFETY: no argument is read as a pointer, and unlocking changes no contents.
    unsafe { syscall(k::__NR_munlock, [address, length_bytes, 0, 0, 0, 0]) }.map(drop)
}

/// Copies `from` to an address, which may be a mapping of a file: what cannot be stored there is an error, no signal. How many bytes were copied.
///
/// By `process_vm_readv` of this process from itself: the place that is stored to is the reading side's, which the kernel accesses as it does for any
/// read(2). The other side's pages it would pin, which file systems do not expect of a page that they are writing back.
///
/// # Safety
/// 1. The bytes at `to` are the caller's to overwrite.
pub(crate) unsafe fn copy_to_address(to: usize, from: &[u8]) -> Result<usize, Errno> {
    let local = [to, from.len()];
    let remote = [from.as_ptr() as usize, from.len()];
    let (local_at, remote_at) = (local.as_ptr() as usize, remote.as_ptr() as usize);
    let process = super::signal::process_id() as usize;
    // SAFETY: `struct iovec` is an address and a length, and both are borrowed for the call; so is `from`. 1: passed on to our caller.
    unsafe { syscall(k::__NR_process_vm_readv, [process, local_at, 1, remote_at, 1, 0]) }
}

/// `msync`.
pub(crate) fn msync(address: usize, length_bytes: usize, flags: u32) -> Result<(), Errno> {
    // SAFETY: no argument is read as a pointer, and writing back changes no contents.
    unsafe { syscall(k::__NR_msync, [address, length_bytes, bits(flags), 0, 0, 0]) }.map(drop)
}
