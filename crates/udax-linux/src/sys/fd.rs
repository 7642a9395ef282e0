//! Calls on descriptors. A descriptor is a number in the table of the calling thread.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, to_int, to_usize};
use core::ffi::CStr;
use linux_raw_sys::general as k;
use std::os::fd::RawFd;
use std::time::Duration;

/// A call whose arguments are all numbers, and which changes no memory.
fn numbers(number: u32, arguments: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: private to this module, and used below only for calls that take no pointer and change no memory.
    unsafe { syscall(number, arguments) }
}

/// `openat`, of an absolute path.
pub(crate) fn open(path: &CStr, flags: u32) -> Result<RawFd, Errno> {
    let arguments = [k::AT_FDCWD as usize, path.as_ptr() as usize, bits(flags), 0, 0, 0];
    // SAFETY: the path ends in a zero byte and is borrowed for the call.
    unsafe { syscall(k::__NR_openat, arguments) }.map(to_int)
}

/// `close`. The number is free afterwards, whatever the kernel answers.
pub(crate) fn close(fd: RawFd) {
    let _ = numbers(k::__NR_close, [fd as usize, 0, 0, 0, 0, 0]);
}

/// `CLOSE_RANGE_UNSHARE` of `linux/close_range.h`.
const CLOSE_RANGE_UNSHARE: usize = 1 << 1;

/// This thread, and those it starts from now on, get a descriptor table of their own, with nothing in it.
pub(crate) fn own_table() -> Result<(), Errno> {
    let flags = CLOSE_RANGE_UNSHARE;
    numbers(k::__NR_close_range, [0, u32::MAX as usize, flags, 0, 0, 0]).map(drop)
}

/// Another description of what a path leads to, for writing behind what is there.
pub(crate) fn open_to_append(path: &CStr) -> Result<RawFd, Errno> {
    open(path, k::O_WRONLY | k::O_APPEND | k::O_CLOEXEC | k::O_NOCTTY)
}

/// `fcntl` with a number as its argument.
pub(crate) fn fcntl(fd: RawFd, command: u32, argument: usize) -> Result<usize, Errno> {
    numbers(k::__NR_fcntl, [fd as usize, bits(command), argument, 0, 0, 0])
}

/// The flags a description was opened with, and those set since.
pub(crate) fn flags(fd: RawFd) -> Result<u32, Errno> {
    fcntl(fd, k::F_GETFL, 0).map(|flags| to_int(flags) as u32)
}

/// `fcntl(F_GETOWN_EX)`: to whom signals of the description go.
pub(crate) fn owner(fd: RawFd) -> Result<k::f_owner_ex, Errno> {
    let mut owner = k::f_owner_ex { type_: 0, pid: 0 };
    let owner_at: *mut k::f_owner_ex = &raw mut owner;
    let arguments = [fd as usize, bits(k::F_GETOWN_EX), owner_at as usize, 0, 0, 0];
    // SAFETY: the pointer is to the structure that the command fills in, borrowed for the call.
    unsafe { syscall(k::__NR_fcntl, arguments) }?;
    Ok(owner)
}

/// `fcntl(F_SETOWN_EX)`: signals of the description go to `owner`.
pub(crate) fn set_owner(fd: RawFd, owner: &k::f_owner_ex) -> Result<(), Errno> {
    let owner_at: *const k::f_owner_ex = owner;
    let arguments = [fd as usize, bits(k::F_SETOWN_EX), owner_at as usize, 0, 0, 0];
    // SAFETY: the pointer is to the structure that the command reads, borrowed for the call.
    unsafe { syscall(k::__NR_fcntl, arguments) }.map(drop)
}

/// `read`, into memory of our own.
pub(crate) fn read(fd: RawFd, into: &mut [u8]) -> Result<usize, Errno> {
    let arguments = [fd as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0];
    // SAFETY: the buffer is borrowed for the call, with its true length.
    unsafe { syscall(k::__NR_read, arguments) }
}

/// `write`.
pub(crate) fn write(fd: RawFd, from: &[u8]) -> Result<usize, Errno> {
    let arguments = [fd as usize, from.as_ptr() as usize, from.len(), 0, 0, 0];
    // SAFETY: the buffer is borrowed for the call, with its true length.
    unsafe { syscall(k::__NR_write, arguments) }
}

/// `pread`, into memory of our own.
pub(crate) fn read_at(fd: RawFd, into: &mut [u8], at: u64) -> Result<usize, Errno> {
    // SAFETY: the buffer is borrowed for the call, with its true length.
    unsafe { read_at_address(fd, into.as_mut_ptr() as usize, into.len(), at) }
}

