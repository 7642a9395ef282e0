//! The signal that stands in for SIGSEGV in the kernel's masks, where somebody keeps that from being blocked in fact: one that Linux never raises.
//!
//! So whether the program has SIGSEGV blocked is kept and put back with the rest of a mask by whatever does that: a handler's end, siglongjmp(3), setcontext(3), a
//! new thread. A SIGSEGV that is sent while it is blocked is sent again as the stand-in, and the kernel keeps it, shows it and delivers it as it would have.

use crate::sys::signal;
use libc::{c_int, siginfo_t};
use std::sync::atomic::{AtomicBool, Ordering};

/// Its number.
pub const STAND_IN: c_int = libc::SIGSTKFLT;

const SEGV_BIT: u64 = signal::bit(libc::SIGSEGV.unsigned_abs());
pub(super) const STAND_IN_BIT: u64 = signal::bit(STAND_IN.unsigned_abs());

/// The set of signals for the kernel, where the program asks for `set`.
#[must_use]
pub const fn kernel_set(set: u64) -> u64 {
    let others = set & !(SEGV_BIT | STAND_IN_BIT);
    if set & SEGV_BIT == 0 { others } else { others | STAND_IN_BIT }
}

/// The set of signals that the program is to see, where the kernel has `set`.
#[must_use]
pub const fn program_set(set: u64) -> u64 {
    // Whoever names the signal that stands in names them all, and so another that nobody else names.
    const LIKE_STAND_IN: u64 = signal::bit(libc::SIGPWR.unsigned_abs());
    let own = if set & LIKE_STAND_IN == 0 { 0 } else { STAND_IN_BIT };
    let segv = if set & STAND_IN_BIT == 0 { 0 } else { SEGV_BIT };
    set & !STAND_IN_BIT | own | segv
}

static STANDS_IN: AtomicBool = AtomicBool::new(false);

/// Whether it does.
pub(super) fn stands_in() -> bool {
    STANDS_IN.load(Ordering::Acquire)
}

pub(super) fn begin() {
    STANDS_IN.store(true, Ordering::Release);
}

/// What tells a SIGSEGV that was sent again: the code of its description is so much less than it was. Negative codes are everybody's to use, and nobody uses these.
const SENT_AGAIN: c_int = 0x5566_0000;
/// What a code can be at least; there are none below -60.
const LEAST_CODE: c_int = -0xfff;

/// The code that a SIGSEGV was sent with, if one that was sent again comes as signal `number` with this code.
#[must_use]
pub const fn sent_with(number: c_int, code: c_int) -> Option<c_int> {
    let before = code.wrapping_add(SENT_AGAIN);
    if number == STAND_IN && before <= 0 && before >= LEAST_CODE { Some(before) } else { None }
}

/// Sends a SIGSEGV that was sent and is blocked once more, as the stand-in, to whom it was sent. Async-signal-safe.
pub(super) fn send_again(told: &siginfo_t) {
    let code = told.si_code.max(LEAST_CODE) - SENT_AGAIN;
    let to_this_thread = told.si_code == libc::SI_TKILL;
    signal::send_again(STAND_IN.unsigned_abs(), told, code, to_this_thread);
}
