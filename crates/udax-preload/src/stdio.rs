//! libc's streams. libc writes them from within, where no interposer sees it.
//!
//! A stream from `fopen` has an opening of its own, and that breaks the lease, or keeps it from being granted: nothing to do. What is
//! left is a writing stream whose opening the program also uses as a descriptor: made from one (`fdopen`), or asked for its own
//! (`fileno`). Its file is mapped plainly. `freopen` opens anew, by path. The standard streams are the business of `descriptors`.
//! `dprintf` and its like write a descriptor as a stream: the same.

use crate::descriptors::share;
use crate::{errno::Kept, real};
use libc::{FILE, c_char, c_int, c_void};

unsafe extern "C" {
    fn __fwritable(stream: *mut FILE) -> c_int;
}

/// If the stream can write, its file may be written unseen through it.
///
/// # Safety
/// `stream` is an open stream.
unsafe fn share_if_writable(stream: *mut FILE, fd: c_int) {
    // SAFETY: an open stream, as the caller promised.
    let writable = unsafe { __fwritable(stream) } != 0;
    // The standard streams are looked at when a file is mapped, and asking for their descriptors is common.
    if writable && fd > 2 {
        share(fd);
    }
}

/// fdopen(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    // SAFETY: the program's own arguments.
    let stream = unsafe { real::fdopen(fd, mode) };
    if !stream.is_null() {
        let _errno = Kept::now();
        // SAFETY: just opened.
        unsafe { share_if_writable(stream, fd) };
    }
    stream
}

/// fdopen(3), by glibc's inner name.
///
/// # Safety
/// As `fdopen`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _IO_fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
    // SAFETY: the program's own arguments.
    unsafe { fdopen(fd, mode) }
}

/// fileno(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fileno(stream: *mut FILE) -> c_int {
    // SAFETY: the program's own argument.
    let fd = unsafe { real::fileno(stream) };
    if fd > 2 {
        let _errno = Kept::now();
        // SAFETY: the program has an open stream here, which has just told its descriptor.
        unsafe { share_if_writable(stream, fd) };
    }
    fd
}

/// fileno(3), without the stream's lock.
///
/// # Safety
/// As `fileno`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fileno_unlocked(stream: *mut FILE) -> c_int {
    // SAFETY: the program's own argument. libc takes no lock in either.
    unsafe { fileno(stream) }
}

/// vdprintf(3). `arguments` is a `va_list`, which both ABIs pass as an address.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn vdprintf(
    fd: c_int,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_int {
    before_printing(fd);
    // SAFETY: the program's own arguments.
    unsafe { real::vdprintf(fd, format, arguments) }
}

/// vdprintf(3), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __vdprintf_chk(
    fd: c_int,
    flag: c_int,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_int {
    before_printing(fd);
    // SAFETY: the program's own arguments.
    unsafe { real::vdprintf_chk(fd, flag, format, arguments) }
}

/// Before libc prints to a descriptor. The standard ones are looked at when a file is mapped.
pub(crate) fn before_printing(fd: c_int) {
    if fd > 2 {
        share(fd);
    }
}
