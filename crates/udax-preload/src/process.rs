//! Forks. Before one, the plain mapping goes in everywhere; the child begins anew, with what it opens itself. The child of a fork that the C library knows
//! nothing of, in which hardly anything of it works, passes everything on until it executes another program.
//!
//! `fork`, `daemon`, `forkpty` and whatever else of libc forks runs the three handlers registered here. They are registered when the
//! library is loaded, so the program's own prepare handlers run before ours and its other two after: all may touch mappings.

use crate::errno::Kept;
use crate::{real, signals, state};
use libc::{c_int, c_void, pid_t};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use udax::program::ForkGuard;

/// Held by the forking thread from before the fork until after it, in both processes.
type Held = ManuallyDrop<ForkGuard<'static>>;

thread_local! {
    /// Between the handlers, which are three calls of one thread. `ManuallyDrop`: no destructor, so no lazy registration of one.
    static HELD: Cell<Option<Held>> = const { Cell::new(None) };
}

fn hold() -> Option<Held> {
    let _errno = Kept::now();
    let program = state::program()?;
    Some(ManuallyDrop::new(state::or_abort(|| program.before_fork())))
}

fn release_in_parent(held: Option<Held>) {
    if let Some(held) = held {
        let _errno = Kept::now();
        state::or_abort(|| ManuallyDrop::into_inner(held).parent());
    }
}

fn release_in_child(held: Option<Held>) {
    // Even when nothing is held: the threads that would serve anything are not in this process.
    state::switch_off();
    signals::in_child();
    if let Some(held) = held {
        let _errno = Kept::now();
        state::or_abort(|| ManuallyDrop::into_inner(held).child());
    }
}

extern "C" fn prepare() {
    HELD.set(hold());
}

extern "C" fn parent() {
    release_in_parent(HELD.take());
}

extern "C" fn child() {
    let held = HELD.take();
    match (held, state::program()) {
        (Some(held), Some(parents)) => {
            let _errno = Kept::now();
            crate::report::begin_anew();
            signals::in_child();
            state::begin_anew(|| parents.in_child(ManuallyDrop::into_inner(held)));
        }
        (held, _) => release_in_child(held),
    }
}

/// Asks libc to call us around every fork.
pub(crate) fn register() {
    // SAFETY: three functions that live as long as this library, which is never unloaded.
    let answer = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    if answer != 0 {
        // A fork that we did not know of would lose stores.
        state::switch_off();
        crate::report::to_stderr("udax: libc has no memory for fork handlers: nothing is served\n");
    }
}

/// Forks by `fork`, which runs no handlers, with what the handlers do.
pub(crate) fn around_fork<Pid: PartialOrd + Default>(fork: impl FnOnce() -> Pid) -> Pid {
    let held = hold();
    let pid = fork();
    if pid == Pid::default() {
        release_in_child(held);
    } else {
        release_in_parent(held);
    }
    pid
}

/// _Fork(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _Fork() -> pid_t {
    // SAFETY: no argument.
    around_fork(|| unsafe { real::fork_only() })
}

/// What the child of a `clone` that copies the memory starts with.
struct ChildStart {
    start: real::Start,
    argument: *mut c_void,
    held: Option<Held>,
}

extern "C-unwind" fn start_child(start: *mut c_void) -> c_int {
    let start = start.cast::<ChildStart>();
    // SAFETY: this process's copy of what `clone` below has on its stack; the parent's own stays as it was.
    let ChildStart { start, argument, held } = unsafe { start.read() };
    release_in_child(held);
    start(argument)
}

/// clone(2), libc's function.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clone(
    start: real::Start,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut c_void,
    tls: *mut c_void,
    child_tid: *mut c_void,
) -> c_int {
    if flags & libc::CLONE_VM != 0 {
        before_sharing_clone(flags);
        // SAFETY: the program's own arguments.
        return unsafe { real::clone(start, stack, flags, argument, parent_tid, tls, child_tid) };
    }
    let mut child = ChildStart { start, argument, held: hold() };
    let ours = (&raw mut child).cast();
    // SAFETY: the program's own arguments, but for the start: its copy of `child` is read by the child, as the memory is copied.
    let pid = unsafe { real::clone(start_child, stack, flags, ours, parent_tid, tls, child_tid) };
    release_in_parent(child.held.take());
    pid
}

/// clone(2), by glibc's inner name.
///
/// # Safety
/// As `clone`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn __clone(
    start: real::Start,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut c_void,
    tls: *mut c_void,
    child_tid: *mut c_void,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { clone(start, stack, flags, argument, parent_tid, tls, child_tid) }
}

/// Before a clone that shares the memory: a thread is of this process; another process takes the descriptors with it.
pub(crate) fn before_sharing_clone(flags: c_int) {
    if flags & libc::CLONE_THREAD == 0 {
        crate::spawn::before_spawn();
    } else if flags & libc::CLONE_FILES == 0 {
        crate::memory::make_all_plain("a thread with descriptors of its own");
    }
}
