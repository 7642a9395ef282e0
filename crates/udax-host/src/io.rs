//! What is asked of one open file, and the plain way to answer it.

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use udax_core::IoError;

/// One open regular file. Offsets and lengths are bytes.
///
/// "May wait for the inode lock" is the line that matters: write(2) holds that lock of the host kernel while it faults on its
/// source buffer. If the buffer is memory whose faults are served here, a serving thread that waits for the lock waits for
/// itself. [`crate::HostFile`] keeps to it; so must its callers.
pub trait HostIo: Send + Sync {
    /// The length. Never waits.
    ///
    /// # Errors
    /// What fstat(2) says.
    fn size_bytes(&self) -> Result<u64, IoError>;

    /// The storage it takes, the file system's own bookkeeping for it included. Never waits.
    ///
    /// # Errors
    /// What fstat(2) says.
    fn allocated_bytes(&self) -> Result<u64, IoError>;

    /// The first byte of data at or after `offset`; `None` if a hole goes to the end of the file from there. Must not move the
    /// position of a description that the program has. May wait for the inode lock.
    ///
    /// # Errors
    /// What lseek(2) says, `ENXIO` excepted.
    fn seek_data(&self, offset: u64) -> Result<Option<u64>, IoError>;

    /// The first byte of a hole at or after `offset`, the end of the file counting as one; `None` from the end on. Otherwise
    /// as [`seek_data`](Self::seek_data).
    ///
    /// # Errors
    /// What lseek(2) says, `ENXIO` excepted.
    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, IoError>;

    /// Reads at `offset`; 0 at the end of the file. May wait for the inode lock.
    ///
    /// # Errors
    /// What pread(2) says.
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, IoError>;

    /// Writes at `offset`, growing the file if need be. May wait for the inode lock.
    ///
    /// # Errors
    /// What pwrite(2) says.
    fn write_at(&self, from: &[u8], offset: u64) -> Result<usize, IoError>;

    /// Makes a hole, and leaves the length as it is. May wait for the inode lock.
    ///
    /// # Errors
    /// What fallocate(2) says.
    fn punch(&self, offset: u64, length_bytes: u64) -> Result<(), IoError>;

    /// Sets the length. May wait for the inode lock.
    ///
    /// # Errors
    /// What ftruncate(2) says.
    fn set_size(&self, bytes: u64) -> Result<(), IoError>;

    /// Makes at least these bytes durable, stores through mappings included, and what is needed to find them. May wait for the
    /// inode lock.
    ///
    /// # Errors
    /// What fdatasync(2) says.
    fn sync(&self, offset: u64, length_bytes: u64) -> Result<(), IoError>;
}

/// A file behind one descriptor of its own.
#[derive(Debug)]
pub struct FdIo {
    fd: OwnedFd,
}

impl FdIo {
    /// The file behind `fd`. The open file description must be nobody else's: looking for data moves its position.
    #[must_use]
    pub const fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    fn seek(&self, to: SeekFrom) -> Result<Option<u64>, IoError> {
        match rustix::fs::seek(&self.fd, to) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(failure(errno)),
        }
    }
}

const fn failure(errno: Errno) -> IoError {
    IoError::from_errno(errno.raw_os_error())
}

impl HostIo for FdIo {
    fn size_bytes(&self) -> Result<u64, IoError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(failure)?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn allocated_bytes(&self) -> Result<u64, IoError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(failure)?;
        // st_blocks counts 512 bytes each, whatever the block size is.
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, IoError> {
        self.seek(SeekFrom::Data(offset))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, IoError> {
        self.seek(SeekFrom::Hole(offset))
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, IoError> {
        rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *into, offset))
            .map_err(failure)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> Result<usize, IoError> {
        rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.fd, from, offset)).map_err(failure)
    }

    fn punch(&self, offset: u64, length_bytes: u64) -> Result<(), IoError> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, how, offset, length_bytes).map_err(failure)
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        rustix::fs::ftruncate(&self.fd, bytes).map_err(failure)
    }

    fn sync(&self, _offset: u64, _length_bytes: u64) -> Result<(), IoError> {
        // No call on a descriptor makes a part of a file durable: sync_file_range leaves out the metadata and the device's
        // own cache.
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.fd)).map_err(failure)
    }
}
