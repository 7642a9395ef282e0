//! SIGSEGV, where faults come by it: the program neither blocks it in fact nor takes it from us, and finds everything as it has asked for.
//!
//! A signal that an access raises while it is blocked ends the process: the kernel asks no handler then. So another signal stands in for it in every mask that the
//! program sets ([`segv::kernel_set`]), and is looked up in those that it looks at. All of this is async-signal-safe, as the functions are.

use crate::actions::named;
use crate::{peek, real};
use libc::{
    EINTR, SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_ERR, SIGSEGV, c_int, c_void, sighandler_t,
    timespec,
};
use std::sync::atomic::{AtomicI32, Ordering};
use udax_linux::segv::{self, STAND_IN, handles_segv, kernel_set, program_set};

/// SIGSEGV in a set of signals.
pub(crate) const SEGV: u64 = bit(SIGSEGV);

/// A signal in a set of them.
const fn bit(number: c_int) -> u64 {
    1 << (number - 1)
}

/// Whether SIGSEGV calls our handler.
pub(crate) fn is_ours() -> bool {
    handles_segv()
}

/// The process whose actions are noted.
static PROCESS: AtomicI32 = AtomicI32::new(0);

fn note_process() {
    // SAFETY: no argument.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
}

/// Whether what is to be done at signal `number` is noted, and done by our handler, in this process.
pub(crate) fn is_kept(number: c_int) -> bool {
    is_ours() && (number == SIGSEGV || number == STAND_IN)
}

/// Whether that is so here. A child of vfork has actions of its own, and shares what is noted: those are the
/// kernel's affair.
pub(crate) fn is_noted(number: c_int) -> bool {
    // SAFETY: no argument.
    is_kept(number) && unsafe { libc::getpid() } == PROCESS.load(Ordering::Relaxed)
}

/// This is a child with memory of its own.
pub(crate) fn in_child() {
    if is_ours() {
        note_process();
    }
}

/// From now on SIGSEGV calls our handler, and is kept from being blocked. When the library is loaded: no mask that the program sets can be changed later on
/// other threads, and one that is not blocked in fact has to be held back by our handler.
pub(crate) fn keep_ours() {
    if !segv::install() {
        return;
    }
    note_process();
    let before = change_mask(libc::SIG_BLOCK, 0);
    if before & SEGV != 0 {
        change_mask(libc::SIG_BLOCK, kernel_set(SEGV));
        change_mask(libc::SIG_UNBLOCK, SEGV);
    }
    // Otherwise, which no kernel does, what is sent while it is blocked is delivered.
    let _ = segv::blocked_by_stand_in();
}

/// In a child that has begun without handlers: what is noted begins anew with it.
pub(crate) fn without_handlers() {
    for number in [SIGSEGV, STAND_IN] {
        if is_noted(number) && segv::exchange_of(number, None).handler > libc::SIG_IGN {
            segv::exchange_of(number, Some(named(libc::SIG_DFL, 0, 0)));
        }
    }
}

/// Changes this thread's mask in the kernel; what it was.
fn change_mask(how: c_int, set: u64) -> u64 {
    let (set, mut before) = (full_set(set), full_set(0));
    // SAFETY: both are sets as the C library knows them, borrowed for the call.
    unsafe { real::sigprocmask(how, set.as_ptr().cast(), before.as_mut_ptr().cast()) };
    before[0]
}

