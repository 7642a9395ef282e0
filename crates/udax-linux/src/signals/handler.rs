//! The handler of SIGSEGV: what is ours is posted and waited for; what is not goes to the program's own, as the kernel would have given it.
//!
//! Async-signal-safe: it takes no lock, allocates nothing, uses no thread-local storage (which may be had at its first use), and leaves `errno` alone.

use super::action::{Noted, SegvAction, Writing};
use super::context::{self, Context};
use super::posts::Posts;
use super::stand_in::{self, STAND_IN, kernel_set, program_set, stands_in};
use crate::events::{Access, Cause, FaultEvent, Verdict};
use crate::sys::{mem, signal};
use libc::{c_int, c_void, siginfo_t};
use std::sync::atomic::{AtomicBool, Ordering};

/// `SEGV_ACCERR`: there is memory, and it may not be accessed so. Where there is none, it is none of ours.
const NO_RIGHT: c_int = 2;

/// What the program asks for.
static OF_SEGV: Noted = Noted::new();
static OF_STAND_IN: Noted = Noted::new();

fn noted(number: c_int) -> &'static Noted {
    if number == STAND_IN { &OF_STAND_IN } else { &OF_SEGV }
}

static INSTALLED: AtomicBool = AtomicBool::new(false);

const SEGV: u64 = signal::bit(libc::SIGSEGV.unsigned_abs());

/// Has the kernel call us at SIGSEGV from now on; what the program asked for before is kept. Whether that is so now. A service that has its faults by signals
/// does it too.
#[must_use]
pub fn install() -> bool {
    let mut writing = Writing::begin();
    if INSTALLED.load(Ordering::Relaxed) {
        return true;
    }
    let is_ours = note(libc::SIGSEGV, &mut writing);
    INSTALLED.store(is_ours, Ordering::Release);
    is_ours
}

/// From now on all sets of signals are passed to the kernel by [`kernel_set`], and what is asked for at [`STAND_IN`] is told by [`exchange_of`] as well. While SIGSEGV is
/// blocked by that, one that is sent is sent again as the stand-in, which [`super::sent_with`] tells; an access ends the process, as the kernel has it. Whether that is so now.
#[must_use]
pub fn blocked_by_stand_in() -> bool {
    let mut writing = Writing::begin();
    if !stands_in() && note(STAND_IN, &mut writing) {
        stand_in::begin();
    }
    stands_in()
}

/// Takes a signal, and notes what was to be done at it before. Whether the kernel agrees.
fn note(number: c_int, writing: &mut Writing) -> bool {
    let Some(before) = register(number, SegvAction::DEFAULT) else { return false };
    writing.set(noted(number), before);
    // A handler that was there is to run on the stack that it has asked for.
    before.handler <= libc::SIG_IGN || register(number, before).is_some()
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
    exchange_of(libc::SIGSEGV, new)
}

/// The same for SIGSEGV or [`STAND_IN`].
///
/// Async-signal-safe.
pub fn exchange_of(number: c_int, new: Option<SegvAction>) -> SegvAction {
    let mut writing = Writing::begin();
    let before = noted(number).current();
    if let Some(new) = new {
        writing.set(noted(number), new.noted());
        register(number, new);
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

/// Makes ours the kernel's handler, with those flags of the program's `action` that the kernel goes by before anybody is called. What was there before; `None`
/// if the kernel refuses.
fn register(number: c_int, action: SegvAction) -> Option<SegvAction> {
    // Where the program has no handler it is not to notice that there is one.
    let no_handler = libc::SA_ONSTACK | libc::SA_RESTART;
    let flags = if action.handler > libc::SIG_IGN { action.flags & no_handler } else { no_handler };
    // SAFETY: all zero is an action: no function, no flags, an empty mask.
    let (mut ours, mut before) = unsafe { std::mem::zeroed::<[libc::sigaction; 2]>() }.into();
    ours.sa_sigaction = address();
    ours.sa_flags = libc::SA_SIGINFO | flags;
    // Everything waits until we have decided, those of the C library too.
    // SAFETY: the kernel's set is the first 64 bits of the field.
    unsafe { (&raw mut ours.sa_mask).cast::<u64>().write(u64::MAX) };
    // SAFETY: both are actions, borrowed for the call; the handler is one for three arguments, and stays.
    if unsafe { libc::sigaction(number, &raw const ours, &raw mut before) } != 0 {
        return None;
    }
    // SAFETY: as above.
    let mask = unsafe { (&raw const before.sa_mask).cast::<u64>().read() };
    let restorer = before.sa_restorer.map_or(0, |restorer| restorer as usize);
    Some(SegvAction { handler: before.sa_sigaction, flags: before.sa_flags, mask, restorer })
}

extern "C-unwind" fn on_segv(number: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the description of the signal, which is the handler's to change.
    let told = unsafe { &mut *info };
    // SAFETY: 1: these are the arguments of the handler.
    let seen = unsafe { Context::of(context) };
    if let Some(code) = stand_in::sent_with(number, told.si_code) {
        told.si_signo = libc::SIGSEGV;
        told.si_code = code;
        return hand_on(told, context, &seen);
    }
    let code = told.si_code;
    // Nothing of ours can be executed, nor could be by being served.
    if number == libc::SIGSEGV && code == NO_RIGHT && !seen.executes {
        // SAFETY: this code comes with an address.
        let address = unsafe { told.si_addr() }.addr();
        if is_served(address, &seen) {
            return;
        }
    }
    if number == libc::SIGSEGV && code <= 0 && seen.is_blocked() {
        return stand_in::send_again(told);
    }
    hand_on(told, context, &seen);
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
fn hand_on(told: &mut siginfo_t, context: *mut c_void, seen: &Context) {
    let number = told.si_signo;
    let action = noted(number).current();
    // An access that failed can be neither ignored nor waited with; one that was sent can.
    let was_sent = told.si_code <= 0 || number == STAND_IN;
    match action.handler {
        _ if !was_sent && seen.is_blocked() => {
            return signal::take_default_action(number.unsigned_abs());
        }
        libc::SIG_IGN if was_sent => return,
        libc::SIG_DFL | libc::SIG_IGN => {
            signal::take_default_action(number.unsigned_abs());
            if was_sent {
                signal::send_to_this_thread(number.unsigned_abs());
            }
            // The access is made once more, and ends the process.
            return;
        }
        _ => {}
    }
    if action.flags & libc::SA_RESETHAND != 0 {
        exchange_of(number, Some(SegvAction::DEFAULT));
    }
    type Function = extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void);
    let function = std::ptr::with_exposed_provenance::<()>(action.handler);
    // SAFETY: the program has given this address as that of a handler; one for the number alone takes no notice of the other two arguments, which are passed
    // in registers.
    let function = unsafe { std::mem::transmute::<*const (), Function>(function) };
    // Ours stays to be had: the program's handler may touch what is served.
    let itself =
        if action.flags & libc::SA_NODEFER == 0 { signal::bit(number.unsigned_abs()) } else { 0 };
    let blocked = kernel_set(action.mask | itself);
    // Nobody would take the stand-in back who does not know of it.
    let blocked = if stands_in() { blocked } else { action.mask & !SEGV };
    signal::set_mask(seen.mask | blocked);
    if stands_in() {
        // It sees the mask that comes back with its end as the program's, and may change it.
        // SAFETY: 1: the handler whose argument it is has not returned.
        unsafe { context::change_mask(context, program_set) };
    }
    function(number, told, context);
    if stands_in() {
        // SAFETY: as above.
        unsafe { context::change_mask(context, kernel_set) };
    }
}
