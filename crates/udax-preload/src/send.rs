//! Calls that read the program's memory, and write to no file: it is made ready for them.

use crate::buffers::{prepare, ready, ready_vectors};
use crate::real;
use libc::{FILE, c_int, c_ulong, c_void, iovec, pid_t, size_t, sockaddr, socklen_t, ssize_t};
use udax::program::Access;

/// How many ranges of another process's are of this one.
fn vectors_of_this_process(process: pid_t, count: c_ulong) -> c_int {
    // SAFETY: no argument.
    let this = unsafe { libc::getpid() };
    if process == this { c_int::try_from(count).unwrap_or(-1) } else { 0 }
}

/// send(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn send(
    socket: c_int,
    from: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(from.addr(), count)], Access::Read, || unsafe {
        real::send(socket, from, count, flags)
    })
}

/// send(2), by glibc's inner name.
///
/// # Safety
/// As `send`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __send(
    socket: c_int,
    from: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { send(socket, from, count, flags) }
}

/// sendto(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sendto(
    socket: c_int,
    from: *const c_void,
    count: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_length: socklen_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    ready(&[(from.addr(), count)], Access::Read, || unsafe {
        real::sendto(socket, from, count, flags, to, to_length)
    })
}

/// process_vm_readv(2): what is in this process of it.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn process_vm_readv(
    process: pid_t,
    into: *const iovec,
    count: c_ulong,
    from: *const iovec,
    from_count: c_ulong,
    flags: c_ulong,
) -> ssize_t {
    let own = c_int::try_from(count).unwrap_or(-1);
    let others = vectors_of_this_process(process, from_count);
    let call = || {
        // SAFETY: the program's own arguments.
        unsafe { real::process_vm_readv(process, into, count, from, from_count, flags) }
    };
    ready_vectors(from, others, Access::Read, || ready_vectors(into, own, Access::Write, call))
}

/// process_vm_writev(2): what is in this process of it.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn process_vm_writev(
    process: pid_t,
    from: *const iovec,
    count: c_ulong,
    into: *const iovec,
    into_count: c_ulong,
    flags: c_ulong,
) -> ssize_t {
    let own = c_int::try_from(count).unwrap_or(-1);
    let others = vectors_of_this_process(process, into_count);
    let call = || {
        // SAFETY: the program's own arguments.
        unsafe { real::process_vm_writev(process, from, count, into, into_count, flags) }
    };
    ready_vectors(into, others, Access::Write, || ready_vectors(from, own, Access::Read, call))
}

/// fwrite(3): libc writes large amounts straight from the memory it is given.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fwrite(
    from: *const c_void,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _prepared = prepare(from.addr(), size.saturating_mul(count), Access::Read);
    // SAFETY: the program's own arguments.
    unsafe { real::fwrite(from, size, count, stream) }
}

/// fwrite(3), without the stream's lock.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fwrite_unlocked(
    from: *const c_void,
    size: size_t,
    count: size_t,
    stream: *mut FILE,
) -> size_t {
    let _prepared = prepare(from.addr(), size.saturating_mul(count), Access::Read);
    // SAFETY: the program's own arguments.
    unsafe { real::fwrite_unlocked(from, size, count, stream) }
}
