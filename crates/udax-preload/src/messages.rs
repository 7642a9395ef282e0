//! Messages that carry descriptors to or from another process (`SCM_RIGHTS`): their files may be written there, unseen.

use crate::buffers::{is_needed, ready};
use crate::control::descriptors_in;
use crate::descriptors::share;
use crate::{peek, real, state};
use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};
use udax::program::Access;

/// Shares the descriptors that a message carries.
fn share_carried(message: &msghdr) {
    if message.msg_control.is_null() || message.msg_controllen == 0 {
        return;
    }
    // More than the kernel allows in one message, whatever is claimed.
    let length = message.msg_controllen.min(1 << 20);
    let control = peek::many(message.msg_control.cast::<u8>().cast_const(), length);
    for fd in descriptors_in(&control.unwrap_or_default()) {
        share(fd);
    }
}

/// Before messages are sent: once a file has been mapped, its zeros must be gone before anybody gets the descriptor.
fn before_sending<T: Copy>(messages: *const T, count: usize, header: impl Fn(&T) -> &msghdr) {
    if state::any_file_mapped() {
        let _errno = crate::errno::Kept::now();
        for message in peek::many(messages, count).unwrap_or_default() {
            share_carried(header(&message));
        }
    }
}

/// After messages have been sent: nothing could be served before, so it is early enough, and costs the common message no system call.
///
/// # Safety
/// The kernel has just read `count` messages there.
unsafe fn after_sending<T: Copy>(messages: *const T, count: usize, header: impl Fn(&T) -> &msghdr) {
    if !state::any_file_mapped() {
        // SAFETY: as `passed`.
        unsafe { passed(messages, count, header) };
    }
}

/// Looks through messages that the kernel has read or written.
///
/// # Safety
/// The kernel has just read or written `count` messages there.
unsafe fn passed<T: Copy>(messages: *const T, count: usize, header: impl Fn(&T) -> &msghdr) {
    let _errno = crate::errno::Kept::now();
    for at in 0..count {
        // SAFETY: within the array that the kernel has used.
        let place = unsafe { messages.add(at) };
        // SAFETY: the kernel has used it, so it is memory that can be read, and it is a plain C structure.
        let message = unsafe { place.read() };
        share_carried(header(&message));
    }
}

/// The memory of messages, where it has to be made ready for the kernel.
fn memory_of<T: Copy>(
    messages: *const T,
    count: usize,
    header: impl Fn(&T) -> &msghdr,
) -> Vec<(usize, usize)> {
    if !is_needed() {
        return Vec::new();
    }
    let _errno = crate::errno::Kept::now();
    let mut memory = Vec::new();
    for message in peek::many(messages, count).unwrap_or_default() {
        let message = header(&message);
        let ranges = peek::many(message.msg_iov.cast_const(), message.msg_iovlen.min(1024));
        let ranges = ranges.unwrap_or_default();
        memory.extend(ranges.iter().map(|one| (one.iov_base.addr(), one.iov_len)));
        memory.push((message.msg_control.addr(), message.msg_controllen));
    }
    memory
}

fn plain(message: &msghdr) -> &msghdr {
    message
}

fn of_many(message: &mmsghdr) -> &msghdr {
    &message.msg_hdr
}

/// sendmsg(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sendmsg(
    socket: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    before_sending(message, 1, plain);
    let memory = memory_of(message, 1, plain);
    // SAFETY: the program's own arguments.
    let sent = ready(&memory, Access::Read, || unsafe { real::sendmsg(socket, message, flags) });
    if sent >= 0 {
        // SAFETY: the kernel has read the message.
        unsafe { after_sending(message, 1, plain) };
    }
    sent
}

/// recvmsg(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn recvmsg(
    socket: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    let memory = memory_of(message.cast_const(), 1, plain);
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::recvmsg(socket, message, flags) };
    let received = ready(&memory, Access::Write, call);
    if received >= 0 {
        // SAFETY: the kernel has written the message.
        unsafe { passed(message.cast_const(), 1, plain) };
    }
    received
}

/// sendmmsg(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sendmmsg(
    socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    // The kernel sends no more at once.
    let most = count.min(libc::UIO_MAXIOV.cast_unsigned()) as usize;
    before_sending(messages.cast_const(), most, of_many);
    let memory = memory_of(messages.cast_const(), most, of_many);
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::sendmmsg(socket, messages, count, flags) };
    let sent = ready(&memory, Access::Read, call);
    if let Ok(sent) = usize::try_from(sent) {
        // SAFETY: the kernel has read that many.
        unsafe { after_sending(messages.cast_const(), sent, of_many) };
    }
    sent
}

/// sendmmsg(2), by glibc's inner name.
///
/// # Safety
/// As `sendmmsg`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __sendmmsg(
    socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { sendmmsg(socket, messages, count, flags) }
}

/// recvmmsg(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn recvmmsg(
    socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let most = count.min(libc::UIO_MAXIOV.cast_unsigned()) as usize;
    let memory = memory_of(messages.cast_const(), most, of_many);
    // SAFETY: the program's own arguments.
    let call = || unsafe { real::recvmmsg(socket, messages, count, flags, timeout) };
    let received = ready(&memory, Access::Write, call);
    if let Ok(received) = usize::try_from(received) {
        // SAFETY: the kernel has written that many.
        unsafe { passed(messages.cast_const(), received, of_many) };
    }
    received
}
