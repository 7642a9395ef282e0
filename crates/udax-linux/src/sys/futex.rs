//! Sleeping on a word, and waking who does. Both may be called by a signal handler.

use super::bits;
use super::raw::syscall;
use core::sync::atomic::AtomicU32;
use linux_raw_sys::general as k;

/// Sleeps until [`wake`] is called for `word`, unless it is not `expected` any more. May return early.
pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    let operation = bits(k::FUTEX_WAIT | k::FUTEX_PRIVATE_FLAG);
    let arguments = [word.as_ptr() as usize, operation, bits(expected), 0, 0, 0];
    // SAFETY: the word is borrowed for the call, which changes nothing; without a time to wait for.
    let _ = unsafe { syscall(k::__NR_futex, arguments) };
}

/// Wakes one who sleeps on the word at `address`, which may be gone by now: then at worst somebody else wakes up early.
pub(crate) fn wake(address: usize) {
    let operation = bits(k::FUTEX_WAKE | k::FUTEX_PRIVATE_FLAG);
    // SAFETY: the kernel takes the address for a name, and neither reads nor writes there.
    let _ = unsafe { syscall(k::__NR_futex, [address, operation, 1, 0, 0, 0]) };
}
