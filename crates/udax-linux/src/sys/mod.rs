//! System calls, thin and typed, made without the C library: the preloaded library interposes its functions, and a call
//! made for it must not come back to it.

pub(crate) mod errno;
pub(crate) mod fd;
pub(crate) mod futex;
pub(crate) mod maps;
pub(crate) mod mem;
pub(crate) mod pagemap;
mod raw;
pub(crate) use raw::calls_made;
pub(crate) mod sched;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod uffd;

/// A 64-bit number as an address or a length.
#[expect(clippy::cast_possible_truncation, reason = "lib.rs refuses targets of less than 64 bits")]
pub(crate) const fn to_usize(number: u64) -> usize {
    number as usize
}

/// The bit set of a system call's 32-bit constant as a kernel argument.
pub(crate) const fn bits(flags: u32) -> usize {
    flags as usize
}

/// The low half of a kernel answer that is known to be an `int` (a descriptor, a process id).
#[expect(clippy::cast_possible_truncation, reason = "the kernel documents these answers as int")]
pub(crate) const fn to_int(answer: usize) -> i32 {
    answer as i32
}
