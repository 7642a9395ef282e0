//! The handler of SIGSEGV: what is ours is posted and waited for; what is not goes to the program's own, as the kernel would have given it.
//!
//! Async-signal-safe: it takes no lock, allocates nothing, uses no thread-local storage (which may be had at its first use), and leaves `errno` alone.

use super::action::{self, SegvAction, Writing};
use super::context::Context;
use super::posts::Posts;
use crate::events::{Access, Cause, FaultEvent, Verdict};
use crate::sys::{mem, signal};
use libc::{c_int, c_void, siginfo_t};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// `SEGV_ACCERR`: there is memory, and it may not be accessed so. Where there is none, it is none of ours.
const NO_RIGHT: c_int = 2;

static INSTALLED: AtomicBool = AtomicBool::new(false);

const SEGV: u64 = signal::bit(libc::SIGSEGV.unsigned_abs());

/// In the kernel's masks it stands for SIGSEGV, where somebody keeps that from being blocked in fact: a signal that Linux never raises. So whether the program has
/// SIGSEGV blocked is kept and put back with the rest of a mask by whatever does that: a handler's end, siglongjmp(3), setcontext(3), a new thread.
const STAND_IN: u64 = signal::bit(libc::SIGSTKFLT.unsigned_abs());

/// The set of signals for the kernel, where the program asks for `set`.
#[must_use]
pub const fn kernel_set(set: u64) -> u64 {
    let others = set & !(SEGV | STAND_IN);
    if set & SEGV == 0 { others } else { others | STAND_IN }
}

/// The set of signals that the program is to see, where the kernel has `set`.
#[must_use]
pub const fn program_set(set: u64) -> u64 {
    // Whoever names the signal that stands in names them all, and so another that nobody else names.
    const LIKE_STAND_IN: u64 = signal::bit(libc::SIGPWR.unsigned_abs());
    let own = if set & LIKE_STAND_IN == 0 { 0 } else { STAND_IN };
    let segv = if set & STAND_IN == 0 { 0 } else { SEGV };
    set & !STAND_IN | own | segv
}

/// What is called when a SIGSEGV was sent while the program has it blocked.
pub type HeldBack = fn();
static HELD_BACK: OnceLock<HeldBack> = OnceLock::new();

/// From now on all sets of signals are passed to the kernel by [`kernel_set`]. While SIGSEGV is blocked by that, `held_back` is called for one that was sent, in a
/// signal handler, and that is left to it; an access ends the process, as the kernel has it. The first one stays.
pub fn blocked_by_stand_in(held_back: HeldBack) {
    let _ = HELD_BACK.set(held_back);
}

/// Has the kernel call us at SIGSEGV from now on; what the program asked for before is kept. Whether that is so now. A service that has its faults by signals
/// does it too.
#[must_use]
pub fn install() -> bool {
    let mut writing = Writing::begin();
    if INSTALLED.load(Ordering::Relaxed) {
        return true;
    }
    let Some(before) = register(0) else { return false };
    writing.set(before);
    // A handler that was there is to run on the stack that it has asked for.
    if before.handler > libc::SIG_IGN && register(before.flags).is_none() {
        return false;
    }
    INSTALLED.store(true, Ordering::Release);
    true
}

/// Whether SIGSEGV is ours, and so the program's wishes about it are to be told by [`exchange`].
#[must_use]
pub fn handles_segv() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Notes what the program asks to be done at SIGSEGV from now on, if anything, as sigaction(2); the answer is what it was. Only where [`handles_segv`].
///
/// Async-signal-safe.
pub fn exchange(new: Option<SegvAction>) -> SegvAction {
    let mut writing = Writing::begin();
    let before = action::current();
    if let Some(new) = new {
        writing.set(new.noted());
        let has_handler = new.handler > libc::SIG_IGN;
        register(if has_handler { new.flags } else { libc::SA_ONSTACK });
    }
    before
}

/// Whether a handler's address is ours.
#[must_use]
pub fn is_our_handler(handler: usize) -> bool {
    handler == address()
}

fn address() -> usize {
    let handler: extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void) = on_segv;
    handler as usize
}

