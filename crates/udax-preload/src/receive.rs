//! Calls that write into the program's memory: it is made ready for them.

use crate::buffers::{checked, prepare, ready, ready_vectors};
use crate::{real, waits};
use libc::{FILE, c_int, c_uint, c_void, iovec, off_t, size_t, sockaddr, socklen_t, ssize_t};
use udax::program::Access;

/// read(2). A cancellation point, as most of these.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn read(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    let found =
        ready(&[(into.addr(), count)], Access::Write, || unsafe { real::read(fd, into, count) });
    waits::told_by_descriptor(fd, into, found);
    found
}

/// read(2), by glibc's inner name.
///
/// # Safety
/// As `read`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __read(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { read(fd, into, count) }
}

/// read(2), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `read`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __read_chk(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    size: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { read(fd, into, checked(count, size)) }
}

/// pread(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pread64(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(into.addr(), count)], Access::Write, || unsafe { real::pread64(fd, into, count, at) })
}

/// pread(2).
///
/// # Safety
/// As `pread64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pread(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pread64(fd, into, count, at) }
}

/// pread(2), by glibc's inner name.
///
/// # Safety
/// As `pread64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __pread64(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pread64(fd, into, count, at) }
}

/// pread(2), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `pread64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __pread_chk(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    at: off_t,
    size: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pread64(fd, into, checked(count, size), at) }
}

/// pread(2), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `pread64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __pread64_chk(
    fd: c_int,
    into: *mut c_void,
    count: size_t,
    at: off_t,
    size: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pread64(fd, into, checked(count, size), at) }
}

/// readv(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn readv(
    fd: c_int,
    into: *const iovec,
    count: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready_vectors(into, count, Access::Write, || unsafe { real::readv(fd, into, count) })
}

/// preadv(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn preadv64(
    fd: c_int,
    into: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready_vectors(into, count, Access::Write, || unsafe { real::preadv64(fd, into, count, at) })
}

/// preadv(2).
///
/// # Safety
/// As `preadv64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn preadv(
    fd: c_int,
    into: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { preadv64(fd, into, count, at) }
}

/// preadv2(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn preadv64v2(
    fd: c_int,
    into: *const iovec,
    count: c_int,
    at: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready_vectors(into, count, Access::Write, || unsafe {
        real::preadv64v2(fd, into, count, at, flags)
    })
}

/// preadv2(2).
///
/// # Safety
/// As `preadv64v2`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn preadv2(
    fd: c_int,
    into: *const iovec,
    count: c_int,
    at: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { preadv64v2(fd, into, count, at, flags) }
}

/// recv(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn recv(
    socket: c_int,
    into: *mut c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(into.addr(), count)], Access::Write, || unsafe {
        real::recv(socket, into, count, flags)
    })
}

/// recv(2), by glibc's inner name.
///
/// # Safety
/// As `recv`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __recv(
    socket: c_int,
    into: *mut c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { recv(socket, into, count, flags) }
}

/// recv(2), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `recv`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __recv_chk(
    socket: c_int,
    into: *mut c_void,
    count: size_t,
    size: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { recv(socket, into, checked(count, size), flags) }
}

/// recvfrom(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn recvfrom(
    socket: c_int,
    into: *mut c_void,
    count: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(into.addr(), count)], Access::Write, || unsafe {
        real::recvfrom(socket, into, count, flags, from, from_length)
    })
}

/// recvfrom(2), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `recvfrom`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __recvfrom_chk(
    socket: c_int,
    into: *mut c_void,
    count: size_t,
    size: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { recvfrom(socket, into, checked(count, size), flags, from, from_length) }
}

/// getrandom(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn getrandom(
    into: *mut c_void,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(into.addr(), count)], Access::Write, || unsafe { real::getrandom(into, count, flags) })
}

/// fread(3): libc reads large amounts straight into the memory it is given.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fread(
    into: *mut c_void,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _prepared = prepare(into.addr(), size.saturating_mul(count), Access::Write);
    // SAFETY: the program's own arguments.
    unsafe { real::fread(into, size, count, stream) }
}

/// fread(3), without the stream's lock.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fread_unlocked(
    into: *mut c_void,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _prepared = prepare(into.addr(), size.saturating_mul(count), Access::Write);
    // SAFETY: the program's own arguments.
    unsafe { real::fread_unlocked(into, size, count, stream) }
}

/// fread(3), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `fread`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __fread_chk(
    into: *mut c_void,
    room: size_t,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _ = checked(size.saturating_mul(count), room);
    // SAFETY: the program's own arguments.
    unsafe { fread(into, size, count, stream) }
}

/// fread_unlocked(3), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `fread_unlocked`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __fread_unlocked_chk(
    into: *mut c_void,
    room: size_t,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _ = checked(size.saturating_mul(count), room);
    // SAFETY: the program's own arguments.
    unsafe { fread_unlocked(into, size, count, stream) }
}
