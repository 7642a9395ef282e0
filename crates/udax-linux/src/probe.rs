//! What this machine and this process may do.

use crate::engine::Engine;
use crate::handover::Handover;
use crate::start::{advice, has_huge_zero_pages, private_table};
use crate::sys::errno::Errno;
use crate::sys::signal::SignalsBlocked;
use crate::sys::{fd, pagemap, uffd};
use core::ffi::CStr;
use linux_raw_sys::general as k;

/// How a userfaultfd is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserfaultfdAccess {
    /// By its system call.
    Syscall,
    /// By `/dev/userfaultfd`.
    Device,
    /// By its system call, for faults in user mode alone.
    UserModeOnly,
    /// Not at all.
    Refused {
        /// What the system call said.
        errno: Errno,
        /// What can be done about it.
        advice: String,
    },
}

/// How the service comes by descriptors of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverWay {
    /// By pidfd_getfd(2).
    Pidfd,
    /// They are sent to a socket.
    Socket,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The kernel's release, as `uname -r`.
    pub kernel_release: String,
    /// Whether faults can be served, and how.
    pub userfaultfd: UserfaultfdAccess,
    /// Features of the userfaultfd, by the kernel's names, and whether they are there. The first two are needed.
    pub features: Vec<(&'static str, bool)>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`; empty if it cannot be read.
    pub thp_enabled: String,
    /// Whether holes can be shown by the common 2 MiB zero page.
    pub huge_zero_page: bool,
    /// `vm.max_map_count`.
    pub max_map_count: Option<u64>,
    /// `vm.overcommit_memory`; with 2, traps count as memory.
    pub overcommit_memory: Option<u64>,
    /// `fs.lease-break-time`.
    pub lease_break_seconds: Option<u64>,
    /// `vm.unprivileged_userfaultfd`.
    pub unprivileged_userfaultfd: Option<u64>,
    /// Whether threads can have a descriptor table of their own.
    pub private_table: Result<(), Errno>,
    /// Whether descriptors of the program can be had: by `pidfd_getfd`, or else by a socket.
    pub handover: Result<HandoverWay, Errno>,
    /// Whether lost registrations can be looked for (PAGEMAP_SCAN).
    pub pagemap_scan: bool,
}

impl Capabilities {
    /// The engine that the service would have, and what is in the way of the best one if it is another and nobody has asked for it.
    ///
    /// # Errors
    /// What is in the way of any, and what can be done about it.
    pub fn engine(&self) -> Result<(Engine, Option<String>), String> {
        let asked = Engine::asked().map_err(|unknown| unknown.to_string())?;
        self.engine_if(asked)
    }

    fn engine_if(&self, asked: Option<Engine>) -> Result<(Engine, Option<String>), String> {
        if let Err(errno) = self.private_table {
            return Err(format!("close_range(CLOSE_RANGE_UNSHARE) is refused: {errno}"));
        }
        if let Err(errno) = self.handover {
            return Err(format!("pidfd_getfd is refused, and a socket: {errno}"));
        }
        if asked == Some(Engine::Signals) {
            return Ok((Engine::Signals, None));
        }
        match self.userfaultfd_engine() {
            Ok(engine) => Ok((engine, None)),
            Err(why) if asked.is_none() => Ok((Engine::Signals, Some(why))),
            Err(why) => Err(why),
        }
    }

    fn userfaultfd_engine(&self) -> Result<Engine, String> {
        if let Some((name, _)) = self.features.iter().take(NEEDED).find(|(_, there)| !there)
            && !matches!(self.userfaultfd, UserfaultfdAccess::Refused { .. })
        {
            return Err(format!(
                "the userfaultfd of Linux {} lacks {name}: Linux 5.7 or later is needed",
                self.kernel_release
            ));
        }
        match &self.userfaultfd {
            UserfaultfdAccess::Syscall | UserfaultfdAccess::Device => Ok(Engine::Userfaultfd),
            UserfaultfdAccess::UserModeOnly => Ok(Engine::UserfaultfdUser),
            UserfaultfdAccess::Refused { errno, advice } => {
                Err(format!("userfaultfd is refused: {errno}; {advice}"))
            }
        }
    }
}

const NEEDED: usize = 2;
const FEATURES: [(&str, u32); 4] = [
    ("UFFD_FEATURE_EVENT_REMAP", k::UFFD_FEATURE_EVENT_REMAP),
    ("UFFD_FEATURE_PAGEFAULT_FLAG_WP", k::UFFD_FEATURE_PAGEFAULT_FLAG_WP),
    ("UFFD_FEATURE_WP_UNPOPULATED", k::UFFD_FEATURE_WP_UNPOPULATED),
    ("UFFD_FEATURE_WP_ASYNC", k::UFFD_FEATURE_WP_ASYNC),
];