/// Makes ours the kernel's handler, with those of the program's `flags` that the kernel goes by before anybody is called. What was there before; `None`
/// if the kernel refuses.
fn register(flags: c_int) -> Option<SegvAction> {
    // SAFETY: all zero is an action: no function, no flags, an empty mask.
    let (mut ours, mut before) = unsafe { std::mem::zeroed::<[libc::sigaction; 2]>() }.into();
    ours.sa_sigaction = address();
    ours.sa_flags = libc::SA_SIGINFO | (flags & (libc::SA_ONSTACK | libc::SA_RESTART));
    // Everything waits until we have decided, those of the C library too.
    // SAFETY: the kernel's set is the first 64 bits of the field.
    unsafe { (&raw mut ours.sa_mask).cast::<u64>().write(u64::MAX) };
    // SAFETY: both are actions, borrowed for the call; the handler is one for three arguments, and stays.
    if unsafe { libc::sigaction(libc::SIGSEGV, &raw const ours, &raw mut before) } != 0 {
        return None;
    }
    // SAFETY: as above.
    let mask = unsafe { (&raw const before.sa_mask).cast::<u64>().read() };
    let restorer = before.sa_restorer.map_or(0, |restorer| restorer as usize);
    Some(SegvAction { handler: before.sa_sigaction, flags: before.sa_flags, mask, restorer })
}

extern "C-unwind" fn on_segv(number: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the description of the signal.
    let told = unsafe { &*info };
    let code = told.si_code;
    // SAFETY: 1: these are the arguments of the handler.
    let seen = unsafe { Context::of(context) };
    // Nothing of ours can be executed, nor could be by being served.
    if code == NO_RIGHT && !seen.executes {
        // SAFETY: this code comes with an address.
        let address = unsafe { told.si_addr() }.addr();
        if is_served(address, &seen) {
            return;
        }
    }
    hand_on(number, info, context, code, &seen);
}

/// Has the access served, if it is one of ours: then it is to be tried again.
fn is_served(address: usize, seen: &Context) -> bool {
    let event = FaultEvent {
        address: address & !(mem::PAGE - 1),
        access: if seen.stores { Access::Write } else { Access::Read },
        cause: Cause::Missing,
        thread: signal::thread_id(),
    };
    Posts::over(address).any(|posts| match posts.ask(event) {
        // What has become free meanwhile is tried again as well. That it is in fact, `udax-fault` has seen.
        Verdict::Served | Verdict::Free => true,
        Verdict::NotOurs => false,
    })
}

/// Does what the kernel would have done with the program's own action.
fn hand_on(number: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int, seen: &Context) {
    let action = action::current();
    // An access that failed can be neither ignored nor waited with; one that was sent can.
    let was_sent = code <= 0;
    let stand_in = HELD_BACK.get();
    match (stand_in, action.handler) {
        (Some(held_back), _) if seen.mask & STAND_IN != 0 && was_sent => return held_back(),
        (Some(_), _) if seen.mask & STAND_IN != 0 => {
            return signal::take_default_action(libc::SIGSEGV.unsigned_abs());
        }
        (_, libc::SIG_IGN) if was_sent => return,
        (_, libc::SIG_DFL | libc::SIG_IGN) => {
            signal::take_default_action(libc::SIGSEGV.unsigned_abs());
            if was_sent {
                signal::send_to_this_thread(libc::SIGSEGV.unsigned_abs());
            }
            // The access is made once more, and ends the process.
            return;
        }
        _ => {}
    }
    if action.flags & libc::SA_RESETHAND != 0 {
        exchange(Some(SegvAction::DEFAULT));
    }
    type Function = extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void);
    let function = std::ptr::with_exposed_provenance::<()>(action.handler);
    // SAFETY: the program has given this address as that of a handler; one for the number alone takes no notice of the other two arguments, which are passed
    // in registers.
    let function = unsafe { std::mem::transmute::<*const (), Function>(function) };
    // Ours stays to be had: the program's handler may touch what is served.
    let itself = if action.flags & libc::SA_NODEFER == 0 { SEGV } else { 0 };
    let blocked = kernel_set(action.mask | itself);
    // Nobody would take the stand-in back who does not know of it.
    let blocked = if stand_in.is_some() { blocked } else { action.mask & !SEGV };
    signal::set_mask(seen.mask | blocked);
    function(number, info, context);
}
