//! What the service tells of, and whom.

use crate::lease::LeaseId;

/// What a thread wanted of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// To load from it.
    Read,
    /// To store to it.
    Write,
}

/// Why it could not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing is mapped there: a trap, or a piece of a zero window that the program emptied by MADV_DONTNEED.
    Missing,
    /// A store met write-protection.
    WriteProtected,
}

/// A page fault; its thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultEvent {
    /// The address of the page, a multiple of 4096.
    pub address: usize,
    /// What was wanted.
    pub access: Access,
    /// What was in the way.
    pub cause: Cause,
    /// The thread, by its number in the kernel; 0 if the kernel does not tell.
    pub thread: i32,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The access can be tried again.
    Served,
    /// Nothing was in its way, or it is not served any more. If it meets the same again and again, that is not for us.
    Free,
    /// The program has no right to access it so: the kernel's own answer is due.
    NotOurs,
}

/// What the service's threads call.
pub trait Handler: Send + Sync + 'static {
    /// A thread waits at a page. On `udax-fault`; where faults come by a userfaultfd, whoever waits at that page tries again
    /// afterwards, whatever was done; where they come by signals, unless it is [`Verdict::NotOurs`].
    /// It must touch no memory that is served, and wait for no thread that may.
    fn fault(&self, fault: FaultEvent) -> Verdict;

    /// Somebody opens or truncates the file, and waits in the kernel until the lease has been given back. On `udax-lease`; the
    /// lease is given back afterwards if this did not do it. It must not wait for a thread that may sit in that very `open`.
    fn lease_broken(&self, lease: LeaseId);
}
