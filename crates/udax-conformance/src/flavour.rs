//! Which kernel and which file system a recording is of, and what they do that is their own choice and not the engine's.
//!
//! Glossary: a *habit* is something that a file system or the memory manager of one kernel does around DAX and that shows in a recording.

use std::fmt;
use std::str::FromStr;
use udax_core::Order;

/// A kernel that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// 5.10.
    V5_10,
    /// 6.1.
    V6_1,
    /// 6.12.
    V6_12,
}

/// A file system that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are theirs")]
pub enum FsKind {
    Ext4,
    Xfs,
}

/// What a recording is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flavour {
    /// The kernel.
    pub kernel: Kernel,
    /// The file system.
    pub fs: FsKind,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V5_10, Self::V6_1, Self::V6_12];
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        })
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux-{}/{}", self.kernel, self.fs)
    }
}

/// Not a kernel or file system that the rules know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFlavour(pub String);

impl fmt::Display for UnknownFlavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no kernel and file system that the rules know", self.0)
    }
}

impl std::error::Error for UnknownFlavour {}

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    /// From `linux-KERNEL/FS`.
    fn from_str(text: &str) -> Result<Self, UnknownFlavour> {
        let all = Kernel::ALL
            .into_iter()
            .flat_map(|kernel| [FsKind::Ext4, FsKind::Xfs].map(|fs| Self { kernel, fs }));
        all.into_iter()
            .find(|flavour| flavour.to_string() == text)
            .ok_or_else(|| UnknownFlavour(text.to_owned()))
    }
}

impl Flavour {
    /// The longest file, in bytes.
    #[must_use]
    pub fn largest_file(self) -> u64 {
        match self.fs {
            FsKind::Ext4 => u64::from(u32::MAX) << 12,
            FsKind::Xfs => i64::MAX as u64,
        }
    }

    /// Up to which size mprotect gives dirty translations of shared mappings the right to store back, without a fault.
    #[must_use]
    pub fn restores_stores_up_to(self) -> Order {
        if self.kernel == Kernel::V6_12 { Order::Pmd } else { Order::Pte }
    }

    /// Whether there is `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
    #[must_use]
    pub fn has_madv_populate(self) -> bool {
        self.kernel > Kernel::V5_10
    }

    /// Whether plain allocation takes every translation of the file down too: XFS looks for pinned pages before all modes.
    #[must_use]
    pub fn breaks_layouts_to_allocate(self) -> bool {
        self.fs == FsKind::Xfs
    }

    /// Whether cutting a file flushes the page of its new end first.
    #[must_use]
    pub fn flushes_new_end(self) -> bool {
        self.fs == FsKind::Xfs && self.kernel < Kernel::V6_12
    }

    /// Whether lengthening a file flushes the page of its old end.
    #[must_use]
    pub fn flushes_old_end(self) -> bool {
        self.fs == FsKind::Xfs
    }
}
