//! Errors, as few and closed as callers can branch on. The cause travels along as the errno that it came with.

use core::fmt;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoErrorKind {
    /// No memory (`ENOMEM`).
    NoMemory,
    /// No space, or a quota (`ENOSPC`, `EDQUOT`).
    NoSpace,
    /// The media lost data there (`EHWPOISON`).
    Poisoned,
    /// It would have to wait, and was told not to (`EAGAIN`).
    WouldBlock,
    /// A signal ended it (`EINTR`).
    Interrupted,
    /// Past the largest file (`EFBIG`), or an argument out of range (`EINVAL`).
    OutOfRange,
    /// Anything else (`EIO`).
    Io,
}

/// A failure of the file system or the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoError {
    /// The kind, to branch on.
    pub kind: IoErrorKind,
    /// The errno it came with; 0 when it had none.
    pub errno: i32,
}

impl IoError {
    /// An error without an errno of its own.
    #[must_use]
    pub const fn new(kind: IoErrorKind) -> Self {
        Self { kind, errno: 0 }
    }

    /// The error behind a Linux errno.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        let kind = match errno {
            12 => IoErrorKind::NoMemory,
            28 | 122 => IoErrorKind::NoSpace,
            133 => IoErrorKind::Poisoned,
            11 => IoErrorKind::WouldBlock,
            4 => IoErrorKind::Interrupted,
            22 | 27 => IoErrorKind::OutOfRange,
            _ => IoErrorKind::Io,
        };
        Self { kind, errno }
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            IoErrorKind::NoMemory => "out of memory",
            IoErrorKind::NoSpace => "no space left on the file system",
            IoErrorKind::Poisoned => "the storage is poisoned",
            IoErrorKind::WouldBlock => "it would block",
            IoErrorKind::Interrupted => "interrupted",
            IoErrorKind::OutOfRange => "out of range",
            IoErrorKind::Io => "input/output error",
        };
        if self.errno == 0 { f.write_str(what) } else { write!(f, "{what} (errno {})", self.errno) }
    }
}

impl core::error::Error for IoError {}

/// Why a translation could not be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InstallError {
    /// No memory for page tables, or for a private copy.
    OutOfMemory,
    /// There is no 2 MiB zero page to be had.
    NoHugeZero,
    /// The page-table level is taken by another size of translation.
    LevelTaken,
    /// Copying met an error of the media.
    Media(IoError),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory for page tables"),
            Self::NoHugeZero => f.write_str("no 2 MiB zero page"),
            Self::LevelTaken => f.write_str("another size of translation is in the way"),
            Self::Media(cause) => write!(f, "copying failed: {cause}"),
        }
    }
}

impl core::error::Error for InstallError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn each_errno_has_its_kind() {
        let kinds = [
            (12, IoErrorKind::NoMemory),
            (28, IoErrorKind::NoSpace),
            (122, IoErrorKind::NoSpace),
            (133, IoErrorKind::Poisoned),
            (11, IoErrorKind::WouldBlock),
            (4, IoErrorKind::Interrupted),
            (22, IoErrorKind::OutOfRange),
            (27, IoErrorKind::OutOfRange),
            (5, IoErrorKind::Io),
            (6, IoErrorKind::Io),
        ];
        for (errno, kind) in kinds {
            assert_eq!(IoError::from_errno(errno), IoError { kind, errno });
        }
    }

    #[test]
    fn what_is_shown_says_what_failed_and_with_which_errno() {
        assert_eq!(IoError::new(IoErrorKind::Poisoned).to_string(), "the storage is poisoned");
        assert_eq!(
            IoError::from_errno(28).to_string(),
            "no space left on the file system (errno 28)"
        );
        let all = [12, 28, 133, 11, 4, 22, 5].map(|errno| IoError::from_errno(errno).to_string());
        for (number, one) in all.iter().enumerate() {
            assert!(one.len() > 10 && !all[..number].contains(one), "{one}");
        }
        let failed = [
            InstallError::OutOfMemory,
            InstallError::NoHugeZero,
            InstallError::LevelTaken,
            InstallError::Media(IoError::from_errno(5)),
        ]
        .map(|error| error.to_string());
        assert_eq!(failed[3], "copying failed: input/output error (errno 5)");
        assert!(failed.iter().all(|text| text.len() > 10));
    }
}
