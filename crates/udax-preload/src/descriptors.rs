//! Calls by which a file comes to be written where we cannot see it: through libc's standard streams, by another process, or by
//! another part of this one that goes around us. Such a file is mapped plainly from then on.

use crate::{real, state};
use libc::{c_int, c_long, c_uint};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says that the file behind `fd` may be written unseen.
pub(crate) fn share(fd: c_int) {
    state::ask(|program| program.descriptor_shared(fd));
}

/// The standard streams' descriptors: libc writes them from within, where no interposer sees it.
const STANDARD: std::ops::RangeInclusive<c_int> = 0..=2;

/// Which regular file a descriptor is open on.
fn identity(fd: c_int) -> Option<(libc::dev_t, libc::ino_t)> {
    let mut about = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills the structure that it is given.
    let answer = unsafe { libc::fstat(fd, about.as_mut_ptr()) };
    if answer != 0 {
        return None;
    }
    // SAFETY: filled, as the call succeeded.
    let about = unsafe { about.assume_init() };
    (about.st_mode & libc::S_IFMT == libc::S_IFREG).then_some((about.st_dev, about.st_ino))
}

/// The device number of /proc, or 0.
fn proc_device() -> libc::dev_t {
    static DEVICE: OnceLock<libc::dev_t> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        std::fs::metadata("/proc/self/mem")
            .map_or(0, |about| std::os::unix::fs::MetadataExt::dev(&about))
    })
}

/// Whether the descriptor may be of `/proc/PID/mem`.
pub(crate) fn may_be_memory(fd: c_int) -> bool {
    identity(fd).is_some_and(|(device, _)| device == proc_device())
}

/// Before a file is mapped: if a standard stream may write it, it is shared.
pub(crate) fn share_if_standard_stream(fd: c_int) {
    let _errno = crate::errno::Kept::now();
    let Some(file) = identity(fd) else { return };
    if STANDARD.into_iter().any(|stream| identity(stream) == Some(file)) {
        share(fd);
    }
}

/// After a descriptor has been duplicated: a standard stream may write the file now.
fn duplicated(copy: c_int) -> c_int {
    if STANDARD.contains(&copy) && state::any_file_mapped() {
        share(copy);
    }
    copy
}

/// dup(2).
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup(fd: c_int) -> c_int {
    // SAFETY: the program's own argument.
    duplicated(unsafe { real::dup(fd) })
}

/// dup2(2).
///
/// # Safety
/// As the system call: `to` is closed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup2(fd: c_int, to: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    duplicated(unsafe { real::dup2(fd, to) })
}

/// dup2(2), by glibc's inner name.
///
/// # Safety
/// As `dup2`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __dup2(fd: c_int, to: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { dup2(fd, to) }
}

/// dup3(2).
///
/// # Safety
/// As `dup2`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    duplicated(unsafe { real::dup3(fd, to, flags) })
}

/// What a command of `fcntl` means for the proof that nobody writes the file unseen.
fn ends_proof(command: c_int) -> bool {
    /// Not in the `libc` crate for this C library.
    const F_SETSIG: c_int = 10;
    const F_GETSIG: c_int = 11;
    const F_SETOWN_EX: c_int = 15;
    const F_GETOWN_EX: c_int = 16;
    matches!(
        command,
        // The lease must be the program's own, and so must the signals that go with it.
        libc::F_SETLEASE
            | libc::F_GETLEASE
            | libc::F_SETOWN
            | libc::F_GETOWN
            | F_SETSIG
            | F_GETSIG
            | F_SETOWN_EX
            | F_GETOWN_EX
            // The kernel refuses a seal while the file is mapped writable: it must see the mappings.
            | libc::F_ADD_SEALS
    )
}

/// The program has used leases itself: what the kernel shows of them is the program's.
static OWN_LEASES: AtomicBool = AtomicBool::new(false);

/// The flags of a descriptor as the program knows them: the kernel sets `O_ASYNC` on a regular file for a lease, and for nothing else.
fn own_flags(fd: c_int, flags: c_int) -> c_int {
    let foreign = flags != -1
        && flags & libc::O_ASYNC != 0
        && !OWN_LEASES.load(Ordering::Relaxed)
        && identity(fd).is_some();
    if foreign { flags & !libc::O_ASYNC } else { flags }
}

/// fcntl(2). A cancellation point.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fcntl(fd: c_int, command: c_int, argument: c_long) -> c_int {
    if ends_proof(command) {
        share(fd);
    }
    if command == libc::F_SETLEASE {
        OWN_LEASES.store(true, Ordering::Relaxed);
    }
    // SAFETY: the program's own arguments.
    let answer = unsafe { real::fcntl(fd, command, argument) };
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(answer),
        libc::F_GETFL => own_flags(fd, answer),
        _ => answer,
    }
}

/// fcntl(2), by its name for large files.
///
/// # Safety
/// As `fcntl`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fcntl64(
    fd: c_int,
    command: c_int,
    argument: c_long,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { fcntl(fd, command, argument) }
}

/// pidfd_getfd(2): what it fetches, another process has open too.
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pidfd_getfd(pidfd: c_int, fd: c_int, flags: c_uint) -> c_int {
    // SAFETY: the program's own arguments.
    let fetched = unsafe { real::pidfd_getfd(pidfd, fd, flags) };
    if fetched >= 0 {
        share(fetched);
    }
    fetched
}

/// unshare(2). A thread with a descriptor table of its own names files by numbers that mean others to the rest of the process.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unshare(flags: c_int) -> c_int {
    if flags & libc::CLONE_FILES != 0 {
        crate::memory::make_all_plain("unshare(CLONE_FILES)");
    }
    // SAFETY: the program's own argument.
    unsafe { real::unshare(flags) }
}
