//! What the kernel tells a signal handler of the access that failed.

use super::stand_in::{STAND_IN_BIT, stands_in};
use std::ffi::c_void;

/// Where the thread was, and what it wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) stores: bool,
    /// It was not data that was looked for but the instruction.
    pub(super) executes: bool,
    /// The signals that were blocked.
    pub(super) mask: u64,
}

impl Context {
    /// Reads it.
    ///
    /// # Safety
    /// 1. `context` is the third argument of a handler of SIGSEGV with `SA_SIGINFO`, which has not returned.
    pub(super) unsafe fn of(context: *const c_void) -> Self {
        // SAFETY: 1: it is what the kernel has put on the stack.
        let context = unsafe { &*context.cast::<libc::ucontext_t>() };
        // SAFETY: as `mask_of` says, of what is borrowed here.
        let mask = unsafe { mask_of(&raw const *context).read() };
        let (stores, executes) = machine(context);
        Self { stores, executes, mask }
    }

    /// Whether SIGSEGV counts as blocked in it.
    pub(super) fn is_blocked(&self) -> bool {
        stands_in() && self.mask & STAND_IN_BIT != 0
    }
}

/// Where the kernel's set of signals is, which it writes at the start of the field, and which is 64 bits long.
fn mask_of(context: *const libc::ucontext_t) -> *const u64 {
    // SAFETY: no place is read or written.
    unsafe { (&raw const (*context).uc_sigmask).cast() }
}

/// Changes the signals that will be blocked when the handler returns.
///
/// # Safety
/// 1. As [`Context::of`].
pub(super) unsafe fn change_mask(context: *mut c_void, change: fn(u64) -> u64) {
    let mask = mask_of(context.cast()).cast_mut();
    // SAFETY: 1: it is what the kernel has put on the stack.
    let before = unsafe { mask.read() };
    // SAFETY: as above; it is the handler's to change.
    unsafe { mask.write(change(before)) };
}

#[cfg(target_arch = "x86_64")]
fn machine(context: &libc::ucontext_t) -> (bool, bool) {
    /// The bits of a page fault's error code that tell a store and the fetch of an instruction.
    const STORE: i64 = 1 << 1;
    const FETCH: i64 = 1 << 4;
    let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
    (error & STORE != 0, error & FETCH != 0)
}

#[cfg(target_arch = "aarch64")]
fn machine(context: &libc::ucontext_t) -> (bool, bool) {
    /// Of `struct esr_context`, and of the bit of the register that tells a store.
    const SYNDROME: u32 = 0x4553_5201;
    const STORE: u64 = 1 << 6;
    /// The class of the register that tells the fetch of an instruction, from bit 26 on.
    const FETCH: u64 = 0x20;
    /// Where the records begin: behind the address, 31 registers, three more, and what aligns them to 16.
    const RECORDS: usize = 288;
    const RECORD_BYTES: usize = 4096;
    let base = (&raw const context.uc_mcontext).cast::<u8>();
    let mut at = RECORDS;
    while at + 16 <= RECORDS + RECORD_BYTES {
        // SAFETY: the kernel reserves that many bytes for records, each with its kind and its length first; they are aligned to 16.
        let [kind, length] = unsafe { base.add(at).cast::<[u32; 2]>().read() };
        if kind == SYNDROME {
            // SAFETY: as above; this record is one number more.
            let syndrome = unsafe { base.add(at + 8).cast::<u64>().read() };
            let executes = syndrome >> 26 & 0x3f == FETCH;
            return (syndrome & STORE != 0 && !executes, executes);
        }
        if kind == 0 || length < 16 {
            break;
        }
        at += length as usize;
    }
    (false, false)
}
