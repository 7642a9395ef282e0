//! userfaultfd: the few requests that are needed of it.

use super::errno::Errno;
use super::raw::syscall;
use super::{bits, fd, to_int, to_usize};
use crate::engine::Engine;
use linux_raw_sys::general as k;
use linux_raw_sys::ioctl;
use std::os::fd::RawFd;

/// `USERFAULTFD_IOC_NEW`, `_IO(0xAA, 0)`.
const NEW_FROM_DEVICE: u32 = 0xAA00;
/// What must be there: a moved range stays registered, and a write-protection fault says that it is one.
pub(crate) const WANTED: u64 =
    (k::UFFD_FEATURE_EVENT_REMAP | k::UFFD_FEATURE_PAGEFAULT_FLAG_WP) as u64;

/// What is asked for where it is to be had: the number of the thread that faults.
pub(crate) const USEFUL: u64 = k::UFFD_FEATURE_THREAD_ID as u64;

/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const MODE_WP: u64 = 1;
/// `UFFDIO_WRITEPROTECT_MODE_DONTWAKE`.
const MODE_DONT_WAKE: u64 = 2;

/// How a descriptor was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Syscall,
    Device,
    /// By the system call, for faults in user mode alone: what anybody may have (Linux 5.11). A system call that is given memory where
    /// nothing is mapped fails with EFAULT.
    UserModeOnly,
}

impl Source {
    pub(crate) const fn engine(self) -> Engine {
        match self {
            Self::Syscall | Self::Device => Engine::Userfaultfd,
            Self::UserModeOnly => Engine::UserfaultfdUser,
        }
    }
}

/// A new userfaultfd: for faults of user and kernel alike if that is to be had, else for those in user mode; `asked` for one kind nothing
/// but that. What the system call and the device said if there is none.
pub(crate) fn open(asked: Option<Engine>) -> Result<(RawFd, Source), (Errno, Errno)> {
    let flags = bits(k::O_CLOEXEC | k::O_NONBLOCK);
    if asked == Some(Engine::UserfaultfdUser) {
        return user_mode_only(flags).map_err(|errno| (errno, errno));
    }
    // SAFETY: no argument is a pointer; a new descriptor is all that comes of it.
    let refused = match unsafe { syscall(k::__NR_userfaultfd, [flags, 0, 0, 0, 0, 0]) } {
        Ok(number) => return Ok((to_int(number), Source::Syscall)),
        Err(errno) => errno,
    };
    match by_device(flags) {
        Ok(number) => Ok((number, Source::Device)),
        Err(device) if asked.is_some() => Err((refused, device)),
        Err(device) => user_mode_only(flags).map_err(|_| (refused, device)),
    }
}

fn by_device(flags: usize) -> Result<RawFd, Errno> {
    let device = fd::open(c"/dev/userfaultfd", k::O_RDWR | k::O_CLOEXEC)?;
    let arguments = [device as usize, bits(NEW_FROM_DEVICE), flags, 0, 0, 0];
    // SAFETY: this request takes flags, not a pointer.
    let made = unsafe { syscall(k::__NR_ioctl, arguments) };
    fd::close(device);
    made.map(to_int)
}

fn user_mode_only(flags: usize) -> Result<(RawFd, Source), Errno> {
    let flags = flags | bits(k::UFFD_USER_MODE_ONLY);
    // SAFETY: no argument is a pointer; a new descriptor is all that comes of it.
    let made = unsafe { syscall(k::__NR_userfaultfd, [flags, 0, 0, 0, 0, 0]) };
    made.map(|number| (to_int(number), Source::UserModeOnly))
}

fn request<T>(uffd: RawFd, number: u32, argument: &mut T) -> Result<(), Errno> {
    let pointer: *mut T = argument;
    let arguments = [uffd as usize, bits(number), pointer as usize, 0, 0, 0];
    // SAFETY: callers below pair each request with its own structure, which is borrowed for the call; none of these
    // requests changes what a page holds that anybody has seen.
    unsafe { syscall(k::__NR_ioctl, arguments) }.map(drop)
}

/// Says which features are wanted; the answer is all that the kernel has.
pub(crate) fn handshake(uffd: RawFd, features: u64) -> Result<u64, Errno> {
    let mut api = k::uffdio_api { api: u64::from(k::UFFD_API), features, ioctls: 0 };
    request(uffd, ioctl::UFFDIO_API, &mut api)?;
    Ok(api.features)
}