/// Finds out, on a thread of its own with descriptors of its own; nothing of the process is changed. Blocks for a moment.
#[must_use]
pub fn probe() -> Capabilities {
    let _quiet = SignalsBlocked::new();
    let tried = std::thread::Builder::new()
        .name("udax-probe".to_owned())
        .spawn(try_descriptors)
        .ok()
        .and_then(|thread| thread.join().ok())
        .unwrap_or_else(Tried::nothing);
    let number = |path: &CStr| fd::read_text(path).ok()?.parse().ok();
    let text = |path: &CStr| fd::read_text(path).unwrap_or_default();
    Capabilities {
        kernel_release: text(c"/proc/sys/kernel/osrelease"),
        userfaultfd: tried.userfaultfd,
        features: tried.features,
        thp_enabled: text(c"/sys/kernel/mm/transparent_hugepage/enabled"),
        huge_zero_page: has_huge_zero_pages(),
        max_map_count: number(c"/proc/sys/vm/max_map_count"),
        overcommit_memory: number(c"/proc/sys/vm/overcommit_memory"),
        lease_break_seconds: number(c"/proc/sys/fs/lease-break-time"),
        unprivileged_userfaultfd: number(c"/proc/sys/vm/unprivileged_userfaultfd"),
        private_table: tried.private_table,
        handover: tried.handover,
        pagemap_scan: tried.pagemap_scan,
    }
}

struct Tried {
    private_table: Result<(), Errno>,
    userfaultfd: UserfaultfdAccess,
    features: Vec<(&'static str, bool)>,
    handover: Result<HandoverWay, Errno>,
    pagemap_scan: bool,
}

impl Tried {
    fn nothing() -> Self {
        let advice = "no thread could be started to try it".to_owned();
        Self {
            private_table: Err(Errno::AGAIN),
            userfaultfd: UserfaultfdAccess::Refused { errno: Errno::AGAIN, advice },
            features: Vec::new(),
            handover: Err(Errno::AGAIN),
            pagemap_scan: false,
        }
    }
}

/// On the probing thread.
fn try_descriptors() -> Tried {
    let private_table = private_table();
    if private_table.is_err() {
        // What is opened now is the program's to see, for a moment.
        return Tried { private_table, ..try_rest() };
    }
    try_rest()
}

fn try_rest() -> Tried {
    let (userfaultfd, features) = try_userfaultfd();
    Tried {
        private_table: Ok(()),
        userfaultfd,
        features,
        handover: try_handover(),
        pagemap_scan: try_scan(),
    }
}

fn try_userfaultfd() -> (UserfaultfdAccess, Vec<(&'static str, bool)>) {
    // Asked for signals alone, it is still of interest what else there is.
    let asked = Engine::asked().unwrap_or(None).filter(|&engine| engine != Engine::Signals);
    match uffd::open(asked) {
        Ok((number, source)) => {
            let all = uffd::handshake(number, 0).unwrap_or(0);
            fd::close(number);
            let features = FEATURES.map(|(name, bit)| (name, all & u64::from(bit) != 0)).to_vec();
            let access = match source {
                uffd::Source::Syscall => UserfaultfdAccess::Syscall,
                uffd::Source::Device => UserfaultfdAccess::Device,
                uffd::Source::UserModeOnly => UserfaultfdAccess::UserModeOnly,
            };
            (access, features)
        }
        Err((errno, device)) => {
            let advice = advice(errno, device);
            (
                UserfaultfdAccess::Refused { errno, advice },
                FEATURES.map(|(n, _)| (n, false)).to_vec(),
            )
        }
    }
}

fn try_handover() -> Result<HandoverWay, Errno> {
    // What it opens goes with this thread's table.
    let handover = Handover::open()?;
    Ok(if handover.process().is_some() { HandoverWay::Pidfd } else { HandoverWay::Socket })
}

fn try_scan() -> bool {
    let Ok(pagemap) = fd::open(c"/proc/self/pagemap", k::O_RDONLY | k::O_CLOEXEC) else {
        return false;
    };
    let page = crate::window::Scratch::new(0, crate::sys::mem::PAGE);
    let scanned = page.is_ok_and(|page| {
        pagemap::present_pages(pagemap, page.address, page.address + page.length_bytes).is_ok()
    });
    fd::close(pagemap);
    scanned
}
