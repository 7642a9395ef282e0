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

/// Copies words out of the program's memory, without memory of our own: signal handlers may come here. As [`many`].
pub(crate) fn words<const N: usize>(address: *const u64) -> Option<[u64; N]> {
    let mut values = [0_u64; N];
    let ours = (&raw mut values).cast();
    let is_copied = copied(ours, address.cast_mut().cast(), size_of::<[u64; N]>(), Access::Read);
    is_copied.then_some(values)
}

/// Copies words into the program's memory; whether they could be stored there. As [`words`].
pub(crate) fn put_words<const N: usize>(address: *mut u64, mut values: [u64; N]) -> bool {
    let ours = (&raw mut values).cast();
    copied(address.cast(), ours, size_of::<[u64; N]>(), Access::Write)
}

/// Copies `bytes` by the kernel, which believes neither address; the program's is `accessed`.
fn copied(to: *mut c_void, from: *mut c_void, bytes: usize, accessed: Access) -> bool {
    let [into, out] = [to, from].map(|iov_base| iovec { iov_base, iov_len: bytes });
    let program = if accessed == Access::Read { from } else { to };
    // SAFETY: no argument.
    let this_process = unsafe { libc::getpid() };
    let answer = ready(&[(program.addr(), bytes)], accessed, || {
        // SAFETY: one of the two is a value of ours of that many bytes, and the kernel checks the other.
        unsafe { real::process_vm_readv(this_process, &raw const into, 1, &raw const out, 1, 0) }
    });
    usize::try_from(answer) == Ok(bytes)
}

/// Copies one value; see [`many`].
pub(crate) fn one<T: Copy>(address: *const T) -> Option<T> {
    many(address, 1)?.pop()
}