/// `pread` to an address, which may be a mapping of a file: what cannot be stored there is an error, no signal.
///
/// # Safety
/// 1. The `length_bytes` at `address` are the caller's to overwrite.
pub(crate) unsafe fn read_at_address(
    fd: RawFd,
    address: usize,
    length_bytes: usize,
    at: u64,
) -> Result<usize, Errno> {
    let arguments = [fd as usize, address, length_bytes, to_usize(at), 0, 0];
    // SAFETY: 1: passed on to our caller.
    unsafe { syscall(k::__NR_pread64, arguments) }
}

/// `pwrite`.
pub(crate) fn write_at(fd: RawFd, from: &[u8], at: u64) -> Result<usize, Errno> {
    let arguments = [fd as usize, from.as_ptr() as usize, from.len(), to_usize(at), 0, 0];
    // SAFETY: the buffer is borrowed for the call, with its true length.
    unsafe { syscall(k::__NR_pwrite64, arguments) }
}

/// `lseek`.
pub(crate) fn seek(fd: RawFd, offset: u64, whence: u32) -> Result<u64, Errno> {
    numbers(k::__NR_lseek, [fd as usize, to_usize(offset), bits(whence), 0, 0, 0])
        .map(|at| at as u64)
}

/// `fallocate`.
pub(crate) fn allocate(fd: RawFd, mode: u32, at: u64, length_bytes: u64) -> Result<(), Errno> {
    let arguments = [fd as usize, bits(mode), to_usize(at), to_usize(length_bytes), 0, 0];
    numbers(k::__NR_fallocate, arguments).map(drop)
}

/// `ftruncate`.
pub(crate) fn truncate(fd: RawFd, bytes: u64) -> Result<(), Errno> {
    numbers(k::__NR_ftruncate, [fd as usize, to_usize(bytes), 0, 0, 0, 0]).map(drop)
}

/// `fdatasync`.
pub(crate) fn sync_data(fd: RawFd) -> Result<(), Errno> {
    numbers(k::__NR_fdatasync, [fd as usize, 0, 0, 0, 0, 0]).map(drop)
}

/// `statx` of a descriptor.
pub(crate) fn status(fd: RawFd) -> Result<k::statx, Errno> {
    let mut status = core::mem::MaybeUninit::<k::statx>::zeroed();
    let (empty, into) = (c"".as_ptr() as usize, status.as_mut_ptr() as usize);
    let mask = bits(k::STATX_BASIC_STATS);
    let arguments = [fd as usize, empty, bits(k::AT_EMPTY_PATH), mask, into, 0];
    // SAFETY: the path ends in a zero byte, and the answer goes into a structure of its type; both outlive the call.
    unsafe { syscall(k::__NR_statx, arguments) }?;
    // SAFETY: the structure consists of integers, for which zero is a value, and was zeroed before the call.
    Ok(unsafe { status.assume_init() })
}

/// Which kind of file system a descriptor's file is on.
pub(crate) fn file_system_magic(fd: RawFd) -> Result<u64, Errno> {
    let mut answer = core::mem::MaybeUninit::<k::statfs>::zeroed();
    let arguments = [fd as usize, answer.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: the answer goes into a structure of its type, which outlives the call.
    unsafe { syscall(k::__NR_fstatfs, arguments) }?;
    // SAFETY: the structure consists of integers, for which zero is a value, and was zeroed before the call.
    let answer = unsafe { answer.assume_init() };
    Ok(answer.f_type as u64)
}

/// A counter that can be polled for.
pub(crate) fn event_counter() -> Result<RawFd, Errno> {
    let flags = bits(k::EFD_CLOEXEC | k::EFD_NONBLOCK);
    numbers(k::__NR_eventfd2, [0, flags, 0, 0, 0, 0]).map(to_int)
}

/// Counts one up.
pub(crate) fn ring(counter: RawFd) {
    // It can only fail when the counter is full, and then it can be polled for as well.
    let _ = write(counter, &1_u64.to_ne_bytes());
}

/// Back to zero; whether it was above.
pub(crate) fn answer(counter: RawFd) -> bool {
    read(counter, &mut [0; 8]).is_ok()
}

/// What ended a sleep in [`poll_two`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// The first can be read, or a signal came.
    First,
    /// The second can be read, perhaps the first too.
    Second,
    /// The time was over.
    Nothing,
}

