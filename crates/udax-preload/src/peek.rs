//! Looking at the program's memory without believing its pointers.

use crate::buffers::ready;
use crate::real;
use libc::{c_void, iovec};
use udax::program::Access;

/// Copies `count` values out of the program's memory at `address`; `None` if they cannot be read.
///
/// `T` must be a plain C structure, for which any bytes are a value. May fault, and waits until the fault is served: the caller holds
/// no lock of udax.
pub(crate) fn many<T: Copy>(address: *const T, count: usize) -> Option<Vec<T>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let size_bytes = count.checked_mul(size_of::<T>())?;
    if address.is_null() || size_bytes > isize::MAX as usize {
        return None;
    }
    let mut values: Vec<T> = Vec::new();
    values.try_reserve_exact(count).ok()?;
    let into = iovec { iov_base: values.as_mut_ptr().cast(), iov_len: size_bytes };
    let from = iovec { iov_base: address.cast_mut().cast::<c_void>(), iov_len: size_bytes };
    // SAFETY: no argument.
    let this_process = unsafe { libc::getpid() };
    let copy = || {
        // SAFETY: `into` has room for `size_bytes`, and the kernel checks `from`.
        unsafe { real::process_vm_readv(this_process, &raw const into, 1, &raw const from, 1, 0) }
    };
    let copied = ready(&[(address.addr(), size_bytes)], Access::Read, copy);
    if usize::try_from(copied) != Ok(size_bytes) {
        return None;
    }
    // SAFETY: that many have been copied in, and any bytes are a value of a plain C structure.
    unsafe { values.set_len(count) };
    Some(values)
}

/// Copies 64 bits, without memory of our own: signal handlers may come here.
pub(crate) fn word(address: *const u64) -> Option<u64> {
    let mut value = 0_u64;
    let bytes = size_of::<u64>();
    let into = iovec { iov_base: (&raw mut value).cast(), iov_len: bytes };
    let from = iovec { iov_base: address.cast_mut().cast::<c_void>(), iov_len: bytes };
    // SAFETY: no argument.
    let this_process = unsafe { libc::getpid() };
    let copied = ready(&[(address.addr(), bytes)], Access::Read, || {
        // SAFETY: `into` is a value of that many bytes, and the kernel checks `from`.
        unsafe { real::process_vm_readv(this_process, &raw const into, 1, &raw const from, 1, 0) }
    });
    (usize::try_from(copied) == Ok(bytes)).then_some(value)
}

/// Copies one value; see [`many`].
pub(crate) fn one<T: Copy>(address: *const T) -> Option<T> {
    many(address, 1)?.pop()
}
