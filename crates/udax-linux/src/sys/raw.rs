//! The one place that enters the kernel.

use super::errno::Errno;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_raw_sys::general as k;

/// Kernel answers above this are negated error numbers.
const LARGEST_ANSWER: usize = usize::MAX - 4095;

/// Calls made so far that [`counts`].
static MADE: AtomicU64 = AtomicU64::new(0);

/// How many calls this process has made here that change memory, or ask about it or about a file: what serving costs. Those that only wait, and those by which threads
/// find each other, depend on how fast the others are, and are left out.
pub(crate) fn calls_made() -> u64 {
    MADE.load(Ordering::Relaxed)
}

const fn counts(number: u32) -> bool {
    matches!(
        number,
        k::__NR_mmap
            | k::__NR_munmap
            | k::__NR_mprotect
            | k::__NR_mremap
            | k::__NR_madvise
            | k::__NR_munlock
            | k::__NR_msync
            | k::__NR_ioctl
            | k::__NR_statx
            | k::__NR_lseek
            | k::__NR_fallocate
            | k::__NR_pread64
            | k::__NR_pwrite64
    )
}

/// Makes system call `number`.
///
/// # Safety
/// 1. Every argument that the call takes as a pointer is valid for what the call does with it.
/// 2. Whatever the call does to the address space or to descriptors is the caller's to do.
#[inline]
pub(super) unsafe fn syscall(number: u32, arguments: [usize; 6]) -> Result<usize, Errno> {
    if counts(number) {
        MADE.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: 1, 2: passed on to our caller.
    let answer = unsafe { enter(number, arguments) };
    if answer > LARGEST_ANSWER {
        Err(Errno(super::to_int(answer.wrapping_neg())))
    } else {
        Ok(answer)
    }
}

// What one address stores must be what another loads: data caches must not alias (pitfall 87). Those of these two do not.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("udax runs on x86-64 and AArch64");

#[cfg(target_arch = "x86_64")]
unsafe fn enter(number: u32, arguments: [usize; 6]) -> usize {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let answer: usize;
    // SAFETY: the registers are those of the kernel's calling convention, and rcx and r11 are declared as lost; what
    // the call itself does is vouched for by the caller.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => answer,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

#[cfg(target_arch = "aarch64")]
unsafe fn enter(number: u32, arguments: [usize; 6]) -> usize {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let answer: usize;
    // SAFETY: the registers are those of the kernel's calling convention; what the call itself does is vouched for by
    // the caller.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") first => answer,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            in("x4") fifth,
            in("x5") sixth,
            options(nostack),
        );
    }
    answer
}
