//! Tests of faults by signals: each runs in a process of its own, since an action is the whole process's, and under that engine whatever is asked for.

use super::{Served, Simple};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use udax_linux::{Engine, FaultEvent, Handler, LeaseId, Mapped, Service, Sharing, Verdict};

const CHILD: &str = "UDAX_TEST_ALONE";

/// Runs `body` in a process of its own, in which the test `name` comes here again; what became of it. Nothing that hangs is waited for longer than two minutes.
pub(crate) fn end_of(name: &str, body: impl FnOnce()) -> Option<(ExitStatus, String)> {
    end_with(name, &[], body)
}

/// The same with more in its environment.
pub(crate) fn end_with(
    name: &str,
    environment: &[(&str, &str)],
    body: impl FnOnce(),
) -> Option<(ExitStatus, String)> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let this = std::env::current_exe().expect("it has a path");
    let output = Command::new("timeout")
        .args(["--foreground", "-s", "KILL", "120"])
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .env("UDAX_ENGINE", "signals")
        .env_remove("UDAX_TEST_FAIL")
        .envs(environment.iter().copied())
        .output()
        .expect("this program can be started");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status, String::from_utf8_lossy(&said).into_owned()))
}

/// Runs `body` so; it must come to its end.
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if let Some((status, said)) = end_of(name, body) {
        assert!(status.success() && said.contains("1 passed"), "{status}: {said}");
    }
}

/// Runs `body` so; a signal must end it. `timeout` passes that on.
pub(crate) fn ends_by(signal: i32, name: &str, body: impl FnOnce()) {
    if let Some((status, said)) = end_of(name, body) {
        assert_eq!(status.signal().or(status.code()), Some(signal), "{status}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// A mapping that is served, by signals.
pub(crate) fn served(file: &super::TempFile, length_bytes: usize, sharing: Sharing) -> Served {
    let served = Served::new(file, length_bytes, sharing, super::READ_WRITE).expect("started");
    assert_eq!(served.service.engine(), Engine::Signals);
    served
}

/// A handler whose answers the test decides about.
pub(crate) struct Scripted<F>(pub(crate) F);

impl<F: Fn(FaultEvent) -> Verdict + Send + Sync + 'static> Handler for Scripted<F> {
    fn fault(&self, fault: FaultEvent) -> Verdict {
        (self.0)(fault)
    }

    fn lease_broken(&self, _lease: LeaseId) {}
}

/// A service of that kind, and a mapping in its care, all plain.
pub(crate) fn scripted(
    file: &super::TempFile,
    length_bytes: usize,
    script: impl Fn(FaultEvent) -> Verdict + Send + Sync + 'static,
) -> (Mapped, udax_linux::LinuxSpace) {
    let service = Service::start(Arc::new(Scripted(script)) as Arc<dyn Handler>).expect("started");
    assert_eq!(service.engine(), Engine::Signals);
    let (shared, prot) = (Sharing::Shared, super::READ_WRITE);
    let mapped = Mapped::new(file.fd(), 0, length_bytes, shared, prot, 0).expect("mapped");
    let handle = udax_linux::FileHandle::adopt(&service, file.fd()).expect("it can be shared");
    let space = udax_linux::LinuxSpace::new(mapped.area(), handle);
    (mapped, space)
}

/// How many events the handler has had for the page at `address`.
pub(crate) fn faults_at(handler: &Simple, address: usize) -> usize {
    let faults = handler.faults.lock().expect("no test panics with it");
    faults.iter().filter(|fault| fault.address == address).count()
}

/// Runs `body` in `count` threads that begin together, and are all asleep or gone before `then` runs.
pub(crate) fn in_threads(count: usize, body: impl Fn(usize) + Sync, then: impl FnOnce()) {
    let (begun, together) = (AtomicUsize::new(0), Barrier::new(count));
    std::thread::scope(|scope| {
        for number in 0..count {
            let (body, begun, together) = (&body, &begun, &together);
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            let run = move || {
                together.wait();
                begun.fetch_add(1, Ordering::SeqCst);
                body(number);
            };
            thread.spawn_scoped(scope, run).expect("a thread can be had");
        }
        while begun.load(Ordering::SeqCst) < count || is_anybody_awake() {
            std::thread::yield_now();
        }
        then();
    });
}

/// Whether any other thread of the process runs or is about to.
fn is_anybody_awake() -> bool {
    // SAFETY: no argument.
    let this = unsafe { libc::gettid() }.to_string();
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted");
    tasks.filter_map(Result::ok).filter(|task| task.file_name() != *this).any(|task| {
        let line = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        line.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('R'))
    })
}
