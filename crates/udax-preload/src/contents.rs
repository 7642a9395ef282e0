//! Calls that store into files: what they are about to write stops being shown as zeros before they do.
//!
//! The runtime's answer is held over the real call, so that no fault meanwhile finds a hole where the call has not stored yet. If the
//! thread is cancelled in the call, unwinding lets go of it.

use crate::buffers::{ready, ready_vectors};
use crate::errno::Kept;
use crate::{descriptors, peek, real, state, vectors};
use libc::{c_int, c_long, c_uint, c_void, iovec, loff_t, off_t, size_t, ssize_t};
use udax::program::{Access, FileCall, Program, WriteAt};

/// Where a call writes.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// From this byte on (at the end of the file, if the descriptor appends).
    At(off_t),
    /// At the descriptor's position.
    Position,
    /// At the end, whatever the descriptor says.
    End,
}

impl Place {
    /// What a possibly null pointer to an offset means; nothing is written if it cannot be read.
    pub(crate) fn of_pointer(at: *const loff_t) -> Self {
        if at.is_null() || !state::any_file_mapped() {
            return Self::Position;
        }
        peek::one(at).map_or(Self::Position, Self::At)
    }

    /// What an offset and the flags of `pwritev2` mean.
    pub(crate) fn of_flags(at: off_t, flags: c_int) -> Self {
        match at {
            _ if flags & libc::RWF_APPEND != 0 => Self::End,
            -1 => Self::Position,
            _ => Self::At(at),
        }
    }
}

/// Announces a write; what it answers is to be kept over the call.
pub(crate) fn hold(fd: c_int, place: Place, length: u64) -> Option<FileCall> {
    if !state::any_file_mapped() {
        // Nothing is served, and the runtime only notes that the file is being written: no lock, no allocation, so no need to enter.
        let _errno = Kept::now();
        let program = state::program()?;
        return Some(state::or_abort(|| program.writing(fd, WriteAt::FilePosition, length)));
    }
    state::ask(|program| {
        if descriptors::may_be_memory(fd) {
            store_by_proc(program, fd, place, length);
        }
        announce(program, fd, place, length)
    })
}

/// A write to `/proc/self/mem` stores into memory, but the kernel lets no fault of it wait: the memory must be plain before.
fn store_by_proc(program: &'static Program, fd: c_int, place: Place, length: u64) {
    let at = match place {
        Place::At(at) => at,
        // SAFETY: no pointer is passed.
        Place::Position | Place::End => unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) },
    };
    if let (Ok(at), Ok(length)) = (usize::try_from(at), usize::try_from(length)) {
        program.make_plain(at, length);
    }
}

fn announce(program: &'static Program, fd: c_int, place: Place, length: u64) -> FileCall {
    match place {
        Place::End => program.changing_layout(fd),
        Place::Position => program.writing(fd, WriteAt::FilePosition, length),
        // Linux appends even where the call names an offset.
        Place::At(_) if appends(fd) => program.writing(fd, WriteAt::FilePosition, length),
        // The kernel refuses an offset below zero.
        Place::At(at) => {
            program.writing(fd, WriteAt::Offset(u64::try_from(at).unwrap_or(0)), length)
        }
    }
}

fn appends(fd: c_int) -> bool {
    // SAFETY: F_GETFL has no argument.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
    flags != -1 && flags & libc::O_APPEND != 0
}

/// Makes the call with the announcement held, which leaves the call's `errno`.
pub(crate) fn over<R>(held: Option<FileCall>, call: impl FnOnce() -> R) -> R {
    let answer = call();
    if held.is_some() {
        let _errno = Kept::now();
        state::or_abort(|| drop(held));
    }
    answer
}

fn ready_to_write(from: *const c_void, count: size_t, call: impl Fn() -> ssize_t) -> ssize_t {
    ready(&[(from.addr(), count)], Access::Read, call)
}

/// write(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn write(
    fd: c_int,
    from: *const c_void,
    count: size_t,
) -> ssize_t {
    let held = hold(fd, Place::Position, count as u64);
    // SAFETY: the program's own arguments.
    over(held, || ready_to_write(from, count, || unsafe { real::write(fd, from, count) }))
}

/// write(2), by glibc's inner name.
///
/// # Safety
/// As `write`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __write(
    fd: c_int,
    from: *const c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { write(fd, from, count) }
}

