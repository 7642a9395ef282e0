//! The ways to have memory that are compared.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use udax::{MmapOptions, SharedMap};
use udax_linux::{Mapped, Prot, Sharing};

/// A way to have memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// The kernel's own mapping of the file.
    Plain,
    /// udax.
    Udax,
    /// Memory without a file, for which the kernel has the least to do.
    Floor,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Udax, Self::Floor];
}

/// Memory as the patterns use it. The same code for every way, so that only what is behind it differs.
pub(super) trait Memory: Sync {
    fn load(&self, at: usize, into: &mut [u8]);
    fn store(&self, at: usize, from: &[u8]);
    /// msync(2) of all of it.
    fn sync(&self) -> anyhow::Result<()>;
    fn length(&self) -> usize;
}

impl Memory for Mapped {
    #[inline]
    fn load(&self, at: usize, into: &mut [u8]) {
        Self::load(self, at, into);
    }

    #[inline]
    fn store(&self, at: usize, from: &[u8]) {
        Self::store(self, at, from);
    }

    fn sync(&self) -> anyhow::Result<()> {
        const MS_SYNC: i32 = 4;
        self.msync(0, self.length_bytes(), MS_SYNC)
            .map_err(|errno| anyhow::anyhow!("cannot msync {} bytes: {errno}", self.length()))
    }

    fn length(&self) -> usize {
        self.length_bytes()
    }
}

impl Memory for SharedMap {
    #[inline]
    fn load(&self, at: usize, into: &mut [u8]) {
        Self::load(self, at, into);
    }

    #[inline]
    fn store(&self, at: usize, from: &[u8]) {
        Self::store(self, at, from);
    }

    fn sync(&self) -> anyhow::Result<()> {
        self.flush().context("cannot flush")
    }

    fn length(&self) -> usize {
        self.addresses().len()
    }
}

const READ_WRITE: i32 = 3;

/// The kernel's own mapping of a whole file.
pub(super) fn plain(file: &File) -> anyhow::Result<Mapped> {
    let length = usize::try_from(file.metadata()?.len())?;
    Mapped::new(file.as_raw_fd(), 0, length, Sharing::Shared, Prot::from_bits(READ_WRITE), 0)
        .map_err(|errno| anyhow::anyhow!("cannot map {length} bytes: {errno}"))
}

/// The same through udax.
pub(super) fn udax(file: &File) -> anyhow::Result<SharedMap> {
    MmapOptions::new().map_shared(file).context("cannot map through udax")
}

/// As much memory without a file.
pub(super) fn floor(file: &File, huge_pages: bool) -> anyhow::Result<Mapped> {
    let length = usize::try_from(file.metadata()?.len())?;
    Mapped::anonymous(length, huge_pages)
        .map_err(|errno| anyhow::anyhow!("cannot have {length} bytes of memory: {errno}"))
}
