//! What is to be done at a signal, where faults come by SIGSEGV: for that signal, and the one that stands in for it, it is noted and done by our
//! handler; in the masks of the others that one is put for SIGSEGV. All of this is async-signal-safe, as the functions are.

use crate::signals::{is_kept, is_noted, is_ours};
use crate::{peek, real};
use libc::{SIGSEGV, c_int, c_void};
use udax_linux::segv::{self, SegvAction, is_our_handler, kernel_set, program_set};

/// What an action's set of signals begins with.
fn mask_of(action: &libc::sigaction) -> u64 {
    // SAFETY: the set of the first 64 signals is the beginning of the field.
    unsafe { (&raw const action.sa_mask).cast::<u64>().read() }
}

fn set_mask_of(action: &mut libc::sigaction, mask: u64) {
    // SAFETY: as in `mask_of`.
    unsafe { (&raw mut action.sa_mask).cast::<u64>().write(mask) };
}

/// `SA_RESTORER`, which libc gives where the kernel needs it.
const SA_RESTORER: c_int = 0x0400_0000;

/// What a function of libc's notes: where handlers return to is libc's affair.
pub(crate) fn named(handler: usize, flags: c_int, mask: u64) -> SegvAction {
    // SAFETY: all zero is an action.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is borrowed for the call. Ours was installed by libc's function as well.
    unsafe { real::sigaction(SIGSEGV, std::ptr::null(), &raw mut ours) };
    let restorer = ours.sa_restorer.map_or(0, |restorer| restorer as usize);
    SegvAction { handler, flags: flags | (ours.sa_flags & SA_RESTORER), mask, restorer }
}

fn action_of(wish: SegvAction) -> libc::sigaction {
    // SAFETY: all zero is an action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = wish.handler;
    action.sa_flags = wish.flags;
    // SAFETY: 0 is no function, and another address is one that the program has given, or libc; nobody here calls it.
    action.sa_restorer =
        unsafe { std::mem::transmute::<usize, Option<extern "C" fn()>>(wish.restorer) };
    set_mask_of(&mut action, wish.mask);
    action
}

/// sigaction(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sigaction(
    number: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: libc's own function looks at it in the same way.
    let asked = unsafe { new.as_ref() };
    let is_ourselves = asked.is_some_and(|action| is_our_handler(action.sa_sigaction));
    let is_a_childs = is_kept(number) && !is_noted(number);
    if !is_ours() || is_ourselves || is_a_childs {
        // SAFETY: the program's own arguments.
        return unsafe { real::sigaction(number, new, old) };
    }
    if is_kept(number) {
        let wish =
            |action: &libc::sigaction| named(action.sa_sigaction, action.sa_flags, mask_of(action));
        let before = segv::exchange_of(number, asked.map(wish));
        if !old.is_null() {
            // SAFETY: libc's own function writes there in the same way.
            unsafe { old.write(action_of(before)) };
        }
        return 0;
    }
    let ours = asked.map(|action| {
        let mut ours = *action;
        set_mask_of(&mut ours, kernel_set(mask_of(action)));
        ours
    });
    let new = ours.as_ref().map_or(new, core::ptr::from_ref);
    // SAFETY: the program's own arguments, or a copy of one.
    let answer = unsafe { real::sigaction(number, new, old) };
    if answer == 0 {
        // SAFETY: libc has just written there.
        let old = unsafe { old.as_mut() };
        if let Some(old) = old {
            set_mask_of(old, program_set(mask_of(old)));
        }
    }
    answer
}

/// Where the kernel's own structure has its mask, in words: behind the handler, the flags and what it returns to.
const MASK: usize = 3;

/// The same by the system call, with the kernel's structure and sets of 64 bits. `set` makes the call with another address for `new`, and answers 0 or -1.
pub(crate) fn by_number(
    number: c_int,
    new: *mut c_void,
    old: *mut c_void,
    set: impl FnOnce(*const c_void) -> c_int,
) -> c_int {
    let asked = if new.is_null() { None } else { peek::words::<4>(new.cast()) };
    let is_refused = asked.is_none() && !new.is_null();
    let is_a_childs = is_kept(number) && !is_noted(number);
    if !is_ours() || is_refused || is_a_childs {
        return set(new);
    }
    if is_kept(number) {
        let before = segv::exchange_of(number, asked.map(of_words));
        if !old.is_null() && !peek::put_words(old.cast(), words_of(before)) {
            crate::errno::set(libc::EFAULT);
            return -1;
        }
        return 0;
    }
    let ours =
        asked.map(|[handler, flags, restorer, mask]| [handler, flags, restorer, kernel_set(mask)]);
    let answer = set(ours.as_ref().map_or(new.cast_const(), |words| words.as_ptr().cast()));
    if answer == 0 && !old.is_null() {
        let mask = old.cast::<u64>().wrapping_add(MASK);
        // The kernel has just written there.
        if let Some([found]) = peek::words(mask) {
            peek::put_words(mask, [program_set(found)]);
        }
    }
    answer
}

#[expect(clippy::cast_possible_truncation, reason = "the kernel has no flag above the lower half")]
const fn of_words([handler, flags, restorer, mask]: [u64; 4]) -> SegvAction {
    let [handler, restorer] = [handler as usize, restorer as usize];
    SegvAction { handler, flags: (flags as u32).cast_signed(), mask, restorer }
}

const fn words_of(action: SegvAction) -> [u64; 4] {
    let flags = action.flags.cast_unsigned() as u64;
    [action.handler as u64, flags, action.restorer as u64, action.mask]
}
