//! Children of fork in tests.

/// Runs `work` in a child of fork, which ends by its answer.
#[expect(unsafe_code, reason = "it forks")]
pub(crate) fn in_child(work: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child does what a program of one thread does: the C library's locks are its own again after its fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a number. A child that hangs is ended by it.
        unsafe { libc::alarm(60) };
        let holds = work();
        // SAFETY: it ends this process, and runs nothing of the parent's.
        unsafe { libc::_exit(i32::from(!holds)) };
    }
    assert!(child > 0, "a fork");
    child
}

/// Waits for that child, whose answer has to be yes.
#[expect(unsafe_code, reason = "of libc's functions")]
pub(crate) fn ended_well(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the pointer is to the number, borrowed for the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
}
