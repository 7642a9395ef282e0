//! The world that the engine lives in here: files of mounted file systems, and the real address space.

use std::sync::Arc;
use udax_core::{IoError, World};
use udax_host::{HostFile, HostIo};
use udax_linux::{Errno, FileHandle, LinuxSpace, StdPlatform};

/// std's locks, host files, Linux's page tables.
pub(crate) struct HostWorld;

impl World for HostWorld {
    type Platform = StdPlatform;
    type Filesystem = HostFile;
    type Media = HostFile;
    type Space = LinuxSpace;
}

/// A mapping of the real world.
pub(crate) type Mapping = udax_core::Mapping<HostWorld>;
/// A VMA of the real world.
pub(crate) type Vma = udax_core::Vma<HostWorld>;

/// A file's descriptors, as the host file system's calls.
pub(crate) struct HandleIo(pub(crate) Arc<FileHandle>);

fn cause(errno: Errno) -> IoError {
    errno.io_error()
}

impl HostIo for HandleIo {
    fn size_bytes(&self) -> Result<u64, IoError> {
        self.0.size().map_err(cause)
    }

    fn allocated_bytes(&self) -> Result<u64, IoError> {
        self.0.blocks_bytes().map_err(cause)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, IoError> {
        self.0.seek_data(offset).map_err(cause)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, IoError> {
        self.0.seek_hole(offset).map_err(cause)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, IoError> {
        self.0.pread(into, offset).map_err(cause)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> Result<usize, IoError> {
        self.0.pwrite(from, offset).map_err(cause)
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        self.0.punch(offset, length_bytes).map_err(cause)
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        self.0.set_size(bytes).map_err(cause)
    }

    fn sync(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        self.0.sync_range(offset, length_bytes).map_err(cause)
    }
}
