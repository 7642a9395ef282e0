//! Whether udax has a say in this call: the library's one piece of state.
//!
//! `STARTING` (libc is not ready yet) and `OFF` (the child of a fork that the C library knows nothing of) pass everything to the kernel as it is. So does a call made by
//! udax itself: by one of its threads, or by a thread of the program while it is in our code.

use crate::errno::Kept;
use std::cell::Cell;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use udax::program::Program;
use udax_linux::{NativeCalls, Service, SignalsBlocked};

const STARTING: u8 = 0;
const ON: u8 = 1;
const OFF: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(STARTING);
/// Each stays for good: a call may be in it while the process forks.
static PROGRAM: AtomicPtr<Program> = AtomicPtr::new(null_mut());
/// The program has mapped a file. Before that no memory of it can be ours.
static FILE_MAPPED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// This thread is in our code. No destructor and no lazy start: usable in signal handlers, and at any time of a thread's life.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The kernel's own memory calls.
pub(crate) fn native() -> NativeCalls {
    // SAFETY: this library makes each call with the arguments that the program passed for it.
    unsafe { NativeCalls::new() }
}

/// From now on udax is asked.
pub(crate) fn switch_on(program: Program) {
    PROGRAM.store(Box::into_raw(Box::new(program)), Ordering::Release);
    MODE.store(ON, Ordering::Release);
}

/// In a child of fork: the program that `in_child` makes is asked from now on.
pub(crate) fn begin_anew(in_child: impl FnOnce() -> (Program, SignalsBlocked)) {
    INSIDE.set(true);
    let mark = Mark;
    let (program, signals) = or_abort(in_child);
    if !program.is_serving() {
        // No memory of the process is ours.
        FILE_MAPPED.store(false, Ordering::SeqCst);
    }
    switch_on(program);
    drop(mark);
    drop(signals);
}

/// From now on everything is passed on, for good. Async-signal-safe.
pub(crate) fn switch_off() {
    MODE.store(OFF, Ordering::Release);
}

/// Said before the first file mapping is made, so that whoever can know its address finds it said.
pub(crate) fn file_is_mapped() {
    if !FILE_MAPPED.load(Ordering::Relaxed) {
        FILE_MAPPED.store(true, Ordering::SeqCst);
    }
}

/// The program has mapped a file at some time: what it does to its memory may concern us.
pub(crate) fn any_file_mapped() -> bool {
    FILE_MAPPED.load(Ordering::SeqCst)
}

/// The program's runtime, unless this call is to be passed on. Blocks nothing, keeps nothing.
pub(crate) fn program() -> Option<&'static Program> {
    if MODE.load(Ordering::Acquire) != ON || INSIDE.get() || Service::on_service_thread() {
        return None;
    }
    // SAFETY: it is null, or came from a box that nobody takes back.
    unsafe { PROGRAM.load(Ordering::Acquire).as_ref() }
}

/// The runtime, entered: until drop the thread's own calls go straight on. All signals wait meanwhile: a handler of the program that
/// found the thread marked would have its own calls passed on behind our back.
pub(crate) struct Entered {
    program: &'static Program,
    _mark: Mark,
    _signals: SignalsBlocked,
}

struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

impl Deref for Entered {
    type Target = Program;

    fn deref(&self) -> &Program {
        self.program
    }
}

/// Enters the runtime, unless this call is to be passed on.
pub(crate) fn enter() -> Option<Entered> {
    let program = program()?;
    let signals = SignalsBlocked::new();
    INSIDE.set(true);
    Some(Entered { program, _mark: Mark, _signals: signals })
}

/// Asks the runtime, if it has a say here. `errno` stays. A panic of ours ends the process: it must not unwind into the program.
pub(crate) fn ask<R>(question: impl FnOnce(&'static Program) -> R) -> Option<R> {
    let _errno = Kept::now();
    let entered = enter()?;
    let program = entered.program;
    Some(or_abort(|| question(program)))
}

/// Runs our own code, and ends the process if it panics (std has printed why).
pub(crate) fn or_abort<R>(code: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|_| {
        crate::report::to_stderr("udax: this is a bug in udax: the process cannot go on\n");
        std::process::abort()
    })
}
