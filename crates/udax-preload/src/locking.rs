//! Calls on memory that only the kernel's own mapping can answer: the plain mapping goes in first.

use crate::memory::{make_all_plain, make_plain};
use crate::{peek, real};
use libc::{c_int, c_uint, c_void, iovec, size_t, ssize_t};

/// mlock(2).
///
/// # Safety
/// None needed: the kernel checks the addresses.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mlock(at: *const c_void, length: size_t) -> c_int {
    make_plain(at.addr(), length);
    // SAFETY: the program's own arguments.
    unsafe { real::mlock(at, length) }
}

/// mlock2(2).
///
/// # Safety
/// As `mlock`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mlock2(at: *const c_void, length: size_t, flags: c_uint) -> c_int {
    make_plain(at.addr(), length);
    // SAFETY: the program's own arguments.
    unsafe { real::mlock2(at, length, flags) }
}

/// munlock(2).
///
/// # Safety
/// As `mlock`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn munlock(at: *const c_void, length: size_t) -> c_int {
    make_plain(at.addr(), length);
    // SAFETY: the program's own arguments.
    unsafe { real::munlock(at, length) }
}

/// mlockall(2).
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mlockall(flags: c_int) -> c_int {
    make_all_plain("mlockall");
    // SAFETY: the program's own argument.
    unsafe { real::mlockall(flags) }
}

/// remap_file_pages(2).
///
/// # Safety
/// As the system call: it changes what is mapped.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn remap_file_pages(
    at: *mut c_void,
    length: size_t,
    prot: c_int,
    page: size_t,
    flags: c_int,
) -> c_int {
    make_plain(at.addr(), length);
    // SAFETY: the program's own arguments.
    unsafe { real::remap_file_pages(at, length, prot, page, flags) }
}

/// pkey_mprotect(2).
///
/// # Safety
/// As the system call: it changes rights.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pkey_mprotect(
    at: *mut c_void,
    length: size_t,
    prot: c_int,
    key: c_int,
) -> c_int {
    make_plain(at.addr(), length);
    // SAFETY: the program's own arguments.
    unsafe { real::pkey_mprotect(at, length, prot, key) }
}

/// process_madvise(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn process_madvise(
    pidfd: c_int,
    ranges: *const iovec,
    count: size_t,
    advice: c_int,
    flags: c_uint,
) -> ssize_t {
    // Whether the process meant is this one does not matter: plain is right for any address.
    make_vectors_plain(ranges, count);
    // SAFETY: the program's own arguments.
    unsafe { real::process_madvise(pidfd, ranges, count, advice, flags) }
}

/// Puts the plain mapping under each range of an array.
pub(crate) fn make_vectors_plain(ranges: *const iovec, count: size_t) {
    if !crate::state::any_file_mapped() {
        return;
    }
    // The kernel takes no longer arrays.
    let count = count.min(libc::UIO_MAXIOV.cast_unsigned() as usize);
    for range in peek::many(ranges, count).unwrap_or_default() {
        make_plain(range.iov_base.addr(), range.iov_len);
    }
}

/// shmat(2). With `SHM_REMAP` the segment replaces what is mapped there.
///
/// # Safety
/// As the system call: it changes what is mapped.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn shmat(
    segment: c_int,
    at: *const c_void,
    flags: c_int,
) -> *mut c_void {
    if flags & libc::SHM_REMAP != 0 && crate::state::any_file_mapped() {
        drop_segments_place(segment, at.addr());
    }
    // SAFETY: the program's own arguments.
    unsafe { real::shmat(segment, at, flags) }
}

/// Takes the addresses that a segment is about to replace out of service, by unmapping them: the segment would do that.
fn drop_segments_place(segment: c_int, at: usize) {
    let _errno = crate::errno::Kept::now();
    let mut about = std::mem::MaybeUninit::<libc::shmid_ds>::uninit();
    // SAFETY: IPC_STAT fills the structure that it is given.
    let answer = unsafe { libc::shmctl(segment, libc::IPC_STAT, about.as_mut_ptr()) };
    if answer != 0 {
        return;
    }
    // SAFETY: filled, as the call succeeded.
    let size = unsafe { about.assume_init() }.shm_segsz;
    crate::state::ask(|program| program.munmap(at, size));
}