const fn range(address: usize, length_bytes: usize) -> k::uffdio_range {
    k::uffdio_range { start: address as u64, len: length_bytes as u64 }
}

/// From now on missing pages, and stores to protected ones, are reported.
pub(crate) fn register(uffd: RawFd, address: usize, length_bytes: usize) -> Result<(), Errno> {
    let mode = u64::from(k::UFFDIO_REGISTER_MODE_MISSING | k::UFFDIO_REGISTER_MODE_WP);
    let mut argument = k::uffdio_register { range: range(address, length_bytes), mode, ioctls: 0 };
    request(uffd, ioctl::UFFDIO_REGISTER, &mut argument)
}

/// From now on stores to protected pages are reported, and nothing else.
pub(crate) fn register_stores(
    uffd: RawFd,
    address: usize,
    length_bytes: usize,
) -> Result<(), Errno> {
    let mode = u64::from(k::UFFDIO_REGISTER_MODE_WP);
    let mut argument = k::uffdio_register { range: range(address, length_bytes), mode, ioctls: 0 };
    request(uffd, ioctl::UFFDIO_REGISTER, &mut argument)
}

/// What write-protection a range is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Stores are reported and wait.
    Stores,
    /// Stores go through; whoever waited goes on.
    Nothing,
    /// For what was never protected: nothing happens, but that the kernel says whether it is registered.
    Unchanged,
}

/// Sets the protection of the pages present in a registered range. [`Errno::NOENT`] if something else is mapped anywhere in it, or nothing at all;
/// [`Errno::AGAIN`] while an mremap waits for its event to be read.
pub(crate) fn protect(
    uffd: RawFd,
    address: usize,
    length_bytes: usize,
    protection: Protection,
) -> Result<(), Errno> {
    let mode = match protection {
        Protection::Stores => MODE_WP,
        Protection::Nothing => 0,
        Protection::Unchanged => MODE_DONT_WAKE,
    };
    let mut argument = k::uffdio_writeprotect { range: range(address, length_bytes), mode };
    request(uffd, ioctl::UFFDIO_WRITEPROTECT, &mut argument)
}

/// Maps zero pages where nothing is mapped, up to the first page that is there; wakes whoever waits for them.
pub(crate) fn zero_pages(uffd: RawFd, address: usize, length_bytes: usize) -> Result<(), Errno> {
    let mut argument =
        k::uffdio_zeropage { range: range(address, length_bytes), mode: 0, zeropage: 0 };
    request(uffd, ioctl::UFFDIO_ZEROPAGE, &mut argument)
}

/// Whoever waits in the range tries again.
pub(crate) fn wake(uffd: RawFd, address: usize, length_bytes: usize) {
    let mut argument = range(address, length_bytes);
    // A range outside the address space is the only error there is.
    let _ = request(uffd, ioctl::UFFDIO_WAKE, &mut argument);
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A thread waits: the address, flags UFFD_PAGEFAULT_FLAG_*, and its number or 0.
    Fault { address: usize, flags: u64, thread: i32 },
    /// Anything else; reading it is all that it needs.
    Other,
}

/// Reads what is there, without waiting; [`Errno::AGAIN`] if nothing is.
pub(crate) fn read(uffd: RawFd, each: &mut impl FnMut(Event)) -> Result<(), Errno> {
    const SIZE: usize = size_of::<k::uffd_msg>();
    const BATCH: usize = 16;
    let mut buffer = [0_u8; SIZE * BATCH];
    let length = fd::read(uffd, &mut buffer)?;
    for message in buffer[..length].chunks_exact(SIZE) {
        each(parse(message));
    }
    Ok(())
}

/// For the fuzzer: a fault's address, flags and thread. No message is empty.
#[cfg(fuzzing)]
pub fn any_message(message: &[u8]) -> Option<(usize, u64, i32)> {
    match parse(message) {
        Event::Fault { address, flags, thread } => Some((address, flags, thread)),
        Event::Other => None,
    }
}

fn parse(message: &[u8]) -> Event {
    // The layout is that of `struct uffd_msg`: the event in byte 0, the fault's flags at 8, its address at 16,
    // the thread's number at 24.
    let word = |at: usize| {
        message
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    };
    if u32::from(message[0]) == k::UFFD_EVENT_PAGEFAULT {
        let thread = i32::try_from(word(24) & u64::from(u32::MAX)).unwrap_or(0);
        Event::Fault { address: to_usize(word(16)), flags: word(8), thread }
    } else {
        Event::Other
    }
}
