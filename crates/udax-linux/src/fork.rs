//! Being told of forks.

/// Calls the three functions before a fork, and after it in the parent and in the child; as pthread_atfork(3). Once registered
/// they stay registered, so call it once.
pub fn at_fork(prepare: fn(), parent: fn(), child: fn()) {
    static HOOKS: std::sync::OnceLock<[fn(); 3]> = std::sync::OnceLock::new();
    extern "C" fn run<const WHICH: usize>() {
        if let Some(hooks) = HOOKS.get() {
            hooks[WHICH]();
        }
    }
    if HOOKS.set([prepare, parent, child]).is_ok() {
        // SAFETY: the three functions are `extern "C"`, take nothing, and live as long as the process.
        unsafe { libc::pthread_atfork(Some(run::<0>), Some(run::<1>), Some(run::<2>)) };
    }
}
