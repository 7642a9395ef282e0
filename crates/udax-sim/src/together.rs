//! One CPU for all threads of a run. Only one of them has the turn, and to wake another one on another CPU costs several times as much.

/// A CPU, where the machine can tell.
#[derive(Clone, Copy)]
pub(crate) struct Cpu(#[cfg(all(target_os = "linux", not(miri)))] usize);

#[cfg(all(target_os = "linux", not(miri)))]
impl Cpu {
    /// The one that the calling thread is on.
    pub(crate) fn here() -> Self {
        Self(rustix::thread::sched_getcpu())
    }

    /// Moves the calling thread there, for good. If that is forbidden it runs where it will.
    pub(crate) fn stay(self) {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(self.0);
        let _ = rustix::thread::sched_setaffinity(None, &cpus);
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
impl Cpu {
    pub(crate) fn here() -> Self {
        Self()
    }

    pub(crate) fn stay(self) {}
}
