//! Calls that change where a file has storage, or how long it is: the whole file is mapped plainly over the call.

use crate::buffers::{is_needed, ready};
use crate::contents::over;
use crate::{peek, real, state};
use libc::{c_int, c_ulong, c_void, off_t};
use udax::program::{Access, FileCall};

/// Announces a change of layout; what it answers is to be kept over the call.
pub(crate) fn hold(fd: c_int) -> Option<FileCall> {
    state::ask(|program| program.changing_layout(fd))
}

/// ftruncate(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn ftruncate64(fd: c_int, size: off_t) -> c_int {
    // SAFETY: the program's own arguments.
    over(hold(fd), || unsafe { real::ftruncate64(fd, size) })
}

/// ftruncate(2).
///
/// # Safety
/// As `ftruncate64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn ftruncate(fd: c_int, size: off_t) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { ftruncate64(fd, size) }
}

/// fallocate(2), by its name for large files.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fallocate64(
    fd: c_int,
    mode: c_int,
    at: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the program's own arguments.
    over(hold(fd), || unsafe { real::fallocate64(fd, mode, at, length) })
}

/// fallocate(2).
///
/// # Safety
/// As `fallocate64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn fallocate(
    fd: c_int,
    mode: c_int,
    at: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { fallocate64(fd, mode, at, length) }
}

/// posix_fallocate(3), by its name for large files: answers the error number.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn posix_fallocate64(
    fd: c_int,
    at: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the program's own arguments.
    over(hold(fd), || unsafe { real::posix_fallocate64(fd, at, length) })
}

/// posix_fallocate(3).
///
/// # Safety
/// As `posix_fallocate64`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn posix_fallocate(
    fd: c_int,
    at: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { posix_fallocate64(fd, at, length) }
}

/// ioctl(2).
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn ioctl(
    fd: c_int,
    request: c_ulong,
    argument: *mut c_void,
) -> c_int {
    if registers_memory(request) {
        leave_registered(argument);
    }
    let held = if changes_layout(request) { hold(fd) } else { None };
    let call = || {
        // SAFETY: the program's own arguments.
        unsafe { real::ioctl(fd, request, argument) }
    };
    over(held, || ready(&copied_from(request, argument), Access::Read, call))
}

/// Whether an ioctl is `UFFDIO_REGISTER`: memory whose faults the program is to serve itself.
pub(crate) fn registers_memory(request: c_ulong) -> bool {
    const REGISTER: [u8; 4] = [0x00, 0xaa, 32, 0xc0];
    request.to_le_bytes()[..4] == REGISTER
}

/// The memory that an ioctl which is `UFFDIO_COPY` copies from.
pub(crate) fn copied_from(request: c_ulong, argument: *mut c_void) -> Vec<(usize, usize)> {
    const COPY: [u8; 4] = [0x03, 0xaa, 40, 0xc0];
    if request.to_le_bytes()[..4] != COPY || !is_needed() {
        return Vec::new();
    }
    let copy = peek::one::<[u64; 3]>(argument.cast());
    let range = copy.map(|[_, from, length_bytes]| (from.try_into(), length_bytes.try_into()));
    match range {
        Some((Ok(from), Ok(length_bytes))) => vec![(from, length_bytes)],
        Some(_) | None => Vec::new(),
    }
}

/// Before it: a mapping can have one userfaultfd, and it is to be the program's.
pub(crate) fn leave_registered(argument: *mut c_void) {
    if let (true, Some([start, length_bytes])) =
        (state::any_file_mapped(), peek::one::<[u64; 2]>(argument.cast()))
        && let (Ok(start), Ok(length_bytes)) = (start.try_into(), length_bytes.try_into())
    {
        state::ask(|program| program.leave_to_program(start, length_bytes));
    }
}

/// Whether an ioctl may change a file's storage: those of the file systems that pass a structure in. FIEMAP does too, and only asks.
pub(crate) fn changes_layout(request: c_ulong) -> bool {
    const FIEMAP: u8 = 11;
    /// Letters of the file systems' ioctls: generic and ext4, XFS, btrfs (and FICLONE, FIDEDUPERANGE).
    const FILE_SYSTEMS: [u8; 3] = [b'f', b'X', 0x94];
    const WRITE: u8 = 1;
    let [number, letter, _, direction] = request.to_le_bytes()[..4] else { return false };
    FILE_SYSTEMS.contains(&letter)
        && (direction >> 6) & WRITE != 0
        && !(letter == b'f' && number == FIEMAP)
}

#[cfg(test)]
mod tests {
    use super::{changes_layout, registers_memory};

    #[test]
    fn cloning_changes_layout() {
        assert!(changes_layout(0x4004_9409), "FICLONE");
        assert!(changes_layout(0x4020_940d), "FICLONERANGE");
        assert!(changes_layout(0xc018_9436), "FIDEDUPERANGE");
        assert!(changes_layout(0x4008_6602), "FS_IOC_SETFLAGS");
        assert!(changes_layout(0x4030_5839), "XFS_IOC_ZERO_RANGE");
    }

    #[test]
    fn registering_with_a_userfaultfd_is_noticed() {
        assert!(registers_memory(0xc020_aa00) && registers_memory(0xffff_ffff_c020_aa00));
        assert!(!registers_memory(0x8010_aa01), "UFFDIO_UNREGISTER");
        assert!(!registers_memory(0xc018_aa3f), "UFFDIO_API");
    }

    #[test]
    fn questions_and_other_devices_change_nothing() {
        assert!(!changes_layout(0xc020_660b), "FS_IOC_FIEMAP");
        assert!(!changes_layout(0x8008_6601), "FS_IOC_GETFLAGS");
        assert!(!changes_layout(0x5401), "TCGETS");
        assert!(!changes_layout(0x541b), "FIONREAD");
        assert!(!changes_layout(0xffff_ffff_0000_5401), "sign-extended request");
    }
}
