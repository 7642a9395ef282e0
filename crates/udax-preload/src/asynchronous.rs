//! Input and output that another thread or the kernel does later, past every interposer.

use crate::descriptors::share;
use crate::memory::make_all_plain;
use crate::{errno::Kept, real};
use libc::{aiocb, c_int, c_uint, c_void, sigevent, size_t};

/// aio_write(3): a thread of libc's writes the file.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn aio_write(request: *mut aiocb) -> c_int {
    // SAFETY: libc reads the request in the same way.
    share(unsafe { (*request).aio_fildes });
    // SAFETY: the program's own argument.
    unsafe { real::aio_write(request) }
}

/// aio_write(3), by its name for large files.
///
/// # Safety
/// As `aio_write`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn aio_write64(request: *mut aiocb) -> c_int {
    // SAFETY: the program's own argument.
    unsafe { aio_write(request) }
}

/// lio_listio(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn lio_listio(
    mode: c_int,
    requests: *const *mut aiocb,
    count: c_int,
    event: *mut sigevent,
) -> c_int {
    let kept = Kept::now();
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the program's array has `count` requests.
        let place = unsafe { requests.add(at) };
        // SAFETY: as above; libc reads it in the same way.
        let request = unsafe { place.read() };
        if request.is_null() {
            continue;
        }
        // SAFETY: libc reads the request in the same way.
        let operation = unsafe { (*request).aio_lio_opcode };
        if operation == libc::LIO_WRITE {
            // SAFETY: as above.
            share(unsafe { (*request).aio_fildes });
        }
    }
    drop(kept);
    // SAFETY: the program's own arguments.
    unsafe { real::lio_listio(mode, requests, count, event) }
}

/// lio_listio(3), by its name for large files.
///
/// # Safety
/// As `lio_listio`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn lio_listio64(
    mode: c_int,
    requests: *const *mut aiocb,
    count: c_int,
    event: *mut sigevent,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { lio_listio(mode, requests, count, event) }
}

/// Before a queue of either kind is made: what is put into it later is not seen.
pub(crate) fn before_queue() {
    make_all_plain("asynchronous I/O (io_uring or aio)");
}

/// libaio's io_setup.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_setup(events: c_int, context: *mut c_void) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_setup(events, context) }
}

/// libaio's io_queue_init.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_queue_init(events: c_int, context: *mut c_void) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_queue_init(events, context) }
}

/// liburing's io_uring_queue_init.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_uring_queue_init(
    entries: c_uint,
    ring: *mut c_void,
    flags: c_uint,
) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_uring_queue_init(entries, ring, flags) }
}

/// liburing's io_uring_queue_init_params.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    parameters: *mut c_void,
) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_uring_queue_init_params(entries, ring, parameters) }
}

/// liburing's io_uring_queue_init_mem.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_uring_queue_init_mem(
    entries: c_uint,
    ring: *mut c_void,
    parameters: *mut c_void,
    memory: *mut c_void,
    size: size_t,
) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_uring_queue_init_mem(entries, ring, parameters, memory, size) }
}

/// liburing's io_uring_setup.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn io_uring_setup(entries: c_uint, parameters: *mut c_void) -> c_int {
    before_queue();
    // SAFETY: the program's own arguments.
    unsafe { real::io_uring_setup(entries, parameters) }
}
