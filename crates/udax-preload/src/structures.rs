//! Calls that write structures into the program's memory: it is made ready for them.

use crate::buffers::{is_needed, prepare, ready};
use crate::signals::with_mask;
use crate::{memory, peek, real};
use libc::{
    c_char, c_int, c_uint, c_void, epoll_event, nfds_t, pollfd, size_t, ssize_t, stack_t, timespec,
};
use udax::program::Access;

const STAT_BYTES: usize = size_of::<libc::stat>();
const STATX_BYTES: usize = size_of::<libc::statx>();

/// stat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn stat(path: *const c_char, into: *mut c_void) -> c_int {
    let memory = [(into.addr(), STAT_BYTES)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::stat(path, into) })
}

/// stat(2), by its name for large files.
///
/// # Safety
/// As `stat`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn stat64(path: *const c_char, into: *mut c_void) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { stat(path, into) }
}

/// lstat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn lstat(path: *const c_char, into: *mut c_void) -> c_int {
    let memory = [(into.addr(), STAT_BYTES)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::lstat(path, into) })
}

/// lstat(2), by its name for large files.
///
/// # Safety
/// As `lstat`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn lstat64(path: *const c_char, into: *mut c_void) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { lstat(path, into) }
}

/// fstat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fstat(fd: c_int, into: *mut c_void) -> c_int {
    let memory = [(into.addr(), STAT_BYTES)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::fstat(fd, into) })
}

/// fstat(2), by its name for large files.
///
/// # Safety
/// As `fstat`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fstat64(fd: c_int, into: *mut c_void) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { fstat(fd, into) }
}

/// fstatat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fstatat(
    directory: c_int,
    path: *const c_char,
    into: *mut c_void,
    flags: c_int,
) -> c_int {
    let memory = [(into.addr(), STAT_BYTES)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::fstatat(directory, path, into, flags) })
}

/// fstatat(2), by its name for large files.
///
/// # Safety
/// As `fstatat`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fstatat64(
    directory: c_int,
    path: *const c_char,
    into: *mut c_void,
    flags: c_int,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { fstatat(directory, path, into, flags) }
}

/// statx(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut c_void,
) -> c_int {
    let memory = [(into.addr(), STATX_BYTES)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::statx(directory, path, flags, mask, into) })
}

/// readlink(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn readlink(
    path: *const c_char,
    into: *mut c_char,
    count: size_t,
) -> ssize_t {
    let memory = [(into.addr(), count)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::readlink(path, into, count) })
}

/// readlinkat(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn readlinkat(
    directory: c_int,
    path: *const c_char,
    into: *mut c_char,
    count: size_t,
) -> ssize_t {
    let memory = [(into.addr(), count)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::readlinkat(directory, path, into, count) })
}

/// getcwd(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getcwd(into: *mut c_char, count: size_t) -> *mut c_char {
    let _prepared = prepare(into.addr(), count, Access::Write);
    // SAFETY: the program's own arguments.
    unsafe { real::getcwd(into, count) }
}

/// getdents64(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getdents64(
    directory: c_int,
    into: *mut c_void,
    count: size_t,
) -> ssize_t {
    let memory = [(into.addr(), count)];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::getdents64(directory, into, count) })
}

/// poll(2). A cancellation point, as the others that wait.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn poll(
    polled: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
) -> c_int {
    let memory = [(polled.addr(), bytes_of::<pollfd>(count))];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::poll(polled, count, timeout) })
}

/// ppoll(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn ppoll(
    polled: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const c_void,
) -> c_int {
    let memory = [(polled.addr(), bytes_of::<pollfd>(count))];
    with_mask(mask, |mask| {
        // SAFETY: the program's own arguments.
        ready(&memory, Access::Write, || unsafe { real::ppoll(polled, count, timeout, mask) })
    })
}

/// epoll_wait(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn epoll_wait(
    epoll: c_int,
    into: *mut epoll_event,
    count: c_int,
    timeout: c_int,
) -> c_int {
    let memory = [(into.addr(), bytes_of::<epoll_event>(count))];
    // SAFETY: the program's own arguments.
    ready(&memory, Access::Write, || unsafe { real::epoll_wait(epoll, into, count, timeout) })
}

/// epoll_pwait(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn epoll_pwait(
    epoll: c_int,
    into: *mut epoll_event,
    count: c_int,
    timeout: c_int,
    mask: *const c_void,
) -> c_int {
    let memory = [(into.addr(), bytes_of::<epoll_event>(count))];
    with_mask(mask, |mask| {
        // SAFETY: the program's own arguments.
        ready(&memory, Access::Write, || unsafe {
            real::epoll_pwait(epoll, into, count, timeout, mask)
        })
    })
}

/// epoll_pwait2(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn epoll_pwait2(
    epoll: c_int,
    into: *mut epoll_event,
    count: c_int,
    timeout: *const timespec,
    mask: *const c_void,
) -> c_int {
    let memory = [(into.addr(), bytes_of::<epoll_event>(count))];
    with_mask(mask, |mask| {
        // SAFETY: the program's own arguments.
        ready(&memory, Access::Write, || unsafe {
            real::epoll_pwait2(epoll, into, count, timeout, mask)
        })
    })
}

fn bytes_of<T>(count: impl TryInto<usize>) -> usize {
    count.try_into().unwrap_or(0).saturating_mul(size_of::<T>())
}

/// sigaltstack(2): the kernel writes there later, when a signal comes.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigaltstack(new: *const stack_t, old: *mut stack_t) -> c_int {
    if is_needed()
        && let Some(stack) = peek::one(new)
    {
        memory::make_plain(stack.ss_sp.addr(), stack.ss_size);
    }
    // SAFETY: the program's own arguments.
    unsafe { real::sigaltstack(new, old) }
}