/// The program has it blocked from now on, or not. The answer is what it was.
fn block(blocked: bool) -> bool {
    let how = if blocked { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    program_set(change_mask(how, kernel_set(SEGV))) & SEGV != 0
}

/// Runs `call`, which answers -1 where it fails, with a mask for the time of a wait, in which SIGSEGV is not blocked in fact.
pub(crate) fn with_mask<N: PartialEq + From<i8>>(
    mask: *const c_void,
    call: impl Fn(*const c_void) -> N,
) -> N {
    let Some(set) = peeked(mask) else { return call(mask) };
    let ours = full_set(kernel_set(set));
    let wait = || call((&raw const ours).cast());
    if set & SEGV == 0 { let_through(wait) } else { wait() }
}

/// Waits by `wait`, which answers -1 where it fails, with a mask that lets SIGSEGV through.
pub(crate) fn let_through<N: PartialEq + From<i8>>(wait: impl Fn() -> N) -> N {
    let answer = wait();
    // One that came during the wait found the mask that comes after it. It is to be delivered in the wait, which ends by that.
    if answer == N::from(-1) && crate::errno::get() == EINTR && is_held_back() {
        return wait();
    }
    answer
}

/// Whether one was sent that the kernel keeps as the stand-in.
fn is_held_back() -> bool {
    let mut pending = full_set(0);
    // SAFETY: a set as the C library knows it, borrowed for the call.
    let answer = unsafe { real::sigpending(pending.as_mut_ptr().cast()) };
    answer == 0 && pending[0] & kernel_set(SEGV) != 0
}

/// The first 64 signals, which are all there are, of a set of the program's; `None` if there is none, or it is none of our business.
pub(crate) fn peeked(set: *const c_void) -> Option<u64> {
    if set.is_null() || !is_ours() {
        return None;
    }
    peek::words(set.cast()).map(|[first]| first)
}

/// A set as libc knows them.
pub(crate) fn full_set(first: u64) -> [u64; 16] {
    let mut set = [0; 16];
    set[0] = first;
    set
}

/// Changes the first 64 signals of a set of the program's.
///
/// # Safety
/// They may be loaded and stored.
unsafe fn change(set: *mut c_void, change: impl FnOnce(u64) -> u64) {
    let set = set.cast::<u64>();
    // SAFETY: passed on to the caller.
    let found = unsafe { set.read_unaligned() };
    // SAFETY: as above.
    unsafe { set.write_unaligned(change(found)) };
}

/// Sets this thread's mask by `set_mask`, which answers 0 where it has.
pub(crate) fn mask(
    new: *const c_void,
    old: *mut c_void,
    set_mask: impl FnOnce(*const c_void, *mut c_void) -> c_int,
) -> c_int {
    if !is_ours() {
        return set_mask(new, old);
    }
    let asked = peeked(new);
    let ours = asked.map(|set| full_set(kernel_set(set)));
    let answer = set_mask(ours.as_ref().map_or(new, |set| set.as_ptr().cast()), old);
    if answer == 0 && !old.is_null() {
        // SAFETY: the kernel has just written the program's set there.
        unsafe { change(old, program_set) };
    }
    answer
}

/// sigprocmask(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigprocmask(
    how: c_int,
    new: *const c_void,
    old: *mut c_void,
) -> c_int {
    // SAFETY: the program's own arguments.
    mask(new, old, |new, old| unsafe { real::sigprocmask(how, new, old) })
}

/// pthread_sigmask(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    new: *const c_void,
    old: *mut c_void,
) -> c_int {
    // SAFETY: the program's own arguments.
    mask(new, old, |new, old| unsafe { real::pthread_sigmask(how, new, old) })
}

/// sigpending(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigpending(set: *mut c_void) -> c_int {
    // SAFETY: the program's own argument.
    pending(set, || unsafe { real::sigpending(set) })
}

/// Has `call` write the signals that are pending to `set`, and answer 0; that one stands in for another is not shown.
pub(crate) fn pending(set: *mut c_void, call: impl FnOnce() -> c_int) -> c_int {
    let answer = call();
    if answer == 0 && is_ours() {
        // SAFETY: the kernel has just written the set there.
        unsafe { change(set, program_set) };
    }
    answer
}

/// sigsuspend(2). A cancellation point, as pselect(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn sigsuspend(mask: *const c_void) -> c_int {
    // SAFETY: the program's own argument, or a set of ours.
    with_mask(mask, |mask| unsafe { real::sigsuspend(mask) })
}

/// pselect(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pselect(
    count: c_int,
    to_read: *mut c_void,
    to_write: *mut c_void,
    exceptional: *mut c_void,
    timeout: *const timespec,
    mask: *const c_void,
) -> c_int {
    // SAFETY: the program's own arguments, or a set of ours.
    with_mask(mask, |mask| unsafe {
        real::pselect(count, to_read, to_write, exceptional, timeout, mask)
    })
}

/// What the older functions do with `handler`: the same as sigaction(2) with `flags` and `mask`. `None` if it is not about what is ours.
fn older(number: c_int, handler: sighandler_t, flags: c_int, mask: u64) -> Option<sighandler_t> {
    if !is_noted(number) {
        return None;
    }
    if handler == SIG_ERR {
        crate::errno::set(libc::EINVAL);
        return Some(SIG_ERR);
    }
    Some(segv::exchange_of(number, Some(named(handler, flags, mask))).handler)
}

