//! Signals that are waited for or read, where faults come by SIGSEGV: one that was sent while the program has it blocked is kept by the kernel as the signal that
//! stands in for it, and is told as what it is. All of this is async-signal-safe, as the functions are.

use crate::errno::{self, Kept};
use crate::signals::{SEGV, bsd_mask, full_set, is_ours, let_through, peeked};
use crate::{peek, real};
use libc::{EINTR, SIGSEGV, c_int, c_void, ssize_t, timespec};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use udax_linux::segv::{STAND_IN, kernel_set, sent_with};

/// `siginfo_t` begins with the number, an `errno`, and the code.
type Info = [u64; 16];

const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());

/// The halves of a word, as they lie in memory.
const fn halves(word: u64) -> [i32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])]
}

fn word([low, high]: [i32; 2]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&low.to_ne_bytes());
    bytes[4..].copy_from_slice(&high.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// What is told of a signal, if it stands in for a SIGSEGV that was sent.
fn unmasked(first: u64, second: u64) -> Option<[u64; 2]> {
    let ([number, error], [code, rest]) = (halves(first), halves(second));
    let code = sent_with(number, code)?;
    Some([word([SIGSEGV, error]), word([code, rest])])
}

/// Waits for one of a set of signals by `wait`, which is given the set for the kernel, where to describe what came, and whether to wait at all. It answers a number, or -1.
pub(crate) fn with_set<N: PartialEq + From<i8>>(
    set: *const c_void,
    info: *mut c_void,
    wait: impl Fn(*const c_void, *mut c_void, bool) -> N,
) -> N {
    const NUMBER: i8 = 11;
    const _: () = assert!(NUMBER as c_int == SIGSEGV);
    let ours = peeked(set).filter(|&asked| kernel_set(asked) != asked);
    let Some(ours) = ours.map(|asked| full_set(kernel_set(asked))) else {
        return wait(set, info, true);
    };
    let mut told: Info = [0; 16];
    let mut wait = |waits| wait(ours.as_ptr().cast(), told.as_mut_ptr().cast(), waits);
    let mut answer = wait(true);
    if answer == N::from(-1) && errno::get() == EINTR {
        // It may be by one that is asked for, and was then sent again as the stand-in.
        let _errno = Kept::now();
        answer = wait(false);
    }
    if answer == N::from(-1) {
        return answer;
    }
    let unmasked = unmasked(told[0], told[1]);
    if let Some(first) = unmasked {
        told[..2].copy_from_slice(&first);
    }
    if !info.is_null() && !peek::put_words(info.cast(), told) {
        errno::set(libc::EFAULT);
        return N::from(-1);
    }
    if unmasked.is_some() { N::from(NUMBER) } else { answer }
}

/// A time that is over.
pub(crate) static AT_ONCE: timespec = timespec { tv_sec: 0, tv_nsec: 0 };

/// sigtimedwait(2). A cancellation point, as the others that wait.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sigtimedwait(
    set: *const c_void,
    info: *mut c_void,
    timeout: *const timespec,
) -> c_int {
    let number = with_set(set, info, |set, info, waits| {
        let timeout = if waits { timeout } else { &raw const AT_ONCE };
        // SAFETY: the program's own arguments, or a set and a description of ours.
        unsafe { real::sigtimedwait(set, info, timeout) }
    });
    // The C library tells of a signal sent to a thread as of one sent to the process.
    let second = info.cast::<u64>().wrapping_add(1);
    if number == SIGSEGV
        && !info.is_null()
        && let Some([found]) = peek::words(second)
        && let [libc::SI_TKILL, rest] = halves(found)
    {
        peek::put_words(second, [word([libc::SI_USER, rest])]);
    }
    number
}

/// sigwaitinfo(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sigwaitinfo(set: *const c_void, info: *mut c_void) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { sigtimedwait(set, info, ptr::null()) }
}

/// sigwait(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sigwait(set: *const c_void, number: *mut c_int) -> c_int {
    if peeked(set).is_none_or(|asked| kernel_set(asked) == asked) {
        // SAFETY: the program's own arguments.
        return unsafe { real::sigwait(set, number) };
    }
    let _errno = Kept::now();
    loop {
        // SAFETY: the program's own argument.
        let found = unsafe { sigtimedwait(set, ptr::null_mut(), ptr::null()) };
        if found >= 0 {
            // SAFETY: libc's own function writes there in the same way.
            unsafe { number.write(found) };
            return 0;
        }
        let error = errno::get();
        if error != EINTR {
            return error;
        }
    }
}

/// sigpause(3) of X/Open: one signal is let through.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __xpg_sigpause(number: c_int) -> c_int {
    if number == SIGSEGV && is_ours() {
        // SAFETY: a number.
        return let_through(|| unsafe { real::xpg_sigpause(STAND_IN) });
    }
    // SAFETY: the program's own argument.
    unsafe { real::xpg_sigpause(number) }
}

/// sigpause(3) of BSD: the mask for the time of the wait.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sigpause(mask: c_int) -> c_int {
    if !is_ours() {
        // SAFETY: the program's own argument.
        return unsafe { real::sigpause(mask) };
    }
    // SAFETY: a set of signals as a number.
    let wait = || unsafe { real::sigpause(bsd_mask(mask, kernel_set)) };
    if u64::from(mask.cast_unsigned()) & SEGV == 0 { let_through(wait) } else { wait() }
}

/// Either of the two, by glibc's own name.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn __sigpause(asked: c_int, is_number: c_int) -> c_int {
    let pause = if is_number == 0 { sigpause } else { __xpg_sigpause };
    // SAFETY: the program's own argument.
    unsafe { pause(asked) }
}

/// Whether SIGSEGV may be read from some descriptor.
static IS_READ: AtomicBool = AtomicBool::new(false);

/// Has `call` make a descriptor for a set of signals, or change it.
pub(crate) fn to_descriptor<N>(set: *const c_void, call: impl FnOnce(*const c_void) -> N) -> N {
    let Some(asked) = peeked(set) else { return call(set) };
    if asked & SEGV != 0 {
        IS_READ.store(true, Ordering::Relaxed);
    }
    call(full_set(kernel_set(asked)).as_ptr().cast())
}

/// signalfd(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn signalfd(fd: c_int, set: *const c_void, flags: c_int) -> c_int {
    // SAFETY: the program's own arguments, or a set of ours.
    to_descriptor(set, |set| unsafe { real::signalfd(fd, set, flags) })
}

/// After `count` bytes were read: what came from a descriptor of signals is told as what it is. Such a description begins as a `siginfo_t`, and is as long.
pub(crate) fn told_by_descriptor(fd: c_int, into: *mut c_void, count: ssize_t) {
    if !IS_READ.load(Ordering::Relaxed) {
        return;
    }
    let Ok(count) = usize::try_from(count) else { return };
    if count % size_of::<Info>() != 0 {
        return;
    }
    let _errno = Kept::now();
    for at in (0..count).step_by(size_of::<Info>()) {
        let at = into.cast::<u64>().wrapping_byte_add(at);
        let first = peek::words(at).and_then(|[first, second]| unmasked(first, second));
        if let Some(first) = first
            && has_no_kind(fd)
        {
            peek::put_words(at, first);
        }
    }
}

/// Whether a descriptor is of the kernel's own making, as those of signals are: neither file nor pipe nor socket nor anything else that has a name.
fn has_no_kind(fd: c_int) -> bool {
    // SAFETY: all zero is a status.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is borrowed for the call.
    let answer = unsafe { real::fstat(fd, (&raw mut status).cast()) };
    answer == 0 && status.st_mode & libc::S_IFMT == 0
}
