//! Sleeping on a word of memory that other threads of the process change, and waking who does. Async-signal-safe.

use super::bits;
use super::raw::syscall;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use linux_raw_sys::general as k;

/// Sleeps while `word` holds `value`, `at_most` so long. It may return at any time: whoever calls looks again.
pub(crate) fn wait(word: &AtomicU32, value: u32, at_most: Option<Duration>) {
    let time = at_most.map(|time| k::__kernel_timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    });
    let time_at: *const k::__kernel_timespec =
        time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let operation = bits(k::FUTEX_WAIT | k::FUTEX_PRIVATE_FLAG);
    let arguments = [word.as_ptr().addr(), operation, value as usize, time_at.addr(), 0, 0];
    // SAFETY: the word is only looked at, and the time is null or borrowed for the call.
    let _ = unsafe { syscall(k::__NR_futex, arguments) };
}

/// Wakes one who sleeps on `word`.
pub(crate) fn wake_one(word: &AtomicU32) {
    wake_one_at(word.as_ptr().addr());
}

/// Wakes one who sleeps on the word at `address`, which may be gone by now: then at worst somebody else wakes up early.
pub(crate) fn wake_one_at(address: usize) {
    let operation = bits(k::FUTEX_WAKE | k::FUTEX_PRIVATE_FLAG);
    // SAFETY: the kernel takes the address for a name, and neither reads nor writes there.
    let _ = unsafe { syscall(k::__NR_futex, [address, operation, 1, 0, 0, 0]) };
}
