//! Calls that make, change and drop mappings.

use crate::{descriptors, errno, state};
use libc::{c_int, c_void, off_t, size_t};
use udax::Errno;

fn map(
    at: usize,
    length: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> Result<usize, Errno> {
    let of_file = flags & libc::MAP_ANONYMOUS == 0;
    let may_replace = flags & libc::MAP_FIXED != 0 && state::any_file_mapped();
    if of_file && offset >= 0 {
        state::file_is_mapped();
        descriptors::share_if_standard_stream(fd);
    }
    // The kernel has its own words for an offset below zero.
    let answer = if (of_file && offset >= 0) || may_replace {
        state::ask(|program| program.mmap(at, length, prot, flags, fd, offset))
    } else {
        None
    };
    answer.unwrap_or_else(|| {
        state::native().mmap(at, length, prot, flags, fd, offset.cast_unsigned())
    })
}

/// Asks the runtime once the program has mapped a file, else the kernel.
fn ask_or<R>(
    question: impl FnOnce(&'static udax::program::Program) -> R,
    kernel: impl FnOnce() -> R,
) -> R {
    let answer = if state::any_file_mapped() { state::ask(question) } else { None };
    answer.unwrap_or_else(kernel)
}

/// mmap(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mmap(
    at: *mut c_void,
    length: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    errno::address(map(at.addr(), length, prot, flags, fd, offset))
}

/// mmap(2), by its name for large files.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mmap64(
    at: *mut c_void,
    length: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    errno::address(map(at.addr(), length, prot, flags, fd, offset))
}

/// mmap(2), by glibc's inner name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn __mmap(
    at: *mut c_void,
    length: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    errno::address(map(at.addr(), length, prot, flags, fd, offset))
}

/// munmap(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn munmap(at: *mut c_void, length: size_t) -> c_int {
    let at = at.addr();
    errno::status(ask_or(
        |program| program.munmap(at, length),
        || state::native().munmap(at, length),
    ))
}

/// munmap(2), by glibc's inner name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn __munmap(at: *mut c_void, length: size_t) -> c_int {
    munmap(at, length)
}

/// mprotect(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mprotect(at: *mut c_void, length: size_t, prot: c_int) -> c_int {
    let at = at.addr();
    errno::status(ask_or(
        |program| program.mprotect(at, length, prot),
        || state::native().mprotect(at, length, prot),
    ))
}

/// mprotect(2), by glibc's inner name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn __mprotect(at: *mut c_void, length: size_t, prot: c_int) -> c_int {
    mprotect(at, length, prot)
}

/// mremap(2); `new` counts with `MREMAP_FIXED` and `MREMAP_DONTUNMAP` only.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mremap(
    old: *mut c_void,
    old_length: size_t,
    new_length: size_t,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    let old = old.addr();
    let takes_new = flags & (libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) != 0;
    let new = if takes_new { new.addr() } else { 0 };
    errno::address(ask_or(
        |program| program.mremap(old, old_length, new_length, flags, new),
        || state::native().mremap(old, old_length, new_length, flags, new),
    ))
}

fn advise(at: usize, length: usize, advice: c_int) -> Result<(), Errno> {
    ask_or(
        |program| program.madvise(at, length, advice),
        || state::native().madvise(at, length, advice),
    )
}

/// madvise(2).
#[unsafe(no_mangle)]
pub(crate) extern "C" fn madvise(at: *mut c_void, length: size_t, advice: c_int) -> c_int {
    errno::status(advise(at.addr(), length, advice))
}

/// madvise(2), by glibc's inner name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn __madvise(at: *mut c_void, length: size_t, advice: c_int) -> c_int {
    madvise(at, length, advice)
}

/// posix_madvise(3): answers the error number, and never drops pages.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn posix_madvise(at: *mut c_void, length: size_t, advice: c_int) -> c_int {
    // What POSIX means by it loses no data; the kernel's advice of that name does, in private mappings. libc does nothing either.
    if advice == libc::POSIX_MADV_DONTNEED {
        return 0;
    }
    match advise(at.addr(), length, advice) {
        Ok(()) => 0,
        Err(errno) => errno.0,
    }
}

/// msync(2). A cancellation point.
#[unsafe(no_mangle)]
pub(crate) extern "C-unwind" fn msync(at: *mut c_void, length: size_t, flags: c_int) -> c_int {
    // SAFETY: no argument. If the thread is cancelled here, nothing of ours is on its stack that needs to be undone.
    unsafe { pthread_testcancel() };
    let at = at.addr();
    errno::status(ask_or(
        |program| program.msync(at, length, flags),
        || state::native().msync(at, length, flags),
    ))
}

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// The plain mapping goes in wherever udax serves one of these addresses.
pub(crate) fn make_plain(at: usize, length: usize) {
    if state::any_file_mapped() {
        state::ask(|program| program.make_plain(at, length));
    }
}

/// From now on udax serves nothing in this process.
pub(crate) fn make_all_plain(why: &'static str) {
    state::ask(|program| program.make_all_plain(why));
}
