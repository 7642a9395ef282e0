//! The C way of telling about errors.

use libc::{c_int, c_void};
use udax::Errno;

fn cell() -> *mut c_int {
    // SAFETY: no argument; the answer is this thread's errno, which lives as long as the thread.
    unsafe { libc::__errno_location() }
}

pub(crate) fn get() -> c_int {
    // SAFETY: `cell` is valid, and no other thread has this thread's errno.
    unsafe { *cell() }
}

pub(crate) fn set(value: c_int) {
    // SAFETY: as in `get`.
    unsafe { *cell() = value }
}

/// Keeps `errno` as it is now until the end of the scope.
pub(crate) struct Kept(c_int);

impl Kept {
    pub(crate) fn now() -> Self {
        Self(get())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        set(self.0);
    }
}

/// 0, or -1 with `errno`.
pub(crate) fn status(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => {
            set(errno.0);
            -1
        }
    }
}

/// An address, or `MAP_FAILED` with `errno`.
pub(crate) fn address(result: Result<usize, Errno>) -> *mut c_void {
    match result {
        Ok(address) => std::ptr::with_exposed_provenance_mut(address),
        Err(errno) => {
            set(errno.0);
            libc::MAP_FAILED
        }
    }
}
