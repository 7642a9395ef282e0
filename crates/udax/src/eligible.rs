//! Which mappings are worth serving, and why the others are passed through.

use rustix::process::{Resource, getrlimit};
use udax_core::{IoError, PMD_BYTES};
use udax_host::HostKind;
use udax_linux::{Errno, FileInfo, LeaseRefused, VmaArea};

/// Why a mapping stays plain. Plain is always right; it is merely slow on holes.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// A fork child, or a process that writes files in ways that cannot be seen.
    Closed,
    /// No userfaultfd here; what to do about it.
    NoEngine(String),
    /// The descriptor cannot be looked at, or not be had.
    Descriptor(Errno),
    /// Not a regular file of a supported file system.
    Filesystem,
    /// The process may have so much address space or data and no more: what serving takes of that would be missing to the program.
    Limited,
    /// Executable memory.
    Executable,
    /// Less than 2 MiB.
    Small,
    /// Storage for all of it, or nearly.
    NotSparse,
    /// No hole in the mapped range that is large enough to be shown.
    NoHole,
    /// Holes cannot be looked for (the permissions of the file).
    CannotProbe,
    /// No proof that nobody else writes.
    Lease(LeaseRefused),
    /// Another process may have the very descriptor.
    SharedDescriptor,
    /// It is served already, through a descriptor with another access mode.
    OtherAccess,
    /// As many are served as may be.
    TooManyFiles,
    /// A thread of this process is writing the file through a system call right now.
    WriteUnderWay,
    /// Looking for holes failed.
    Survey(IoError),
    /// The kernel refused the memory.
    NoTraps(Errno),
}

impl Refusal {
    /// The reason in a few words, the same for the same reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "a process that forks or writes unseen",
            Self::NoEngine(_) => "userfaultfd is refused",
            Self::Descriptor(_) => "the descriptor cannot be looked at",
            Self::Filesystem => "not a regular file of ext2/3/4, XFS, btrfs or tmpfs",
            Self::Limited => "the process has a limit of address space or data",
            Self::Executable => "executable",
            Self::Small => "smaller than 2 MiB",
            Self::NotSparse => "not sparse",
            Self::NoHole => "no hole in the range",
            Self::CannotProbe => "the file's permissions do not let holes be looked for",
            Self::Lease(_) => "no lease: others have it open, or it is another user's",
            Self::SharedDescriptor => "its descriptor may be shared with another process",
            Self::OtherAccess => "served through a descriptor with another access mode",
            Self::TooManyFiles => "a thousand files are served already",
            Self::WriteUnderWay => "a write to it was under way",
            Self::Survey(_) => "looking for holes failed",
            Self::NoTraps(_) => "the kernel refused the memory",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())?;
        match self {
            Self::NoEngine(why) => write!(f, ": {why}"),
            Self::Descriptor(cause) | Self::NoTraps(cause) => write!(f, ": {cause}"),
            Self::Lease(cause) => write!(f, ": {cause}"),
            Self::Survey(cause) => write!(f, ": {cause}"),
            Self::Closed
            | Self::Filesystem
            | Self::Limited
            | Self::Executable
            | Self::Small
            | Self::NotSparse
            | Self::NoHole
            | Self::CannotProbe
            | Self::SharedDescriptor
            | Self::OtherAccess
            | Self::TooManyFiles
            | Self::WriteUnderWay => Ok(()),
        }
    }
}

/// What can be told without a proof: whether the mapping could have 2 MiB of holes at all.
pub(crate) fn mapping(area: &VmaArea, info: &FileInfo) -> Result<(), Refusal> {
    if !info.is_regular || !HostKind::of_magic(info.fs_magic).supported() {
        return Err(Refusal::Filesystem);
    }
    let prot = area.prot().bits();
    if prot & PROT_EXEC != 0 {
        return Err(Refusal::Executable);
    }
    let length = (area.end() - area.address()) as u64;
    if length < PMD_BYTES || info.size_bytes < PMD_BYTES {
        return Err(Refusal::Small);
    }
    // Windows are memory of the process, and our threads have stacks.
    let is_limited = |resource| getrlimit(resource).current.is_some();
    if is_limited(Resource::As) || is_limited(Resource::Data) {
        return Err(Refusal::Limited);
    }
    // Storage past the end of the file makes this err on the side of the plain mapping.
    if info.size_bytes.saturating_sub(info.blocks_bytes) < PMD_BYTES {
        return Err(Refusal::NotSparse);
    }
    Ok(())
}

/// `PROT_EXEC` of mmap(2).
pub(crate) const PROT_EXEC: i32 = 4;
