//! Which file system a file is on.

use core::fmt;
use rustix::fd::BorrowedFd;
use udax_core::IoError;

/// The host file system of a file, by the magic number that fstatfs(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// ext2, ext3 or ext4: they share one number.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// tmpfs, which memfd and shared memory files are on too.
    Tmpfs,
    /// Any other; its number.
    Other(u64),
}

impl HostKind {
    /// The file system behind a `f_type` of fstatfs(2).
    #[must_use]
    pub const fn of_magic(magic: u64) -> Self {
        match magic {
            0xef53 => Self::Ext,
            0x5846_5342 => Self::Xfs,
            0x9123_683e => Self::Btrfs,
            0x0102_1994 => Self::Tmpfs,
            other => Self::Other(other),
        }
    }

    /// The file system of an open file. Takes no lock of the file.
    ///
    /// # Errors
    /// What fstatfs(2) says.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self, IoError> {
        let stat = rustix::fs::fstatfs(fd).map_err(|e| IoError::from_errno(e.raw_os_error()))?;
        // Some architectures have `f_type` as 32 signed bits; the magic numbers are 32 bits on all.
        #[expect(clippy::cast_sign_loss, reason = "a magic number has no sign")]
        #[expect(clippy::allow_attributes, reason = "the width differs by architecture")]
        #[allow(clippy::unnecessary_cast, reason = "the width differs by architecture")]
        let magic = stat.f_type as u64 & 0xffff_ffff;
        Ok(Self::of_magic(magic))
    }

    /// Whether holes of its files may be shown as the zero page. All others get the plain mapping: nobody has shown there that
    /// SEEK_DATA tells the truth, or that a lease is a proof.
    #[must_use]
    pub const fn supported(self) -> bool {
        match self {
            Self::Ext | Self::Xfs | Self::Btrfs | Self::Tmpfs => true,
            Self::Other(_) => false,
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ext => f.write_str("ext2/3/4"),
            Self::Xfs => f.write_str("XFS"),
            Self::Btrfs => f.write_str("btrfs"),
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Other(magic) => write!(f, "file system {magic:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn shared_memory_is_tmpfs_and_proc_is_not_supported() {
        let memfd = rustix::fs::memfd_create("kind", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(HostKind::of_fd(memfd.as_fd()), Ok(HostKind::Tmpfs));
        let proc = std::fs::File::open("/proc/self/stat").unwrap();
        let kind = HostKind::of_fd(proc.as_fd()).unwrap();
        assert_eq!(kind, HostKind::Other(0x9fa0));
        assert!(!kind.supported());
    }
}
