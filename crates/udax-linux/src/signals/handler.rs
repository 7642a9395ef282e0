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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// `SEGV_ACCERR`: there is memory, and it may not be accessed so. Where there is none, it is none of ours.
const NO_RIGHT: c_int = 2;

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// What is asked whether the program has blocked SIGSEGV on this thread; it never is in fact.
pub type IsBlocked = fn(Raised) -> bool;
static IS_BLOCKED: OnceLock<IsBlocked> = OnceLock::new();

/// How a SIGSEGV came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// By an access.
    ByAccess,
    /// By kill(2) and the like.
    BySending,
}

/// From now on `is_blocked` is asked before the program's own handler is called. Where it says so of a signal that was sent, that is left to it; an access
/// ends the process, as the kernel has it. Called in a signal handler. The first one stays.
pub fn ask_whether_blocked(is_blocked: IsBlocked) {
    let _ = IS_BLOCKED.set(is_blocked);
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
    if code == NO_RIGHT {
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
        Verdict::Served => true,
        Verdict::Free => !is_repeated(event, seen.instruction),
        Verdict::NotOurs => false,
    })
}

/// How often an access is tried again though nothing was in its way: then the rights are not what we know of them, or it is about something else.
const PATIENCE: u64 = 64;
const COUNT: u64 = 0xff;

/// Whether this thread has come here so often for the same. By the number of the thread: two that share a place only forget.
fn is_repeated(event: FaultEvent, instruction: usize) -> bool {
    static LAST: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
    let last = &LAST[event.thread.unsigned_abs() as usize % LAST.len()];
    let mixed = (event.address as u64).rotate_left(20) ^ (instruction as u64).rotate_left(40);
    let which = (mixed ^ u64::from(event.thread.unsigned_abs())) << 8;
    let before = last.load(Ordering::Relaxed);
    let count = if before & !COUNT == which { (before & COUNT) + 1 } else { 1 };
    last.store(which | count.min(COUNT), Ordering::Relaxed);
    count > PATIENCE
}

/// Does what the kernel would have done with the program's own action.
fn hand_on(number: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int, seen: &Context) {
    let action = action::current();
    // An access that failed can be neither ignored nor waited with; one that was sent can.
    let was_sent = code <= 0;
    let raised = if was_sent { Raised::BySending } else { Raised::ByAccess };
    let is_blocked = IS_BLOCKED.get().is_some_and(|is_blocked| is_blocked(raised));
    match action.handler {
        _ if is_blocked && was_sent => return,
        _ if is_blocked => return signal::take_default_action(libc::SIGSEGV.unsigned_abs()),
        libc::SIG_IGN if was_sent => return,
        libc::SIG_DFL | libc::SIG_IGN => {
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
    signal::set_mask(seen.mask | (action.mask & !signal::bit(libc::SIGSEGV.unsigned_abs())));
    function(number, info, context);
}