/// pwrite(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwrite64(
    fd: c_int,
    from: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    let held = hold(fd, Place::At(at), count as u64);
    // SAFETY: the program's own arguments.
    over(held, || ready_to_write(from, count, || unsafe { real::pwrite64(fd, from, count, at) }))
}

/// pwrite(2).
///
/// # Safety
/// As `pwrite64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwrite(
    fd: c_int,
    from: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pwrite64(fd, from, count, at) }
}

/// pwrite(2), by glibc's inner name.
///
/// # Safety
/// As `pwrite64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __pwrite64(
    fd: c_int,
    from: *const c_void,
    count: size_t,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pwrite64(fd, from, count, at) }
}

/// writev(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn writev(
    fd: c_int,
    from: *const iovec,
    count: c_int,
) -> ssize_t {
    let held = hold(fd, Place::Position, vector_bytes(from, count));
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::writev(fd, from, count) };
    over(held, || ready_vectors(from, count, Access::Read, call))
}

/// pwritev(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwritev64(
    fd: c_int,
    from: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    let held = hold(fd, Place::At(at), vector_bytes(from, count));
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::pwritev64(fd, from, count, at) };
    over(held, || ready_vectors(from, count, Access::Read, call))
}

/// pwritev(2).
///
/// # Safety
/// As `pwritev64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwritev(
    fd: c_int,
    from: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pwritev64(fd, from, count, at) }
}

/// pwritev2(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwritev64v2(
    fd: c_int,
    from: *const iovec,
    count: c_int,
    at: off_t,
    flags: c_int,
) -> ssize_t {
    let held = hold(fd, Place::of_flags(at, flags), vector_bytes(from, count));
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::pwritev64v2(fd, from, count, at, flags) };
    over(held, || ready_vectors(from, count, Access::Read, call))
}

/// pwritev2(2).
///
/// # Safety
/// As `pwritev64v2`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pwritev2(
    fd: c_int,
    from: *const iovec,
    count: c_int,
    at: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { pwritev64v2(fd, from, count, at, flags) }
}

/// sendfile(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sendfile64(
    to: c_int,
    from: c_int,
    at: *mut off_t,
    count: size_t,
) -> ssize_t {
    let held = hold(to, Place::Position, count as u64);
    // SAFETY: the program's own arguments.
    over(held, || unsafe { real::sendfile64(to, from, at, count) })
}

/// sendfile(2).
///
/// # Safety
/// As `sendfile64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sendfile(
    to: c_int,
    from: c_int,
    at: *mut off_t,
    count: size_t,
) -> ssize_t {
    // SAFETY: the program's own arguments.
    unsafe { sendfile64(to, from, at, count) }
}

/// splice(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn splice(
    from: c_int,
    from_at: *mut loff_t,
    to: c_int,
    to_at: *mut loff_t,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    let held = hold(to, Place::of_pointer(to_at), count as u64);
    // SAFETY: the program's own arguments.
    over(held, || unsafe { real::splice(from, from_at, to, to_at, count, flags) })
}

/// copy_file_range(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn copy_file_range(
    from: c_int,
    from_at: *mut loff_t,
    to: c_int,
    to_at: *mut loff_t,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    let held = hold(to, Place::of_pointer(to_at), count as u64);
    // SAFETY: the program's own arguments.
    over(held, || unsafe { real::copy_file_range(from, from_at, to, to_at, count, flags) })
}

/// vmsplice(2): the pipe gets the pages themselves, and must get the file's.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn vmsplice(
    pipe: c_int,
    from: *const iovec,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    crate::locking::make_vectors_plain(from, count);
    // SAFETY: the program's own arguments.
    unsafe { real::vmsplice(pipe, from, count, flags) }
}

/// The bytes of a C call's vector; a negative count is the kernel's to refuse.
fn vector_bytes(from: *const iovec, count: c_int) -> u64 {
    usize::try_from(count).map_or(0, |count| vectors::total_bytes(from, count))
}

/// The bytes of a raw system call's vector.
pub(crate) fn raw_vector_bytes(from: c_long, count: c_long) -> u64 {
    let from = usize::try_from(from.cast_unsigned()).map(std::ptr::with_exposed_provenance);
    match (from, usize::try_from(count)) {
        (Ok(from), Ok(count)) => vectors::total_bytes(from, count),
        _ => 0,
    }
}