/// signal(2), as programs of today have it.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own arguments.
    older(number, handler, SA_RESTART, bit(number))
        .unwrap_or_else(|| unsafe { real::signal(number, handler) })
}

/// signal(2), by the name that old programs were linked with.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own arguments.
    unsafe { signal(number, handler) }
}

/// signal(2), by another name.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own arguments.
    unsafe { signal(number, handler) }
}

/// signal(2) of System V: for one time only.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __sysv_signal(
    number: c_int,
    handler: sighandler_t,
) -> sighandler_t {
    older(number, handler, SA_RESETHAND | SA_NODEFER, 0)
        // SAFETY: the program's own arguments.
        .unwrap_or_else(|| unsafe { real::sysv_signal(number, handler) })
}

/// signal(2) of System V, by its other name.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own arguments.
    unsafe { __sysv_signal(number, handler) }
}

/// What [`sigset`] takes for "block it".
const SIG_HOLD: sighandler_t = 2;

/// sigset(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigset(number: c_int, handler: sighandler_t) -> sighandler_t {
    if !is_noted(number) {
        // SAFETY: the program's own arguments.
        return unsafe { real::sigset(number, handler) };
    }
    let was_held = number == SIGSEGV && block(handler == SIG_HOLD);
    let new = (handler != SIG_HOLD).then(|| named(handler, 0, 0));
    let before = segv::exchange_of(number, new).handler;
    if was_held { SIG_HOLD } else { before }
}

/// sigignore(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigignore(number: c_int) -> c_int {
    match older(number, libc::SIG_IGN, 0, 0) {
        Some(_) => 0,
        // SAFETY: the program's own argument.
        None => unsafe { real::sigignore(number) },
    }
}

/// sighold(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sighold(number: c_int) -> c_int {
    if number == SIGSEGV && is_ours() {
        block(true);
        return 0;
    }
    // SAFETY: the program's own argument.
    unsafe { real::sighold(number) }
}

/// sigrelse(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigrelse(number: c_int) -> c_int {
    if number == SIGSEGV && is_ours() {
        block(false);
        return 0;
    }
    // SAFETY: the program's own argument.
    unsafe { real::sigrelse(number) }
}

/// A mask of BSD's, which are the first 32 signals.
pub(crate) fn bsd_mask(mask: c_int, translate: fn(u64) -> u64) -> c_int {
    let set = translate(u64::from(mask.cast_unsigned()));
    u32::try_from(set).unwrap_or_default().cast_signed()
}

/// Calls `call` with a mask of BSD's, and answers the one before.
fn bsd(asked: c_int, call: impl FnOnce(c_int) -> c_int) -> c_int {
    if !is_ours() {
        return call(asked);
    }
    bsd_mask(call(bsd_mask(asked, kernel_set)), program_set)
}

/// sigblock(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigblock(mask: c_int) -> c_int {
    // SAFETY: a set of signals as a number.
    bsd(mask, |mask| unsafe { real::sigblock(mask) })
}

/// sigsetmask(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigsetmask(mask: c_int) -> c_int {
    // SAFETY: a set of signals as a number.
    bsd(mask, |mask| unsafe { real::sigsetmask(mask) })
}

/// `pthread_attr_setsigmask_np(3)`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pthread_attr_setsigmask_np(
    attributes: *mut c_void,
    mask: *const c_void,
) -> c_int {
    // SAFETY: the program's own arguments, or a set of ours.
    with_mask(mask, |mask| unsafe { real::pthread_attr_setsigmask_np(attributes, mask) })
}

/// `pthread_attr_getsigmask_np(3)`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pthread_attr_getsigmask_np(
    attributes: *const c_void,
    mask: *mut c_void,
) -> c_int {
    // SAFETY: the program's own arguments.
    let answer = unsafe { real::pthread_attr_getsigmask_np(attributes, mask) };
    if is_ours() && answer == 0 {
        // SAFETY: libc has just written the set there.
        unsafe { change(mask, program_set) };
    }
    answer
}

/// Before libc takes the mask of a context of the program's.
pub(crate) fn before_context(context: *mut libc::ucontext_t) {
    if !is_ours() {
        return;
    }
    // SAFETY: the program's own argument, which libc will read.
    let mask = unsafe { &raw mut (*context).uc_sigmask };
    // SAFETY: as above. Which contexts libc has filled in has no SIGSEGV in it.
    unsafe { change(mask.cast(), |set| if set & SEGV == 0 { set } else { kernel_set(set) }) };
}
