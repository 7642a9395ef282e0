//! Starting a service: the private descriptor table, what goes into it, and the threads.

use crate::catcher::Catcher;
use crate::engine::{Engine, UnknownEngine};
use crate::events::Handler;
use crate::handover::Handover;
use crate::service::{Service, Table};
use crate::signals::Signals;
use crate::sys::errno::Errno;
use crate::sys::signal::{self, SignalsBlocked};
use crate::sys::{fd, mem, uffd};
use crate::userfaultfd::Userfaultfd;
use crate::watch::Role;
use linux_raw_sys::general as k;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::{Arc, mpsc};
use std::thread::Builder;

/// Why the service could not be started. What it says includes what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// An engine was asked for that there is not.
    Engine(UnknownEngine),
    /// No userfaultfd is to be had.
    Userfaultfd {
        /// What the system call said.
        errno: Errno,
        /// What can be done about it.
        advice: String,
    },
    /// No handler of SIGSEGV can be installed, or no memory for it be had.
    Signals(Errno),
    /// The kernel's userfaultfd lacks something.
    Features {
        /// What it lacks.
        missing: &'static str,
        /// The kernel's release.
        release: String,
    },
    /// The service's threads could not get a descriptor table of their own.
    DescriptorTable(Errno),
    /// Descriptors of the program can be had neither by `pidfd_getfd` nor by a socket.
    Handover(Errno),
    /// `/proc/self/pagemap` or `/proc/self/mem` cannot be opened.
    Proc(Errno),
    /// A thread could not be started.
    Thread(Errno),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(unknown) => unknown.fmt(f),
            Self::Userfaultfd { errno, advice } => {
                write!(f, "userfaultfd is refused: {errno}; {advice}")
            }
            Self::Signals(errno) => write!(f, "SIGSEGV cannot be handled: {errno}"),
            Self::Features { missing, release } => {
                write!(
                    f,
                    "the userfaultfd of Linux {release} lacks {missing}: Linux 5.7 or later is needed"
                )
            }
            Self::DescriptorTable(errno) => {
                write!(
                    f,
                    "no descriptor table of our own: {errno}; close_range with CLOSE_RANGE_UNSHARE (Linux 5.9) must be allowed"
                )
            }
            Self::Handover(errno) => {
                write!(
                    f,
                    "descriptors cannot be handed over: {errno}; pidfd_getfd (Linux 5.6) or sockets of AF_UNIX must be allowed"
                )
            }
            Self::Proc(errno) => {
                write!(f, "/proc/self/pagemap or /proc/self/mem: {errno}; /proc must be mounted")
            }
            Self::Thread(errno) => write!(f, "a service thread could not be started: {errno}"),
        }
    }
}

impl core::error::Error for StartError {}

type Answer = Result<Arc<Service>, StartError>;

/// See [`Service::start`].
pub(crate) fn start(handler: Arc<dyn Handler>) -> Answer {
    // A thread that finds no memory for its first allocation ends the process.
    crate::reserve::is_there_room().map_err(StartError::Thread)?;
    // The new threads inherit the mask, and those that they start in turn.
    let _quiet = SignalsBlocked::new();
    let (answer, started) = mpsc::sync_channel(1);
    spawn(Role::Fault, move || run_first(handler, &answer))?;
    started.recv().unwrap_or(Err(StartError::Thread(Errno::AGAIN)))
}

/// Starts a thread, and waits until it has begun: its first allocation, for which the C library maps memory, is behind it. What the program does next may be to limit its
/// address space, and a thread that found none then would end the process.
fn spawn(role: Role, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
    let (begins, has_begun) = mpsc::sync_channel(1);
    let builder = Builder::new().name(format!("udax-{}", role.name()));
    let begin = move || {
        let _ = begins.send(());
        body();
    };
    match builder.spawn(begin) {
        Ok(_) => has_begun.recv().map_err(|_| StartError::Thread(Errno::AGAIN)),
        Err(error) => Err(StartError::Thread(error.raw_os_error().map_or(Errno::AGAIN, Errno))),
    }
}

/// What the first thread does: it makes the table, starts the others, which share it, and becomes the fault thread.
fn run_first(handler: Arc<dyn Handler>, answer: &mpsc::SyncSender<Answer>) {
    let made = open_table().and_then(|table| start_others(handler, table));
    // The starter waits for exactly this; it cannot be gone.
    let _ = answer.send(made.clone());
    if let Ok(service) = made {
        service.run(Role::Fault);
    }
}

fn start_others(handler: Arc<dyn Handler>, table: Table) -> Answer {
    let (to_lease, for_lease) = mpsc::sync_channel::<Arc<Service>>(1);
    let (say_id, hear_id) = mpsc::sync_channel(1);
    spawn(Role::Lease, move || {
        let _ = say_id.send(signal::thread_id());
        if let Ok(service) = for_lease.recv() {
            service.run(Role::Lease);
        }
    })?;
    let lease_thread = hear_id.recv().map_err(|_| StartError::Thread(Errno::AGAIN))?;
    let service = Arc::new(Service::new(handler, table, lease_thread));
    for role in [Role::Map, Role::Call, Role::File] {
        let service = Arc::clone(&service);
        spawn(role, move || service.run(role))?;
    }
    to_lease.send(Arc::clone(&service)).map_err(|_| StartError::Thread(Errno::AGAIN))?;
    Ok(service)
}

