//! A file whose reads, writes and changes of length stay coherent with the mappings of it that this process has.

use crate::calls::WriteAt;
use crate::process::runtime;
use rustix::fs::FallocateFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// An open file. What it does to the file, every live mapping of it shows at once.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> Self {
        Self { file }
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl File {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Of open(2), naming the file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), std::fs::OpenOptions::new().read(true).write(true))
    }

    /// Opens a file for reading and writing; makes it if there is none.
    ///
    /// # Errors
    /// Of open(2), naming the file.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        Self::open_with(path.as_ref(), options.read(true).write(true).create(true).truncate(false))
    }

    fn open_with(path: &Path, options: &std::fs::OpenOptions) -> io::Result<Self> {
        let opened = options.open(path);
        opened.map(Self::from).map_err(|cause| named(&cause, &format!("open {}", path.display())))
    }

    fn failed(&self, cause: &io::Error, what: &str) -> io::Error {
        named(cause, &format!("{what} of {}", crate::descriptors::name_of(self.as_raw_fd())))
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// Of fstat(2).
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads at `offset`; fewer bytes at the end of the file. Holes read as zeros and stay holes.
    ///
    /// # Errors
    /// Of pread(2), naming file and range.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let _prepared = crate::prepare_to_be_written(into);
        let read = self.file.read_at(into, offset);
        read.map_err(|cause| self.failed(&cause, &format!("read {} bytes at {offset}", into.len())))
    }

    /// Writes at `offset`. Where a mapping showed zeros, it shows the file from before this starts.
    ///
    /// # Errors
    /// Of pwrite(2), naming file and range: no space, above all.
    pub fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize> {
        let at = WriteAt::Offset(offset);
        let _call = runtime().writing(self.as_raw_fd(), at, from.len() as u64);
        let _prepared = crate::prepare_to_be_read(from);
        let written = self.file.write_at(from, offset);
        written.map_err(|cause| {
            self.failed(&cause, &format!("write {} bytes at {offset}", from.len()))
        })
    }

    /// Sets the length. Mapped pages past a new end give `SIGBUS`, as the kernel's own mappings do.
    ///
    /// # Errors
    /// Of ftruncate(2), naming file and length.
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        let _call = runtime().changing_layout(self.as_raw_fd());
        let set = self.file.set_len(bytes);
        set.map_err(|cause| self.failed(&cause, &format!("set the length to {bytes}")))
    }

    /// Reserves storage, so that stores there cannot run out of space. The length stays, and so does what the file holds: what was a hole
    /// reads as zeros, and mappings go on showing it without memory of their own.
    ///
    /// The promise is the file system's: one that writes to a new place each time (btrfs, or shared storage on XFS) may need more space yet.
    /// After an error a part of the range may have been reserved, and stays so.
    ///
    /// # Errors
    /// Of fallocate(2), naming file and range: no space, a quota, or a range past the largest file.
    pub fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        // Nothing that is shown changes: zeros stay true (docs/concurrency.md).
        rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length).map_err(
            |errno| self.failed(&errno.into(), &format!("reserve {length} bytes at {offset}")),
        )
    }

    /// [`reserve`](Self::reserve), by the name of fallocate(2).
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.reserve(offset, length)
    }

    /// Gives storage back: the range reads as zeros and takes no space.
    ///
    /// # Errors
    /// Of fallocate(2), naming file and range.
    pub fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(flags, offset, length, "punch a hole")
    }

    fn fallocate(&self, flags: FallocateFlags, at: u64, length: u64, what: &str) -> io::Result<()> {
        let _call = runtime().changing_layout(self.as_raw_fd());
        rustix::fs::fallocate(&self.file, flags, at, length).map_err(|errno| {
            self.failed(&errno.into(), &format!("{what} of {length} bytes at {at}"))
        })
    }

    /// Makes everything written and stored so far durable.
    ///
    /// # Errors
    /// Of fdatasync(2), naming the file.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|cause| self.failed(&cause, "sync"))
    }
}

fn named(cause: &io::Error, what: &str) -> io::Error {
    io::Error::new(cause.kind(), format!("cannot {what}: {cause}"))
}
