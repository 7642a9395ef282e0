//! What the program has asked to be done at SIGSEGV, and at the signal that stands in for it, now that the kernel calls us first.

use crate::sys::signal::{self, SignalsBlocked};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// An action as sigaction(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegvAction {
    /// The address of the function; 0 and 1 are `SIG_DFL` and `SIG_IGN`.
    pub handler: usize,
    /// `SA_*`.
    pub flags: i32,
    /// The signals that are blocked while the function runs: signal N is bit N - 1.
    pub mask: u64,
    /// Where a program would have the handler return to, with `SA_RESTORER`; it returns to us.
    pub restorer: usize,
}

/// Those of `SA_*` that the kernel keeps; `SA_EXPOSE_TAGBITS` and `SA_RESTORER` have no name in libc.
const KNOWN_FLAGS: i32 = libc::SA_NOCLDSTOP
    | libc::SA_NOCLDWAIT
    | libc::SA_SIGINFO
    | libc::SA_ONSTACK
    | libc::SA_RESTART
    | libc::SA_NODEFER
    | libc::SA_RESETHAND
    | 0x800
    | 0x0400_0000;

impl SegvAction {
    pub(super) const DEFAULT: Self =
        Self { handler: libc::SIG_DFL, flags: 0, mask: 0, restorer: 0 };

    /// As the kernel would note it: without flags that there are not, and signals that nobody can block.
    pub(super) const fn noted(self) -> Self {
        let unblockable = signal::bit(libc::SIGKILL as u32) | signal::bit(libc::SIGSTOP as u32);
        Self { flags: self.flags & KNOWN_FLAGS, mask: self.mask & !unblockable, ..self }
    }
}

/// An action that is noted.
#[derive(Debug)]
pub(super) struct Noted {
    /// Even while nobody writes. A handler, which may take no lock, reads until it has seen the same number before and after.
    sequence: AtomicU32,
    handler: AtomicUsize,
    flags: AtomicU32,
    mask: AtomicU64,
    restorer: AtomicUsize,
}

/// Held by who writes, with every signal blocked: a handler on its thread would read for ever.
static WRITING: AtomicBool = AtomicBool::new(false);

/// The right to write, and to tell the kernel. Held over a fork as well: in the child there is nobody to finish what another thread was writing.
#[must_use]
pub struct Writing {
    _quiet: SignalsBlocked,
}

impl Writing {
    /// Waits, with every signal blocked, until no other thread writes.
    pub fn begin() -> Self {
        let quiet = SignalsBlocked::new();
        while WRITING.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        Self { _quiet: quiet }
    }

    /// `&mut self`: one at a time.
    pub(super) fn set(&mut self, noted: &Noted, action: SegvAction) {
        let before = noted.sequence.load(Ordering::Relaxed);
        noted.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        noted.handler.store(action.handler, Ordering::Relaxed);
        noted.flags.store(action.flags.cast_unsigned(), Ordering::Relaxed);
        noted.mask.store(action.mask, Ordering::Relaxed);
        noted.restorer.store(action.restorer, Ordering::Relaxed);
        noted.sequence.store(before.wrapping_add(2), Ordering::Release);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.store(false, Ordering::Release);
    }
}

impl Noted {
    pub(super) const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            handler: AtomicUsize::new(0),
            flags: AtomicU32::new(0),
            mask: AtomicU64::new(0),
            restorer: AtomicUsize::new(0),
        }
    }

    /// What it is now. Async-signal-safe.
    pub(super) fn current(&self) -> SegvAction {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let action = SegvAction {
                handler: self.handler.load(Ordering::Relaxed),
                flags: self.flags.load(Ordering::Relaxed).cast_signed(),
                mask: self.mask.load(Ordering::Relaxed),
                restorer: self.restorer.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return action;
            }
            std::hint::spin_loop();
        }
    }
}
