//! File leases: the kernel's word that nobody else has a file open, and its warning before somebody does.

use crate::file::FileHandle;
use crate::platform::lock;
use crate::sys::errno::Errno;
use crate::sys::{bits, fd, signal, to_int};
use linux_raw_sys::general as k;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Names a lease; unique in the process, never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// Why a lease was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseReason {
    /// Somebody else has the file open in a way that the lease excludes.
    OthersHaveItOpen,
    /// Neither the file's owner nor CAP_LEASE.
    NotOwner,
    /// The file system has no leases.
    Unsupported,
    /// Something else.
    Other,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRefused {
    /// What the kernel said.
    pub errno: Errno,
    /// What that means.
    pub reason: LeaseReason,
}

impl LeaseRefused {
    const fn from_errno(errno: Errno) -> Self {
        let reason = match errno {
            Errno::AGAIN => LeaseReason::OthersHaveItOpen,
            Errno::ACCES => LeaseReason::NotOwner,
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => LeaseReason::Unsupported,
            _ => LeaseReason::Other,
        };
        Self { errno, reason }
    }
}

impl fmt::Display for LeaseRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            LeaseReason::OthersHaveItOpen => f.write_str("the file is open elsewhere"),
            LeaseReason::NotOwner => {
                f.write_str("a lease needs the file's owner, or the capability CAP_LEASE")
            }
            LeaseReason::Unsupported => f.write_str("its file system has no leases"),
            LeaseReason::Other => write!(f, "no lease: {}", self.errno),
        }
    }
}

impl core::error::Error for LeaseRefused {}

struct Held {
    id: LeaseId,
    /// F_RDLCK or F_WRLCK.
    kind: usize,
    /// Who was told of the description's readiness, and by which signal, before.
    before: (k::f_owner_ex, usize),
    /// The lease thread has been told of the break.
    is_announced: bool,
}

/// The leases of a service, by descriptor. Its lock is held over the kernel's calls, none of which waits.
pub(crate) struct Leases {
    held: Mutex<BTreeMap<RawFd, Held>>,
    thread: i32,
}

impl Leases {
    pub(crate) const fn new(thread: i32) -> Self {
        Self { held: Mutex::new(BTreeMap::new()), thread }
    }

    /// Takes a lease on `descriptor` of the private table. On a service thread.
    fn take(&self, descriptor: RawFd, kind: u32) -> Result<LeaseId, Errno> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut held = lock(&self.held);
        if held.contains_key(&descriptor) {
            return Err(Errno::EXIST);
        }
        let before = (fd::owner(descriptor)?, fd::fcntl(descriptor, k::F_GETSIG, 0)?);
        let signal = signal::LEASE_SIGNAL as usize;
        let owner = k::f_owner_ex { type_: to_int(bits(k::F_OWNER_TID)), pid: self.thread };
        fd::fcntl(descriptor, k::F_SETSIG, signal)?;
        fd::set_owner(descriptor, &owner)?;
        let granted = fd::fcntl(descriptor, k::F_SETLEASE, kind as usize);
        hide(descriptor)?;
        if let Err(errno) = granted {
            restore(descriptor, &before);
            return Err(errno);
        }
        let id = LeaseId(NEXT.fetch_add(1, Ordering::Relaxed));
        // A break that came already waits for the lock: its thread finds the lease in here.
        held.insert(descriptor, Held { id, kind: kind as usize, before, is_announced: false });
        Ok(id)
    }

    /// The leases that are being broken and were not announced: the one of `descriptor`, or of all.
    pub(crate) fn breaking(&self, descriptor: Option<RawFd>) -> Vec<LeaseId> {
        let mut found = Vec::new();
        for (number, held) in lock(&self.held).iter_mut() {
            let is_asked_for = descriptor.is_none_or(|wanted| wanted == *number);
            // A signal may be older than the lease of this number: the kernel says what is being broken now.
            if is_asked_for && !held.is_announced && is_breaking(*number, held.kind) {
                held.is_announced = true;
                found.push(held.id);
            }
        }
        found
    }

    /// Gives a lease back, if that was not done yet. On a service thread.
    pub(crate) fn give_back(&self, id: LeaseId) {
        let mut held = lock(&self.held);
        let Some(descriptor) = held.iter().find(|(_, lease)| lease.id == id).map(|(fd, _)| *fd)
        else {
            return;
        };
        let lease = held.remove(&descriptor);
        // It fails only if the kernel has taken the lease away, lease-break-time being over.
        let _ = fd::fcntl(descriptor, k::F_SETLEASE, k::F_UNLCK as usize);
        if let Some(lease) = lease {
            restore(descriptor, &lease.before);
        }
    }

    fn is_breaking(&self, id: LeaseId) -> bool {
        let held = lock(&self.held);
        match held.iter().find(|(_, lease)| lease.id == id) {
            Some((descriptor, lease)) => is_breaking(*descriptor, lease.kind),
            None => true,
        }
    }
}

/// A lease sets O_ASYNC on the description, which needs it for nothing, and which the program would see there.
fn hide(descriptor: RawFd) -> Result<(), Errno> {
    let flags = fd::flags(descriptor)?;
    if flags & k::FASYNC != 0 {
        fd::fcntl(descriptor, k::F_SETFL, (flags & !k::FASYNC) as usize)?;
    }
    Ok(())
}

/// What the program had set there before. A description that refuses it keeps ours, which no signal comes from any more.
fn restore(descriptor: RawFd, (owner, signal): &(k::f_owner_ex, usize)) {
    let _ = fd::set_owner(descriptor, owner);
    let _ = fd::fcntl(descriptor, k::F_SETSIG, *signal);
}

/// A lease that is being broken is told as what it will have to become.
fn is_breaking(descriptor: RawFd, kind: usize) -> bool {
    fd::fcntl(descriptor, k::F_GETLEASE, 0) != Ok(kind)
}

/// A lease that was granted; dropping gives it back.
pub struct Lease {
    id: LeaseId,
    file: Arc<FileHandle>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.id.0).finish()
    }
}

impl Lease {
    /// Asks the kernel for one: a write lease if the file is open for writing, else a read lease.
    pub(crate) fn take(file: &Arc<FileHandle>) -> Result<Self, LeaseRefused> {
        let kind = if file.info().access.can_write() { k::F_WRLCK } else { k::F_RDLCK };
        let service = file.service();
        let id = service
            .with_descriptors(|| service.leases.take(file.leased_descriptor(), kind))
            .map_err(LeaseRefused::from_errno)?;
        Ok(Self { id, file: Arc::clone(file) })
    }

    /// Its name, as [`crate::Handler::lease_broken`] is told it.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// Whether somebody waits for it to be given back, or has it already. Any thread.
    #[must_use]
    pub fn is_breaking(&self) -> bool {
        let service = self.file.service();
        service.with_descriptors(|| service.leases.is_breaking(self.id))
    }

    /// Gives it back; the kernel has it when this returns.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let service = self.file.service();
        service.finish(|| service.leases.give_back(self.id));
    }
}
