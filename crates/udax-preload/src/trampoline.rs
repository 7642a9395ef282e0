//! Functions that cannot be wrapped: `vfork` returns twice into the same frame, `swapcontext` into one that it notes, and `dprintf` and the `execl` family have arguments
//! of which only their format or their end tells. Each is entered, lets us have our say, and goes on to libc's own as if it had been
//! called directly.

use crate::real::{DPRINTF, DPRINTF_CHK, SETCONTEXT, SWAPCONTEXT, Symbol, VFORK};
use crate::{errno::Kept, signals, spawn, state, stdio};
use libc::{c_int, c_void, pid_t, ucontext_t};
use std::arch::naked_asm;

/// libc's own function; there is no libc without it.
pub(crate) fn target(symbol: &'static Symbol) -> *mut c_void {
    state::or_abort(|| symbol.address().expect("libc has this function"))
}

extern "C" fn before_vfork() -> *mut c_void {
    let _errno = Kept::now();
    spawn::before_spawn();
    target(&VFORK)
}

extern "C" fn before_dprintf(fd: c_int) -> *mut c_void {
    let _errno = Kept::now();
    stdio::before_printing(fd);
    target(&DPRINTF)
}

extern "C" fn before_dprintf_chk(fd: c_int) -> *mut c_void {
    let _errno = Kept::now();
    stdio::before_printing(fd);
    target(&DPRINTF_CHK)
}

extern "C" fn before_setcontext(context: *mut ucontext_t) -> *mut c_void {
    signals::before_context(context);
    target(&SETCONTEXT)
}

extern "C" fn before_swapcontext(_: *mut ucontext_t, context: *mut ucontext_t) -> *mut c_void {
    signals::before_context(context);
    target(&SWAPCONTEXT)
}

/// Calls `hook`, which answers where to go on, with nothing to keep: the function has no arguments.
macro_rules! no_arguments {
    ($hook:path) => {
        #[cfg(target_arch = "x86_64")]
        naked_asm!(
            "endbr64",
            "sub rsp, 8",
            "call {hook}",
            "add rsp, 8",
            "jmp rax",
            hook = sym $hook,
        );
        #[cfg(target_arch = "aarch64")]
        naked_asm!(
            "hint #34",
            "stp x29, x30, [sp, #-16]!",
            "mov x29, sp",
            "bl {hook}",
            "mov x16, x0",
            "ldp x29, x30, [sp], #16",
            "br x16",
            hook = sym $hook,
        );
    };
}

/// The same with every register kept in which a variadic call may have arguments.
macro_rules! any_arguments {
    ($hook:path) => {
        #[cfg(target_arch = "x86_64")]
        naked_asm!(
            "endbr64",
            "push rbp",
            "mov rbp, rsp",
            "sub rsp, 192",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rcx",
            "mov [rsp + 32], r8",
            "mov [rsp + 40], r9",
            "mov [rsp + 48], rax",
            "movups [rsp + 64], xmm0",
            "movups [rsp + 80], xmm1",
            "movups [rsp + 96], xmm2",
            "movups [rsp + 112], xmm3",
            "movups [rsp + 128], xmm4",
            "movups [rsp + 144], xmm5",
            "movups [rsp + 160], xmm6",
            "movups [rsp + 176], xmm7",
            "call {hook}",
            "mov r11, rax",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "mov rcx, [rsp + 24]",
            "mov r8, [rsp + 32]",
            "mov r9, [rsp + 40]",
            "mov rax, [rsp + 48]",
            "movups xmm0, [rsp + 64]",
            "movups xmm1, [rsp + 80]",
            "movups xmm2, [rsp + 96]",
            "movups xmm3, [rsp + 112]",
            "movups xmm4, [rsp + 128]",
            "movups xmm5, [rsp + 144]",
            "movups xmm6, [rsp + 160]",
            "movups xmm7, [rsp + 176]",
            "mov rsp, rbp",
            "pop rbp",
            "jmp r11",
            hook = sym $hook,
        );
        #[cfg(target_arch = "aarch64")]
        naked_asm!(
            "hint #34",
            "stp x29, x30, [sp, #-208]!",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "stp q0, q1, [sp, #80]",
            "stp q2, q3, [sp, #112]",
            "stp q4, q5, [sp, #144]",
            "stp q6, q7, [sp, #176]",
            "bl {hook}",
            "mov x16, x0",
            "ldp x0, x1, [sp, #16]",
            "ldp x2, x3, [sp, #32]",
            "ldp x4, x5, [sp, #48]",
            "ldp x6, x7, [sp, #64]",
            "ldp q0, q1, [sp, #80]",
            "ldp q2, q3, [sp, #112]",
            "ldp q4, q5, [sp, #144]",
            "ldp q6, q7, [sp, #176]",
            "ldp x29, x30, [sp], #208",
            "br x16",
            hook = sym $hook,
        );
    };
}

pub(crate) use any_arguments;

/// vfork(2).
///
/// # Safety
/// As the C function. The child's calls find udax in the state that the parent is in, whose memory it shares.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> pid_t {
    no_arguments!(before_vfork);
}

/// vfork(2), by glibc's inner name.
///
/// # Safety
/// As `vfork`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn __vfork() -> pid_t {
    no_arguments!(before_vfork);
}

/// dprintf(3).
///
/// # Safety
/// As the C function, with all its arguments.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn dprintf() -> c_int {
    any_arguments!(before_dprintf);
}

/// dprintf(3), as compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As `dprintf`.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn __dprintf_chk() -> c_int {
    any_arguments!(before_dprintf_chk);
}

/// setcontext(3).
///
/// # Safety
/// As the C function, with its argument.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn setcontext() -> c_int {
    any_arguments!(before_setcontext);
}

/// swapcontext(3).
///
/// # Safety
/// As the C function, with its arguments.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn swapcontext() -> c_int {
    any_arguments!(before_swapcontext);
}