/// Sleeps until one of the two can be read, for `at_most` if that is given.
pub(crate) fn poll_two(first: RawFd, second: RawFd, at_most: Option<Duration>) -> Polled {
    const READABLE: i16 = 1;
    let mut polled = [first, second].map(|fd| k::pollfd { fd, events: READABLE, revents: 0 });
    let mut timeout = at_most.map(|time| k::__kernel_timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let timeout_at = timeout.as_mut().map_or(0, |timeout| std::ptr::from_mut(timeout) as usize);
    let arguments = [polled.as_mut_ptr() as usize, 2, timeout_at, 0, 0, 0];
    // SAFETY: the pointers are to two entries and to a time or null, borrowed for the call; a null mask is allowed.
    let ready = unsafe { syscall(k::__NR_ppoll, arguments) };
    match ready {
        Ok(0) => Polled::Nothing,
        Ok(_) if polled[1].revents != 0 => Polled::Second,
        // More descriptors than the process may have (RLIMIT_NOFILE) are refused, however long they have been open.
        Err(Errno::INVAL) => select_two(first, second, timeout_at),
        Ok(_) | Err(_) => Polled::First,
    }
}

/// The same by pselect6, which no limit is set to: its sets are as long as the table, not as the limit.
fn select_two(first: RawFd, second: RawFd, timeout_at: usize) -> Polled {
    const WORDS: usize = 16;
    const BITS: usize = WORDS * 64;
    let (one, other) = (first.max(0) as usize, second.max(0) as usize);
    if one.max(other) >= BITS {
        return Polled::First;
    }
    let mut readable = [0_u64; WORDS];
    readable[one / 64] |= 1 << (one % 64);
    readable[other / 64] |= 1 << (other % 64);
    let arguments = [one.max(other) + 1, readable.as_mut_ptr() as usize, 0, 0, timeout_at, 0];
    // SAFETY: the pointers are to a set that is long enough for both numbers and to a time or null, borrowed for the call; a null mask is allowed.
    let ready = unsafe { syscall(k::__NR_pselect6, arguments) };
    match ready {
        Ok(0) => Polled::Nothing,
        Ok(_) if readable[other / 64] & (1 << (other % 64)) != 0 => Polled::Second,
        Ok(_) | Err(_) => Polled::First,
    }
}

/// A file in memory, of that length and all holes. No memory is set aside for it.
pub(crate) fn empty_memory(name: &CStr, length_bytes: u64) -> Result<RawFd, Errno> {
    let arguments =
        [name.as_ptr() as usize, bits(k::MFD_CLOEXEC | k::MFD_ALLOW_SEALING), 0, 0, 0, 0];
    // SAFETY: the name ends in a zero byte and is borrowed for the call.
    let file = unsafe { syscall(k::__NR_memfd_create, arguments) }.map(to_int)?;
    let resized = numbers(k::__NR_ftruncate, [file as usize, to_usize(length_bytes), 0, 0, 0, 0]);
    if let Err(errno) = resized {
        close(file);
        return Err(errno);
    }
    Ok(file)
}

/// From now on nobody can map a file in memory so that it may be stored to (Linux 5.1).
pub(crate) fn forbid_stores(fd: RawFd) -> Result<(), Errno> {
    fcntl(fd, k::F_ADD_SEALS, bits(k::F_SEAL_FUTURE_WRITE)).map(drop)
}

/// A descriptor for this process.
pub(crate) fn this_process() -> Result<RawFd, Errno> {
    let process = super::signal::process_id();
    numbers(k::__NR_pidfd_open, [process as usize, 0, 0, 0, 0, 0]).map(to_int)
}

/// A descriptor of this thread's table for the same open file description as `fd` in the table of the process's first thread.
pub(crate) fn fetch(process: RawFd, fd: RawFd) -> Result<RawFd, Errno> {
    numbers(k::__NR_pidfd_getfd, [process as usize, fd as usize, 0, 0, 0, 0]).map(to_int)
}

/// Makes the table big, while no other thread uses it: growing it later waits for every processor to notice (10 to 20 ms).
pub(crate) fn grow_table() {
    const ROOM: usize = 1000;
    let Ok(any) = event_counter() else { return };
    // The process may not be allowed so many; then it grows when it has to.
    if let Ok(high) = fcntl(any, k::F_DUPFD_CLOEXEC, ROOM) {
        close(to_int(high));
    }
    close(any);
}

/// What a thread of this process is doing in the kernel, in a few words.
pub(crate) fn thread_state(thread: i32) -> String {
    let read = |file: &str| {
        let path = std::ffi::CString::new(format!("/proc/self/task/{thread}/{file}"));
        path.ok().and_then(|path| read_text(&path).ok()).unwrap_or_default()
    };
    let stat = read("stat");
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().next());
    match (state.unwrap_or("unknown"), read("wchan").as_str()) {
        (state, "" | "0") => format!("state {state}"),
        (state, place) => format!("state {state}, in {place}"),
    }
}

/// All of a file of /proc.
pub(crate) fn read_all(path: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = open(path, k::O_RDONLY | k::O_CLOEXEC)?;
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    let end = loop {
        match read(fd, &mut part) {
            Ok(0) => break Ok(()),
            Ok(count) => all.extend_from_slice(&part[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => break Err(errno),
        }
    };
    close(fd);
    end.map(|()| all)
}

/// A small file as text, without what is around it.
pub(crate) fn read_text(path: &CStr) -> Result<String, Errno> {
    let fd = open(path, k::O_RDONLY | k::O_CLOEXEC)?;
    let mut buffer = [0; 256];
    let length = read(fd, &mut buffer);
    close(fd);
    Ok(String::from_utf8_lossy(&buffer[..length?]).trim().to_owned())
}