/// Gives this thread a table of its own and opens what the service needs.
fn open_table() -> Result<Table, StartError> {
    private_table().map_err(StartError::DescriptorTable)?;
    let (catcher, why_not_better) = open_catcher()?;
    let handover = Handover::open().map_err(StartError::Handover)?;
    let open = |path| fd::open(path, k::O_RDONLY | k::O_CLOEXEC).map_err(StartError::Proc);
    let traps = open_traps(&catcher);
    Ok(Table {
        catcher,
        why_not_better,
        handover,
        pagemap: open(c"/proc/self/pagemap")?,
        memory: open(c"/proc/self/mem")?,
        maps: open(c"/proc/self/maps")?,
        traps,
        zeros: open(c"/dev/zero").ok(),
    })
}

/// The memory that traps are made of. Its pages are never to be had: with faults by signals nobody is to allow stores there by a call that we do not see.
fn open_traps(catcher: &Catcher) -> Option<RawFd> {
    let traps = fd::empty_memory(c"udax traps", mem::ADDRESSES).ok()?;
    if catcher.engine() == Engine::Signals && fd::forbid_stores(traps).is_err() {
        fd::close(traps);
        return None;
    }
    Some(traps)
}

/// A descriptor table for this thread alone, with nothing of the program's in it.
pub(crate) fn private_table() -> Result<(), Errno> {
    // A pipe of the program's that stayed open here would never say end of file to whoever reads it.
    fd::own_table()?;
    // Nothing of ours may get the numbers 0 to 2: what is printed by accident goes nowhere.
    for _ in 0..3 {
        fd::open(c"/dev/null", k::O_RDWR).or_else(|_| fd::event_counter())?;
    }
    fd::grow_table();
    Ok(())
}

/// The best that there is, or the one that is asked for; what is in the way of a better one.
fn open_catcher() -> Result<(Catcher, Option<String>), StartError> {
    let asked = Engine::asked().map_err(StartError::Engine)?;
    let signals = || Signals::new().map(Catcher::Signals).map_err(StartError::Signals);
    if asked == Some(Engine::Signals) {
        return Ok((signals()?, None));
    }
    match open_uffd(asked) {
        Ok(uffd) => Ok((Catcher::Userfaultfd(uffd), None)),
        Err(why) if asked.is_none() => Ok((signals()?, Some(why.to_string()))),
        Err(why) => Err(why),
    }
}

fn open_uffd(asked: Option<Engine>) -> Result<Userfaultfd, StartError> {
    let (uffd, source) = uffd::open(asked).map_err(|(errno, device)| StartError::Userfaultfd {
        errno,
        advice: advice(errno, device),
    })?;
    // A refused handshake leaves nothing behind: the descriptor may be asked again.
    let agreed = uffd::handshake(uffd, uffd::WANTED | uffd::USEFUL)
        .or_else(|_| uffd::handshake(uffd, uffd::WANTED));
    agreed.map_err(|_| StartError::Features {
        missing: "remap events or write protection",
        release: fd::read_text(c"/proc/sys/kernel/osrelease").unwrap_or_default(),
    })?;
    Userfaultfd::new(uffd, source.engine()).map_err(StartError::DescriptorTable)
}

/// What can be done about a refusal: of the system call, and of the device.
pub(crate) fn advice(syscall: Errno, device: Errno) -> String {
    let device = match device {
        Errno::ACCES | Errno::PERM => "give the user read and write permission on /dev/userfaultfd",
        Errno::NOENT => "make /dev/userfaultfd available (Linux 6.1 or later)",
        _ => "make /dev/userfaultfd usable",
    };
    match syscall {
        Errno::PERM => format!(
            "{device}, or set the sysctl vm.unprivileged_userfaultfd to 1, or grant CAP_SYS_PTRACE; \
             in a container, its seccomp profile must allow userfaultfd"
        ),
        Errno::NOSYS => {
            "this kernel was built without CONFIG_USERFAULTFD, or a seccomp profile hides it"
                .to_owned()
        }
        _ => format!("{device}, or find out what forbids the userfaultfd system call"),
    }
}

/// Whether a 2 MiB read fault on anonymous memory gets the common zero page. Where it does not, it would get real memory.
pub(crate) fn has_huge_zero_pages() -> bool {
    let enabled = fd::read_text(c"/sys/kernel/mm/transparent_hugepage/enabled");
    let zero_page = fd::read_text(c"/sys/kernel/mm/transparent_hugepage/use_zero_page");
    enabled.is_ok_and(|text| !text.contains("[never]")) && zero_page.is_ok_and(|text| text == "1")
}
